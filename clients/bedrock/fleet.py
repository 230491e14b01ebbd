"""Servers under test: started on free ports with known credentials, ended by SIGTERM.

`run.py` starts the `FLEET` and tells every suite about it through one environment variable; a suite that ends a server
itself starts one of its own.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ACCESS_KEY = "AKIDPENTIMENTOCLIENT"
SECRET_KEY = "clients-secret-that-no-log-may-hold"
API_KEY = "clients-bearer-key-that-no-log-may-hold"

CREDENTIALS = {
    "PENTIMENTO_ACCESS_KEY_ID": ACCESS_KEY,
    "PENTIMENTO_SECRET_ACCESS_KEY": SECRET_KEY,
    "PENTIMENTO_API_KEYS": f"another-key-of-nobody,{API_KEY}",
}

# One thread where a test needs a job that takes a while, on large machines as well.
FLEET = {
    "plain": "",
    "tls": '[tls]\ncertificate = "server.crt"\nkey = "server.key"',
    # One picture is drawn, one waits. Clients that time out may come back for their picture.
    "narrow": "threads = 1\n[limits]\nqueue = 1\n[connections]\nretry_grace_seconds = 20",
    "impatient": "threads = 1\n[limits]\ndeadline_seconds = 0.2",
    # Answers begin early and beat, and the picture arrives.
    "beating": "threads = 1\n[connections]\nkeep_alive_after_seconds = 0.05\nkeep_alive_every_seconds = 0.05",
    # Answers begin early, and fail after that.
    "late": "threads = 1\n[limits]\ndeadline_seconds = 0.3\n"
    "[connections]\nkeep_alive_after_seconds = 0.05\nkeep_alive_every_seconds = 0.05",
    "strict": "[bedrock]\nnine_sizes_only = true\nrefuse_unknown_keys = true",
}

VARIABLE = "PENTIMENTO_CLIENTS"
START_TIME = 120
END_TIME = 60


@dataclass
class Target:
    """A running server as the suites see it."""

    url: str
    log: str

    @property
    def address(self):
        host, port = self.url.split("//")[1].split(":")
        return host, int(port)

    def page(self, path):
        """One of the server's own pages."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + path, timeout=10) as reply:
            return reply.read().decode()

    def metric(self, name, **labels):
        """The sum of the samples of this name with these labels; 0 where there is none."""
        total = 0.0
        for line in self.page("/metrics").splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.split("{")[0] == name and all(f'{key}="{value}"' in sample for key, value in labels.items()):
                total += float(value)
        return total

    def until(self, name, value, seconds=20.0, **labels):
        """Waits until a metric has a value, and answers how long that took."""
        start = time.monotonic()
        while (now := self.metric(name, **labels)) != value:
            waited = time.monotonic() - start
            assert waited < seconds, f"{name} is {now}, not {value}, after {waited:.1f} s"
            time.sleep(0.02)
        return time.monotonic() - start

    def is_idle(self):
        """Waits until nothing is drawn and nothing waits."""
        self.until("pentimento_queue_length", 0, 60)
        self.until("pentimento_jobs_running", 0, 60)


@dataclass
class Server:
    """A server process of ours."""

    binary: str
    config: str = ""
    options: tuple = ()
    environment: dict = field(default_factory=lambda: CREDENTIALS)
    files: dict = field(default_factory=dict)
    asked: bool = False

    def start(self):
        self.folder = tempfile.TemporaryDirectory(prefix="pentimento-clients-")
        folder = Path(self.folder.name)
        for name, content in {**self.files, "server.toml": self.config.encode()}.items():
            (folder / name).write_bytes(content)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENTIMENTO_")}
        log = folder / "log.txt"
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--listen", "127.0.0.1:0", "--config", folder / "server.toml", *self.options],
                env={**inherited, "XDG_DATA_HOME": str(folder / "data"), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        watchdog = threading.Timer(START_TIME, self.process.kill)
        watchdog.start()
        first = self.process.stdout.readline()
        watchdog.cancel()
        if not first.startswith("listening on "):
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the server did not start: {first}{log.read_text()}")
        self.target = Target(first.split()[-1], str(log))
        return self

    def ask_to_end(self):
        """Asks once; a second signal would end it at once."""
        if not self.asked and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.asked = True

    def end(self):
        """Asks it to end and answers its exit code; a server that does not end is killed."""
        self.ask_to_end()
        try:
            return self.process.wait(END_TIME)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "none: it had to be killed"
        finally:
            self.process.stdout.close()

    def log(self):
        return Path(self.target.log).read_text()


def describe(binary, servers, certificate):
    """What suites are told, as the environment carries it."""
    targets = {name: [server.target.url, server.target.log] for name, server in servers.items()}
    return {VARIABLE: json.dumps({"binary": binary, "certificate": certificate, "targets": targets})}


def _told():
    return json.loads(os.environ[VARIABLE])


def target(name):
    """The server of this name in the fleet."""
    return Target(*_told()["targets"][name])


def targets():
    return {name: Target(*about) for name, about in _told()["targets"].items()}


def binary():
    """The program under test."""
    return _told()["binary"]


def certificate():
    """The file that holds the TLS server's certificate."""
    return _told()["certificate"]
