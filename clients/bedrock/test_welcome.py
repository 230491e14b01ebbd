"""A server without credentials: what it prints can be pasted, and works."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from botocore import UNSIGNED

from . import fleet, pictures
from .sdk import SHORT, client, draw


class Welcome(unittest.TestCase):
    def setUp(self):
        self.server = fleet.Server(fleet.binary(), environment={}).start()
        self.addCleanup(lambda: self.assertEqual(self.server.end(), 0))
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def printed(self):
        """The rest of what the server printed, up to the line that closes the second example."""
        lines = []
        while not lines or "open(\"strawberry.png\"" not in lines[-1] or "python3 -c" not in "".join(lines):
            lines.append(self.server.process.stdout.readline())
        return "".join(lines)

    def run_pasted(self, command, text):
        # The interpreter's own folder comes first, for `python3` and `aws`.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path}
        run = subprocess.run(
            command, input=text, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        file = self.folder / "strawberry.png"
        self.assertEqual(pictures.opened(file.read_bytes()).size, (1024, 1024))
        file.unlink()

    def test_the_examples_work(self):
        printed = self.printed()
        python, shell = printed.split("From a shell (pip install awscli):")
        self.run_pasted([sys.executable, "-"], python.split("From Python (pip install boto3):")[1])
        self.run_pasted(["bash", "-e"], shell)


class Open(unittest.TestCase):
    def test_everybody_is_answered_where_that_was_asked_for(self):
        server = fleet.Server(fleet.binary(), options=("--no-auth",)).start()
        self.addCleanup(lambda: self.assertEqual(server.end(), 0))
        draw(client(server.target, signature_version=UNSIGNED), SHORT)
        draw(client(server.target, secret="anything"), SHORT)
