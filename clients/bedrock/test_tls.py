"""boto3 over TLS: signed, and with a bearer key, which it sends over TLS only."""

import os
import unittest
from unittest import mock

from botocore.exceptions import ClientError, SSLError

from . import fleet
from .sdk import SHORT, client, draw


class Tls(unittest.TestCase):
    server = property(lambda self: fleet.target("tls"))

    def client(self, **options):
        return client(self.server, verify=fleet.certificate(), **options)

    def with_bearer_key(self, key):
        with mock.patch.dict(os.environ, {"AWS_BEARER_TOKEN_BEDROCK": key}):
            return draw(self.client(access_key=None, secret=None), SHORT)

    def test_a_signed_request(self):
        self.assertTrue(self.server.url.startswith("https://"))
        self.assertEqual(draw(self.client(), SHORT).picture.size, (64, 64))

    def test_a_certificate_that_nobody_vouches_for(self):
        with self.assertRaises(SSLError):
            draw(client(self.server), SHORT)

    def test_a_bearer_key(self):
        self.assertEqual(self.with_bearer_key(fleet.API_KEY).picture.size, (64, 64))

    def test_a_wrong_bearer_key(self):
        for key in ["wrong", fleet.API_KEY + "x", fleet.SECRET_KEY]:
            with self.assertRaises(ClientError) as caught:
                self.with_bearer_key(key)
            told = caught.exception.response["Error"]
            self.assertEqual(told["Code"], "AccessDeniedException")
            self.assertIn("Please make sure your API Key is valid", told["Message"])
