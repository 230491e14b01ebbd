"""Errors as boto3's exception classes."""

import json
import threading
import time
import unittest
from datetime import datetime, timedelta, timezone
from unittest import mock

import botocore.auth
from botocore import UNSIGNED
from botocore.exceptions import ClientError, EventStreamError

from . import fleet, raw
from .pictures import PROMPTS, box_mask, encoded, stripes
from .sdk import LONG, MODEL, SHORT, SLOW, client, draw



class Errors(unittest.TestCase):
    def raises(self, code, status, bedrock, body, text="", model=MODEL, **parameters):
        """Checks class, code, status and message of the exception."""
        with self.assertRaises(ClientError) as caught:
            draw(bedrock, body, model, **parameters)
        self.is_error(caught.exception, code, status, text)
        modelled = getattr(bedrock.exceptions, code, None) if code in bedrock.meta.service_model.shape_names else None
        if modelled:
            self.assertIsInstance(caught.exception, modelled)

    def is_error(self, error, code, status, text):
        told = error.response["Error"]
        self.assertEqual((told["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]), (code, status), error)
        self.assertIn(text, told["Message"])
        self.assertTrue(error.response["ResponseMetadata"]["RequestId"])


class Validation(Errors):
    @classmethod
    def setUpClass(cls):
        cls.bedrock = client(fleet.target("plain"))

    def refused(self, text, body, **parameters):
        self.raises("ValidationException", 400, self.bedrock, body, text, **parameters)

    def test_a_missing_key(self):
        self.refused("Malformed input request: #: required key [text_prompts] not found, please reformat", {})

    def test_a_value_out_of_range(self):
        self.refused("#/steps: 5 is not greater or equal to 10", {**SHORT, "steps": 5})

    def test_an_unknown_name(self):
        self.refused("#/sampler: K_FOO is not a valid enum value", {**SHORT, "sampler": "K_FOO"})

    def test_a_null(self):
        self.refused("#/seed: expected type: Integer, found: Null", {**SHORT, "seed": None})

    def test_a_size_that_is_no_multiple_of_64(self):
        self.refused("#/width: 500 is not a multiple of 64", {"text_prompts": PROMPTS, "width": 500, "height": 512})

    def test_base64_that_is_none(self):
        self.refused("invalid_base64", {**SHORT, "init_image": "?"})

    def test_a_mask_of_another_size(self):
        mask = {"mask_source": "MASK_IMAGE_WHITE", "mask_image": encoded(box_mask(128, 64, (0, 0, 9, 9)))}
        self.refused("(400, 'invalid_image_dimensions', '", {**SHORT, **mask})

    def test_an_unknown_model(self):
        self.refused("The provided model identifier is invalid.", SHORT, model="anthropic.claude-v2")

    def test_content_types(self):
        self.refused("The provided Content Type is invalid", SHORT, contentType="text/plain")
        self.refused("The provided Accept Type is invalid", SHORT, accept="image/jpeg")

    def test_a_body_that_is_no_json(self):
        with self.assertRaises(self.bedrock.exceptions.ValidationException) as caught:
            self.bedrock.invoke_model(modelId=MODEL, body=b"{")
        text = "Malformed input request, please reformat your input and try again."
        self.is_error(caught.exception, "ValidationException", 400, text)

    def test_a_body_that_is_too_large(self):
        self.raises("ValidationException", 413, self.bedrock, {**SHORT, "extras": {"x": "x" * 26_000_000}}, "25000000")

    def test_the_stream_is_refused_before_it_begins(self):
        with self.assertRaises(self.bedrock.exceptions.ValidationException) as caught:
            self.bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps({**SHORT, "steps": 51}))
        self.is_error(caught.exception, "ValidationException", 400, "#/steps: 51 is not less or equal to 50")

    def test_the_strict_settings(self):
        strict = client(fleet.target("strict"))
        nine = "the allowed dimensions are 1024x1024, 1152x896"
        self.raises("ValidationException", 400, strict, {"text_prompts": PROMPTS, "width": 512, "height": 512}, nine)
        self.raises("ValidationException", 400, strict, SHORT, nine)
        unknown = {"text_prompts": PROMPTS, "frequency": 1}
        self.raises("ValidationException", 400, strict, unknown, "#: extraneous key [frequency] is not permitted")


class Callers(Errors):
    def denied(self, code, text, status=403, **options):
        self.raises(code, status, client(fleet.target("plain"), **options), SHORT, text)

    def test_no_signature(self):
        self.denied("AccessDeniedException", "Authorization header is missing", signature_version=UNSIGNED)

    def test_an_unknown_access_key(self):
        self.denied("UnrecognizedClientException", "The security token included in the request", access_key="AKIDNO")

    def test_a_wrong_secret(self):
        self.denied("InvalidSignatureException", "The request signature we calculated does not", secret="wrong")

    def test_a_clock_that_is_slow(self):
        with clock_off_by(minutes=-6):
            self.denied("InvalidSignatureException", "Signature expired: ")

    def test_a_clock_that_is_fast(self):
        with clock_off_by(minutes=6):
            self.denied("InvalidSignatureException", "Signature not yet current: ")

    def test_a_clock_within_the_window(self):
        with clock_off_by(minutes=-4):
            draw(client(fleet.target("plain")), SHORT)

    def test_the_stream_is_closed_to_strangers(self):
        bedrock = client(fleet.target("plain"), secret="wrong")
        with self.assertRaises(ClientError) as caught:
            bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(SHORT))
        self.is_error(caught.exception, "InvalidSignatureException", 403, "")


class Operations(Errors):
    def test_an_operation_that_there_is_not(self):
        bedrock = client(fleet.target("plain"))
        if not hasattr(bedrock, "converse"):
            self.skipTest("this client knows no other operation")
        with self.assertRaises(ClientError) as caught:
            bedrock.converse(modelId=MODEL, messages=[{"role": "user", "content": [{"text": "hello"}]}])
        self.is_error(caught.exception, "UnknownOperationException", 404, "There is no such operation")


class Throttling(Errors):
    def setUp(self):
        self.server = fleet.target("narrow")
        self.server.is_idle()

    def refusals(self):
        return self.server.metric("pentimento_requests_total", error="ThrottlingException")

    def test_a_full_queue(self):
        bedrock = client(self.server)
        with raw.occupying(self.server, 2):
            self.raises("ThrottlingException", 429, bedrock, SHORT, "Too many requests, please wait")
            with self.assertRaises(bedrock.exceptions.ThrottlingException):
                bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(SHORT))
            # Who looks after the server is answered all the same.
            self.assertEqual((self.server.page("/healthz"), self.server.page("/readyz")), ("ok\n", "ready\n"))

    def test_the_client_tries_three_times(self):
        before = self.refusals()
        # The client waits seconds between its tries, in which a fast machine would finish what fills the queue.
        waits = mock.patch("botocore.endpoint.time.sleep")
        with raw.occupying(self.server, 2), waits, self.assertRaises(ClientError):
            draw(client(self.server, attempts=3), SHORT)
        self.assertEqual(self.refusals() - before, 3)

    def test_the_client_gets_its_picture_once_there_is_room(self):
        before, pictures = self.refusals(), []
        asking = threading.Thread(target=lambda: pictures.append(draw(client(self.server, attempts=60), SHORT)))
        with raw.occupying(self.server, 2):
            asking.start()
            while self.refusals() == before:
                time.sleep(0.02)
        asking.join()
        self.assertEqual(len(pictures), 1)


class Timeouts(Errors):
    def test_the_deadline(self):
        bedrock = client(fleet.target("impatient"))
        self.raises("ModelTimeoutException", 408, bedrock, LONG, "Model has timed out in processing the request.")

    def test_the_deadline_of_a_stream(self):
        bedrock = client(fleet.target("impatient"))
        with self.assertRaises(bedrock.exceptions.ModelTimeoutException):
            bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(LONG))

    def test_a_stream_that_has_begun_ends_with_an_exception(self):
        bedrock = client(fleet.target("late"))
        reply = bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(LONG))
        with self.assertRaises(EventStreamError) as caught:
            self.assertEqual(list(reply["body"]), [])
        # The oldest model of the service knows no such member of the stream, and tells an error without a name.
        known = "modelTimeoutException" in bedrock.meta.service_model.shape_for("ResponseStream").members
        told = caught.exception.response["Error"]
        self.assertEqual(told["Code"], "modelTimeoutException" if known else "")
        self.assertIn("Model has timed out" if known else "", told["Message"])

    def test_an_answer_that_has_begun_ends_with_an_error(self):
        reply = client(fleet.target("late")).invoke_model(modelId=MODEL, body=json.dumps(LONG))
        answer = json.loads(reply["body"].read())
        self.assertEqual((answer["result"], answer["error"]["name"]), ("error", "generation_error"))
        self.assertIn("Model has timed out", answer["error"]["message"])

    def test_what_is_wrong_is_told_before_the_answer_begins(self):
        self.raises("ValidationException", 400, client(fleet.target("late")), {**SHORT, "steps": 9}, "#/steps")


class Ending(Errors):
    def test_a_server_that_ends_finishes_one_and_refuses_the_other(self):
        server = fleet.Server(fleet.binary(), "threads = 1").start()
        self.addCleanup(server.end)
        results = {}

        def ask(seed):
            try:
                results[seed] = draw(client(server.target), {**SLOW, "seed": seed})
            except ClientError as error:
                results[seed] = error

        threads = [threading.Thread(target=ask, args=[seed]) for seed in [1, 2]]
        for waiting, thread in enumerate(threads):
            thread.start()
            server.target.until("pentimento_jobs_running", 1)
            server.target.until("pentimento_queue_length", waiting)
        server.ask_to_end()
        for thread in threads:
            thread.join()
        self.assertEqual(server.end(), 0)
        self.assertEqual(results[1].picture.size, (512, 512))
        self.is_error(results[2], "ServiceUnavailableException", 503, "temporarily unable")
        bedrock = client(server.target)
        if "ServiceUnavailableException" in bedrock.meta.service_model.shape_names:
            self.assertIsInstance(results[2], bedrock.exceptions.ServiceUnavailableException)


def clock_off_by(**difference):
    """Lets botocore sign by another clock."""
    now = datetime.now(timezone.utc) + timedelta(**difference)
    if hasattr(botocore.auth, "get_current_datetime"):
        return mock.patch("botocore.auth.get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
    clock = mock.Mock(wraps=botocore.auth.datetime)
    clock.datetime.utcnow.return_value = now.replace(tzinfo=None)
    return mock.patch("botocore.auth.datetime", clock)
