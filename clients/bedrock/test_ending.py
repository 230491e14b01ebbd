"""SIGTERM: the running job is finished, and nobody who does nothing can hold the end up."""

import json
import socket
import ssl
import time
import unittest
from contextlib import ExitStack

from . import certificates, fleet, raw
from .sdk import SHORT, SLOW, client, draw, drawn

BODY = json.dumps(SLOW).encode()

# The spec's minute, less what a busy machine may need.
SOON = 30

# Openings of connections that are then left as they are.
HALF_SENT = {
    "nothing": b"",
    "half a head": b"POST /model/x/invoke HTTP/1.1\r\nHost: ",
    "half a body": b"POST /model/x/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    "half a chunk": b"POST /model/x/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "HTTP/2's greeting": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "half of HTTP/2's greeting": b"PRI * HT",
}


class Ending(unittest.TestCase):
    def start(self, config="threads = 1", **options):
        server = fleet.Server(fleet.binary(), config, **options).start()
        self.addCleanup(server.end)
        return server

    def ends_soon(self, server):
        start = time.monotonic()
        self.assertEqual(server.end(), 0)
        self.assertLess(time.monotonic() - start, SOON)

    def takes_connections(self, server):
        try:
            open_connection(server, b"").close()
            return True
        except ConnectionResetError:
            return True  # It was in the backlog when the port was closed.
        except ConnectionRefusedError:
            return False

    def test_a_running_job_and_idle_connections(self):
        server = self.start()
        draw(client(server.target), SHORT)
        with ExitStack() as stack:
            connections = [stack.enter_context(open_connection(server, opening)) for opening in HALF_SENT.values()]
            kept = stack.enter_context(raw.sent(server.target, json.dumps(SHORT).encode()))
            self.assertEqual(raw.answer_on(kept).status, 200)
            running = stack.enter_context(raw.sent(server.target, BODY))
            server.target.until("pentimento_jobs_running", 1)
            server.ask_to_end()
            self.assertEqual(drawn({}, raw.answer_on(running).body).picture.size, (512, 512))
            self.ends_soon(server)
            self.assertEqual(len(connections), len(HALF_SENT))

    def test_a_peer_that_takes_no_answer(self):
        server = self.start()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(server.target.address)
            headers = raw.signed_headers(server.target, json.dumps(SHORT).encode())
            for _ in range(20):
                deaf.sendall(raw.request_bytes(json.dumps(SHORT).encode(), headers=headers))
            server.target.until("pentimento_jobs_running", 0)
            self.ends_soon(server)

    def test_half_a_tls_handshake(self):
        key, certificate = certificates.self_signed()
        config = '[tls]\ncertificate = "server.crt"\nkey = "server.key"'
        server = self.start(config, files={"server.crt": certificate, "server.key": key})
        context = ssl.create_default_context(cadata=certificate.decode())
        context.set_alpn_protocols(["h2"])
        with open_connection(server, b"\x16\x03\x01"), open_connection(server, b"") as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                self.assertEqual(secured.selected_alpn_protocol(), "h2")
                self.ends_soon(server)

    def test_a_client_that_leaves_as_the_server_ends(self):
        server = self.start()
        with raw.sent(server.target, BODY):
            server.target.until("pentimento_jobs_running", 1)
            server.ask_to_end()
        self.ends_soon(server)

    def test_the_port_is_closed_while_the_job_runs(self):
        server = self.start()
        with raw.sent(server.target, BODY) as running:
            server.target.until("pentimento_jobs_running", 1)
            server.ask_to_end()
            while self.takes_connections(server):
                pass
            self.assertEqual(raw.answer_on(running).status, 200)
        self.ends_soon(server)


def open_connection(server, opening):
    connection = socket.create_connection(server.target.address, timeout=10)
    connection.sendall(opening)
    return connection
