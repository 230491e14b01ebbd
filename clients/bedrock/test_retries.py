"""Clients that try again, leave, or wait for long."""

import json
import threading
import time
import unittest
import uuid

from botocore.exceptions import ReadTimeoutError

from . import fleet, raw
from .sdk import LONG, MODEL, SHORT, SLOW, client, draw, drawn

JOBS, CANCELLED = "pentimento_jobs_total", "pentimento_cancelled_total"
COALESCED = "pentimento_coalesced_total"

# A body without a seed: two pictures of it differ, unless they are one.
RANDOM = json.dumps(SLOW).encode()


class Attempts(unittest.TestCase):
    """Attempts of one invocation are one job."""

    def setUp(self):
        self.server = fleet.target("narrow")
        self.server.is_idle()

    def both(self, first, second):
        """Two requests at the same time, each a body and its invocation's id; their answers."""
        headers = [{"amz-sdk-invocation-id": invocation} for _, invocation in [first, second]]
        with raw.sent(self.server, first[0], headers=headers[0]) as one:
            self.server.until("pentimento_jobs_running", 1)
            with raw.sent(self.server, second[0], headers=headers[1]) as other:
                return [drawn({}, raw.answer_on(connection).body) for connection in [one, other]]

    def counted(self, name, action):
        before = self.server.metric(name)
        result = action()
        return self.server.metric(name) - before, result

    def test_one_invocation_is_one_job(self):
        invocation = str(uuid.uuid4())
        asking = lambda: self.both((RANDOM, invocation), (RANDOM, invocation))  # noqa: E731
        coalesced, (jobs, [one, other]) = self.counted(COALESCED, lambda: self.counted(JOBS, asking))
        self.assertEqual((jobs, coalesced), (1, 1))
        self.assertEqual((one.seed, one.file), (other.seed, other.file))

    def test_two_invocations_are_two_jobs(self):
        jobs, [one, other] = self.counted(JOBS, lambda: self.both((RANDOM, "a"), (RANDOM, "b")))
        self.assertEqual(jobs, 2)
        self.assertNotEqual(one.seed, other.seed)

    def test_another_body_is_another_job(self):
        bodies = [json.dumps({**SLOW, "steps": steps}).encode() for steps in [19, 20]]
        jobs, _ = self.counted(JOBS, lambda: self.both((bodies[0], "a"), (bodies[1], "a")))
        self.assertEqual(jobs, 2)

    def test_a_fixed_seed_is_one_job_without_any_id(self):
        body = json.dumps({**SLOW, "seed": 77}).encode()
        jobs, [one, other] = self.counted(JOBS, lambda: self.both((body, "a"), (body, "b")))
        self.assertEqual((jobs, one.file), (1, other.file))

    def test_a_client_that_times_out_finds_its_job_again(self):
        start = time.monotonic()
        draw(client(self.server), {**SLOW, "seed": 501})
        took = time.monotonic() - start
        impatient = client(self.server, attempts=5, read_timeout=took * 0.6)
        jobs, found = self.counted(JOBS, lambda: draw(impatient, {**SLOW, "seed": 0}))
        self.assertEqual((jobs, found.picture.size), (1, (512, 512)))


class Leaving(unittest.TestCase):
    """A job ends with the client that wanted it."""

    def setUp(self):
        self.server = fleet.target("plain")
        self.server.is_idle()

    def test_a_running_job(self):
        before = self.server.metric(CANCELLED)
        with raw.sent(self.server, RANDOM):
            self.server.until("pentimento_jobs_running", 1)
        self.assertLess(self.server.until("pentimento_jobs_running", 0), 1.0)
        self.assertEqual(self.server.metric(CANCELLED) - before, 1)

    def test_a_job_that_is_still_at_its_texts(self):
        texts = [{"text": f"{number} " + "far, " * 390} for number in range(64)]
        with raw.sent(self.server, json.dumps({**SHORT, "text_prompts": texts}).encode()):
            self.server.until("pentimento_jobs_running", 1)
        self.assertLess(self.server.until("pentimento_jobs_running", 0, 60), 1.0)

    def test_a_waiting_job(self):
        with raw.sent(self.server, RANDOM) as first:
            self.server.until("pentimento_jobs_running", 1)
            with raw.sent(self.server, RANDOM):
                self.server.until("pentimento_queue_length", 1)
            self.assertLess(self.server.until("pentimento_queue_length", 0), 1.0)
            self.assertEqual(raw.answer_on(first).status, 200)

    def test_a_stream(self):
        with raw.sent(self.server, RANDOM, target=raw.STREAM):
            self.server.until("pentimento_jobs_running", 1)
        self.assertLess(self.server.until("pentimento_jobs_running", 0), 1.0)

    def test_an_answer_that_has_begun(self):
        server = fleet.target("beating")
        with raw.sent(server, RANDOM) as connection:
            self.assertTrue(connection.recv(1))
        self.assertLess(server.until("pentimento_jobs_running", 0), 1.0)

    def test_boto3_that_gives_up(self):
        # It announces no further attempt with its last one.
        with self.assertRaises(ReadTimeoutError):
            draw(client(self.server, read_timeout=0.3), LONG)
        self.assertLess(self.server.until("pentimento_jobs_running", 0), 1.5)

    def test_one_of_two_that_leaves_takes_nothing_from_the_other(self):
        body = json.dumps({**SLOW, "seed": 78}).encode()
        with raw.sent(self.server, body) as stays:
            with raw.sent(self.server, body):
                self.server.until("pentimento_jobs_running", 1)
            self.assertEqual(raw.answer_on(stays).status, 200)


class Waiting(unittest.TestCase):
    """Signs of life keep clients waiting that would not wait that long."""

    patience = {"read_timeout": 0.5}

    def setUp(self):
        self.server = fleet.target("beating")
        self.server.is_idle()

    def test_spaces_before_json(self):
        reply = client(self.server, **self.patience).invoke_model(modelId=MODEL, body=json.dumps(SLOW))
        body = reply["body"].read()
        self.assertTrue(body.startswith(b"  "), body[:20])
        self.assertEqual(drawn(reply, body).picture.size, (512, 512))

    def test_pings_in_a_stream(self):
        bedrock = client(self.server, **self.patience)
        reply = bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(SLOW))
        events = list(reply["body"])
        self.assertEqual([list(event) for event in events], [["chunk"]])
        self.assertEqual(drawn(reply, events[0]["chunk"]["bytes"]).picture.size, (512, 512))

    def test_pings_on_the_wire(self):
        with raw.sent(self.server, RANDOM, target=raw.STREAM) as connection:
            reply = raw.answer_on(connection)
        self.assertEqual(reply.headers["content-type"], "application/vnd.amazon.eventstream")
        self.assertEqual(reply.headers["x-amzn-bedrock-content-type"], "application/json")
        self.assertGreaterEqual(reply.body.count(b":event-type\x07\x00\x04ping"), 2)
        self.assertEqual(reply.body.count(b":event-type\x07\x00\x05chunk"), 1)

    def test_without_signs_of_life_the_client_gives_up(self):
        with self.assertRaises(ReadTimeoutError):
            draw(client(fleet.target("narrow"), read_timeout=0.3), LONG)

    def test_a_quick_answer_has_a_length(self):
        reply = raw.ask(fleet.target("plain"), json.dumps(SHORT).encode())
        self.assertEqual(int(reply.headers["content-length"]), len(reply.body))


class Many(unittest.TestCase):
    def test_a_queue_is_worked_off(self):
        seeds = []
        ask = lambda seed: seeds.append(draw(client(fleet.target("plain")), {**SHORT, "seed": seed}).seed)  # noqa: E731
        threads = [threading.Thread(target=ask, args=[seed]) for seed in range(1, 13)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(seeds), list(range(1, 13)))
