"""boto3 as old code uses it, of whichever version is installed."""

import base64
import json
from dataclasses import dataclass

import boto3
from botocore.config import Config

from . import pictures
from .fleet import ACCESS_KEY, SECRET_KEY

MODEL = "stability.stable-diffusion-xl-v1"

# A job that is running for a while, and one for long: the latter is for tests that do not wait for its end.
SLOW = {"text_prompts": pictures.PROMPTS, "width": 512, "height": 512, "steps": 30}
LONG = {**SLOW, "steps": 50}
# One step of ten, on a small picture.
SHORT = {
    "text_prompts": pictures.PROMPTS,
    "init_image": pictures.encoded(pictures.stripes(64, 64)),
    "image_strength": 0.9,
    "steps": 10,
}


def client(server, access_key=ACCESS_KEY, secret=SECRET_KEY, attempts=1, verify=None, token=None, **config):
    """A client for a server."""
    # "total" counts the first attempt as well.
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        verify=verify,
        config=Config(retries=retries, **config),
    )


@dataclass
class Drawn:
    """A picture that came back."""

    file: bytes
    seed: int
    reply: dict

    @property
    def picture(self):
        return pictures.opened(self.file)


def draw(bedrock, body, model=MODEL, **parameters):
    """InvokeModel, its answer checked as old code checks it."""
    reply = bedrock.invoke_model(modelId=model, body=json.dumps(body), **parameters)
    return drawn(reply, reply["body"].read())


def drawn(reply, body):
    """The picture in an answer's JSON."""
    answer = json.loads(body)
    assert answer["result"] == "success", answer
    [artifact] = answer["artifacts"]
    assert artifact["finishReason"] == "SUCCESS", artifact["finishReason"]
    return Drawn(base64.b64decode(artifact["base64"], validate=True), artifact["seed"], reply)
