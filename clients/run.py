"""Runs the vendors' own clients against a server.

    python clients/run.py PATH/TO/pentimento [SUITE ...]

Starts the servers, runs the suites (all, or those named), each with the client that it is about, and ends the servers.
Prints a line per test and a closing `N passed, N failed`. `cargo xtask test` sets up what is needed: `.venv`, `.venv-old`
and `node_modules`. Nothing but loopback is talked to.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bedrock import certificates, fleet
from bedrock.report import Tally

HERE = Path(__file__).resolve().parent

PYTHON = "Scripts/python.exe" if os.name == "nt" else "bin/python"
CURRENT = [HERE / ".venv" / PYTHON, "-m", "bedrock.report"]
OLD = [HERE / ".venv-old" / PYTHON, "-m", "bedrock.report"]
VOLCENGINE = [HERE / ".venv-volcengine" / PYTHON, "-m", "bedrock.report"]
NODE = ["node", "--test-reporter=./bedrock/node/reporter.mjs", "--test"]

# The last one looks at what the others left behind.
SUITES = {
    "boto3": [*CURRENT, "test_boto3", "test_errors"],
    "boto3-old": [*OLD, "test_boto3", "test_errors"],
    "js": [*NODE, "bedrock/node/pictures.test.mjs"],
    "js-errors": [*NODE, "bedrock/node/errors.test.mjs"],
    "tls": [*CURRENT, "test_tls"],
    "js-tls": [*NODE, "bedrock/node/tls.test.mjs"],
    "cli": [*CURRENT, "test_cli"],
    "litellm": [*CURRENT, "test_litellm"],
    "welcome": [*CURRENT, "test_welcome"],
    "malformed": [*CURRENT, "test_malformed"],
    "retries": [*CURRENT, "test_retries"],
    "volcengine": [*VOLCENGINE, "volc.test_visual"],
    "volcengine-sdk": [*VOLCENGINE, "volc.test_core"],
    "volcengine-js": [*NODE, "volc/node/visual.test.mjs"],
    "both-clouds": [*VOLCENGINE, "volc.test_both"],
    "ending": [*CURRENT, "test_ending"],
    "secrets": [*CURRENT, "test_secrets"],
}


def main():
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    binary, names = str(Path(sys.argv[1]).resolve()), sys.argv[2:] or list(SUITES)
    if unknown := set(names) - set(SUITES):
        sys.exit(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    for name in names:
        if not shutil.which(SUITES[name][0]):
            sys.exit(f"{name} needs {SUITES[name][0]}, which is not there: cargo xtask test sets it up")
    start, tally = time.monotonic(), Tally()
    key, certificate = certificates.self_signed()
    servers = {}
    try:
        for name, config in fleet.FLEET.items():
            files = {"server.key": key, "server.crt": certificate}
            environment = {**fleet.CREDENTIALS, "RUST_LOG": "debug"}
            server = fleet.Server(binary, config, ("--log-format", "json"), environment, files)
            servers[name] = server.start()
        trusted = Path(servers["tls"].folder.name) / "server.crt"
        environment = environment_of_suites(fleet.describe(binary, servers, str(trusted)), trusted)
        for name in names:
            run_suite(name, environment, tally)
    finally:
        for name, server in servers.items():
            tally.check(f"servers: {name} ends with code 0", server.end(), 0)
    print(f"{tally.passed} passed, {tally.failed} failed ({time.monotonic() - start:.0f} s)")
    return 1 if tally.failed else 0


def environment_of_suites(told, trusted):
    """The environment without anything by which a client would look for settings, credentials or a proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith(("AWS_", "PENTIMENTO_", "LITELLM_"))
    }
    nowhere = str(trusted.parent / "nowhere")
    return {
        **kept,
        **told,
        "NO_PROXY": "*",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NODE_EXTRA_CA_CERTS": str(trusted),
        # Without it the prices of models are fetched from the network.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NODE_NO_WARNINGS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
    }


def run_suite(name, environment, tally):
    """Runs a suite, prints its lines under its name, and adds up."""
    print(f"== {name}", flush=True)
    command = [str(word) for word in SUITES[name]]
    before = tally.passed + tally.failed
    with subprocess.Popen(
        command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as suite:
        for line in suite.stdout:
            tally.count(line)
            print(line, end="", flush=True)
    ran = tally.passed + tally.failed - before
    # A suite that falls over before its first test is a failure too.
    if ran == 0 or (suite.returncode != 0 and tally.failed == 0):
        tally.check(f"{name}: ran {ran} tests and ended with code", suite.returncode, 0 if ran else "0 after a test")


if __name__ == "__main__":
    sys.exit(main())
