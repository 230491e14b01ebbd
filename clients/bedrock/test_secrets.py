"""What the servers wrote while the other suites ran: their logs at the level `debug`, and their metrics."""

import json
import unittest
from pathlib import Path

from . import fleet, raw
from .pictures import PROMPTS
from .sdk import SHORT, client, draw

# Base64 of a picture's first bytes, and of a JSON object's.
FORBIDDEN = {
    "the secret key": fleet.SECRET_KEY,
    "a bearer key": fleet.API_KEY,
    "a prompt": PROMPTS[0]["text"],
    "a prompt's end": PROMPTS[0]["text"][-25:],
    "a PNG file": "iVBORw0KGgo",
    "a signature": "Signature=",
}


class Secrets(unittest.TestCase):
    def setUp(self):
        # At least one request of each kind, if this suite runs alone.
        plain = fleet.target("plain")
        draw(client(plain), SHORT)
        head = raw.request_bytes(b"", headers={"authorization": f"Bearer {fleet.API_KEY}", "content-length": "0"})
        self.assertEqual(raw.exchange(plain.address, head).status, 400)

    def test_logs_hold_none(self):
        for name, target in fleet.targets().items():
            with self.subTest(name):
                log = Path(target.log).read_text()
                self.assertIn("listening", log)
                self.holds_none(log, FORBIDDEN)

    def test_metrics_hold_none(self):
        for name, target in fleet.targets().items():
            if target.url.startswith("https"):
                continue
            with self.subTest(name):
                metrics = target.page("/metrics")
                self.assertIn("pentimento_queue_length", metrics)
                self.holds_none(metrics, {**FORBIDDEN, "an access key": fleet.ACCESS_KEY})

    def holds_none(self, text, forbidden):
        for what, words in forbidden.items():
            before, found, _ = text.partition(words)
            self.assertFalse(found, f"{what} stands after: {before[-120:]}")

    def test_the_log_is_json_and_tells_of_requests(self):
        lines = [json.loads(line) for line in Path(fleet.target("plain").log).read_text().splitlines()]
        requests = [line["fields"] for line in lines if line["fields"].get("message") == "request"]
        drawn = [request for request in requests if request["status"] == 200]
        self.assertTrue(drawn and drawn[-1]["request_id"] and drawn[-1]["protocol"] == "bedrock")

