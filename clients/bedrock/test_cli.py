"""aws-cli v1."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from . import fleet
from .sdk import MODEL, SHORT, drawn


class Cli(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def aws(self, body, secret=fleet.SECRET_KEY, model=MODEL):
        (self.folder / "body.json").write_text(json.dumps(body))
        command = [sys.executable, "-m", "awscli", "bedrock-runtime", "invoke-model", "--region", "us-east-1"]
        command += ["--endpoint-url", fleet.target("plain").url, "--model-id", model]
        command += ["--body", "fileb://body.json", "answer.json"]
        keys = {"AWS_ACCESS_KEY_ID": fleet.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
        environment = {**os.environ, **keys}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)

    def answer(self):
        return drawn({}, (self.folder / "answer.json").read_bytes())

    def test_a_picture(self):
        done = self.aws({**SHORT, "seed": 12}, model=f"{MODEL}:0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["contentType"], "application/json")
        self.assertEqual((self.answer().picture.size, self.answer().seed), ((64, 64), 12))


    def test_errors(self):
        table = [
            ("ValidationException", "#/steps: 9 is not greater", {"body": {**SHORT, "steps": 9}}),
            ("InvalidSignatureException", "does not match", {"body": SHORT, "secret": "wrong"}),
            ("ValidationException", "model identifier is invalid", {"body": SHORT, "model": "nobody.nothing"}),
        ]
        for code, text, request in table:
            with self.subTest(code):
                done = self.aws(**request)
                self.assertGreater(done.returncode, 0)
                self.assertIn(f"An error occurred ({code}) when calling the InvokeModel operation", done.stderr)
                self.assertIn(text, done.stderr)
