"""LiteLLM, which still knows the model, and signs and writes requests by itself."""

import base64
import unittest

import litellm

from . import fleet, pictures

litellm.suppress_debug_info = True


class LiteLlm(unittest.TestCase):
    def ask(self, **options):
        defaults = {
            "aws_access_key_id": fleet.ACCESS_KEY,
            "aws_secret_access_key": fleet.SECRET_KEY,
            "size": "512x512",
            "steps": 10,
        }
        return litellm.image_generation(
            model="bedrock/stability.stable-diffusion-xl-v1",
            prompt="a strawberry\non a white background, 3d model",
            aws_region_name="us-east-1",
            aws_bedrock_runtime_endpoint=fleet.target("plain").url,
            num_retries=0,
            **{**defaults, **options},
        )

    def picture(self, **options):
        [image] = self.ask(**options).data
        return pictures.opened(base64.b64decode(image.b64_json))

    def test_a_picture(self):
        self.assertEqual(self.picture().size, (512, 512))

    def test_fields_are_passed_through(self):
        one, other = (self.picture(seed=4, cfg_scale=3, style_preset="3d-model", size="640x448") for _ in range(2))
        self.assertEqual((one.size, one.tobytes()), ((640, 448), other.tobytes()))

    def test_a_bearer_key(self):
        keys = {"aws_access_key_id": None, "aws_secret_access_key": None, "api_key": fleet.API_KEY}
        self.assertEqual(self.picture(**keys).size, (512, 512))

    def test_errors(self):
        with self.assertRaises(litellm.exceptions.BadRequestError) as caught:
            self.ask(steps=5)
        self.assertIn("#/steps: 5 is not greater or equal to 10", str(caught.exception))
        for keys in [{"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "AKIDNO"}]:
            with self.subTest(keys), self.assertRaises(Exception) as caught:
                self.ask(**keys)
            self.assertEqual(caught.exception.status_code, 403)
