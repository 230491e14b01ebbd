"""HTTP/1.1 and SigV4 by hand, for requests that no SDK would send."""

import hashlib
import hmac
import json
import socket
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import quote

from .fleet import ACCESS_KEY, SECRET_KEY
from .sdk import LONG, MODEL

INVOKE = f"/model/{MODEL}/invoke"
STREAM = f"/model/{MODEL}/invoke-with-response-stream"

TIMEOUT = 60


@dataclass
class Reply:
    """An answer; status 0 stands for a connection that was closed without one."""

    status: int
    headers: dict
    body: bytes

    @property
    def error(self):
        """The exception's name, as clients read it."""
        return self.headers.get("x-amzn-errortype", "").split(":")[0]

    @property
    def message(self):
        try:
            told = json.loads(self.body)
            return told.get("message") or told.get("Message") or ""
        except (ValueError, AttributeError):
            return self.body.decode(errors="replace")


def exchange(address, request, half_close=False):
    """Sends bytes and reads one answer."""
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        try:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:
            pass  # The server may have answered and closed before it read everything.
        return answer_on(connection)


def answer_on(connection):
    """Reads one answer from a connection."""
    response = HTTPResponse(connection)
    try:
        response.begin()
        body = response.read()
    except (HTTPException, ConnectionError, ValueError):
        return Reply(0, {}, b"")
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def request_bytes(body, target=INVOKE, headers=None, method="POST", version="HTTP/1.1"):
    """A request as it is sent. Header values may be anything."""
    lines = [f"{method} {target} {version}"] + [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def ask(server, body, target=INVOKE, headers=None, **signing):
    """A signed request and its answer."""
    signed = signed_headers(server, body, target, headers, **signing)
    return exchange(server.address, request_bytes(body, target, signed))


def signed_headers(
    server,
    body,
    target=INVOKE,
    headers=None,
    method="POST",
    key=ACCESS_KEY,
    secret=SECRET_KEY,
    now=None,
    service="bedrock",
    terminator="aws4_request",
    day=None,
    names=("host", "x-amz-date"),
):
    """The headers of a signed request, `Content-Length` included."""
    instant = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {"host": "%s:%d" % server.address, "x-amz-date": instant, **(headers or {})}
    path, _, query = target.partition("?")
    body_hash = sent.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    lines = [method, quote(path, safe="/-_.~"), query]
    lines += [f"{name}:{' '.join(sent[name].split())}" for name in names]
    lines += ["", ";".join(names), body_hash]
    scope = f"{day or instant[:8]}/us-east-1/{service}/{terminator}"
    canonical = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{instant}\n{scope}\n{canonical}"
    signature = _hmac(_signing_key(secret, scope), to_sign).hex()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return {**sent, "content-length": str(len(body))}


def _signing_key(secret, scope):
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


@contextmanager
def occupying(server, jobs):
    """Keeps a server busy with so many long jobs: one is drawn, the others wait. They are left at the end."""
    with ExitStack() as stack:
        for place in range(jobs):
            body = json.dumps({**LONG, "seed": 1000 + place}).encode()
            stack.enter_context(sent(server, body))
            server.until("pentimento_jobs_running", 1)
            server.until("pentimento_queue_length", place)
        yield


@contextmanager
def sent(server, body, **parts):
    """A connection on which a signed request was sent, and nothing was read yet."""
    headers = signed_headers(server, body, **parts)
    with socket.create_connection(server.address, timeout=TIMEOUT) as connection:
        connection.sendall(request_bytes(body, parts.get("target", INVOKE), headers))
        yield connection
