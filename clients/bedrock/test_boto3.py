"""The three operations and the stream, as code written for Bedrock calls them."""

import json
import re
import unittest

import boto3

from . import fleet, pictures
from .pictures import PROMPTS, box_mask, encoded, outside_of, pixels_of, stripes
from .sdk import MODEL, SHORT, client, draw, drawn

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ARN = f"arn:aws:bedrock:us-east-1::foundation-model/{MODEL}:0"


class WithBoto3(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bedrock = client(fleet.target("plain"))

    def draw(self, **body):
        return draw(self.bedrock, {"text_prompts": PROMPTS, "steps": 10, **body})


class TextToImage(WithBoto3):
    def test_a_picture_of_the_size_asked_for(self):
        drawn = self.draw(width=512, height=768)
        self.assertEqual((drawn.picture.size, drawn.picture.format), ((512, 768), "PNG"))

    def test_the_example_of_the_vendors_documents(self):
        body = {"text_prompts": [{"text": "a red apple"}], "style_preset": "photographic", "cfg_scale": 10, "steps": 30}
        drawn = draw(self.bedrock, {**body, "seed": 4294967295})
        self.assertEqual((drawn.picture.size, drawn.seed), ((1024, 1024), 4294967295))

    def test_every_field_at_once(self):
        prompts = [{"text": "a rose", "weight": 1.0}, {"text": "petals", "weight": 100}, {"text": "grey", "weight": -1}]
        drawn = self.draw(
            text_prompts=prompts,
            width=832,
            height=448,
            cfg_scale=0,
            clip_guidance_preset="FAST_BLUE",
            sampler="K_EULER_ANCESTRAL",
            samples=1,
            seed=7,
            style_preset="3d-model",
            extras={"anything": [1, 2]},
        )
        self.assertEqual((drawn.picture.size, drawn.seed), ((832, 448), 7))

    def test_the_answers_headers(self):
        reply = self.draw(width=512, height=512).reply
        headers = reply["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual(reply["contentType"], "application/json")
        self.assertRegex(reply["ResponseMetadata"]["RequestId"], f"^{UUID}$")
        self.assertRegex(headers["x-amzn-bedrock-invocation-latency"], r"^\d+$")
        self.assertIn("date", headers)

    def test_a_seed_draws_the_same_picture_again(self):
        one, other = (self.draw(width=512, height=512, seed=42) for _ in range(2))
        self.assertEqual((one.seed, other.seed), (42, 42))
        self.assertEqual(one.picture.tobytes(), other.picture.tobytes())

    def test_seed_0_is_random_and_told(self):
        one, other = (draw(self.bedrock, {**SHORT, "seed": 0}) for _ in range(2))
        self.assertNotEqual(one.seed, other.seed)
        self.assertTrue(all(0 < drawn.seed < 2**32 for drawn in [one, other]))
        again = draw(self.bedrock, {**SHORT, "seed": one.seed})
        self.assertEqual(again.picture.tobytes(), one.picture.tobytes())

    def test_the_receipt_is_in_the_file(self):
        picture = draw(self.bedrock, {**SHORT, "seed": 5}).picture
        receipt = json.loads(picture.text["pentimento"])
        self.assertIn("5", json.dumps(receipt))
        self.assertRegex(picture.text["parameters"], r"Steps: \d+.*Seed: 5")

    def test_every_spelling_of_the_id(self):
        for model in [f"{MODEL}:0", f"us.{MODEL}:0", ARN, "stability.stable-diffusion-xl"]:
            with self.subTest(model):
                draw(self.bedrock, SHORT, model)

    def test_a_bare_picture_where_that_is_accepted(self):
        body = json.dumps({**SHORT, "seed": 9})
        reply = self.bedrock.invoke_model(modelId=MODEL, body=body, accept="image/png")
        self.assertEqual(reply["contentType"], "image/png")
        self.assertEqual(pictures.opened(reply["body"].read()).size, (64, 64))
        headers = reply["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual((headers["seed"], headers["finish-reason"]), ("9", "SUCCESS"))

    def test_content_types_that_clients_send(self):
        for content_type in ["application/json", "application/json; charset=utf-8", "application/octet-stream"]:
            with self.subTest(content_type):
                draw(self.bedrock, SHORT, contentType=content_type, accept="*/*")

    def test_temporary_credentials(self):
        draw(client(fleet.target("plain"), token="a-session-token"), SHORT)


class ImageToImage(WithBoto3):
    init = stripes(192, 128)

    def redraw(self, **body):
        return self.draw(init_image=encoded(self.init), seed=3, **body)

    def test_image_strength(self):
        drawn = self.redraw(init_image_mode="IMAGE_STRENGTH", image_strength=0.5)
        self.assertEqual(drawn.picture.size, self.init.size)
        self.assertNotEqual(drawn.picture.convert("RGB").tobytes(), self.init.tobytes())

    def test_the_mode_and_its_default(self):
        default = self.redraw().picture
        self.assertEqual(default.tobytes(), self.redraw(image_strength=0.35).picture.tobytes())
        schedule = self.redraw(init_image_mode="STEP_SCHEDULE", step_schedule_start=0.65)
        self.assertEqual(default.tobytes(), schedule.picture.tobytes())

    def test_step_schedule(self):
        short, long = (
            self.redraw(init_image_mode="STEP_SCHEDULE", step_schedule_start=0.6, step_schedule_end=end).picture
            for end in [0.3, 0.01]
        )
        self.assertEqual((short.size, long.size), (self.init.size, self.init.size))
        self.assertNotEqual(short.tobytes(), long.tobytes())

    def test_a_jpeg_of_odd_size(self):
        init = encoded(stripes(101, 67), "JPEG")
        self.assertEqual(self.draw(init_image=init, image_strength=0.8).picture.size, (101, 67))

    def test_what_a_sample_application_sends(self):
        # Width and height beside an init image, and an empty style.
        drawn = self.redraw(width=1024, height=1024, style_preset="", unknown_key=1, image_strength=0.9)
        self.assertEqual(drawn.picture.size, self.init.size)


class Masking(WithBoto3):
    init = stripes(150, 110)
    box = (40, 30, 104, 94)

    def repaint(self, **body):
        return self.draw(seed=11, **{"init_image": encoded(self.init), **body})

    def check(self, before, after):
        self.assertEqual(after.size, before.size)
        self.assertEqual(outside_of(after, self.box), outside_of(before, self.box), "kept pixels differ")
        changed = sum(a != b for a, b in zip(pixels_of(before, self.box), pixels_of(after, self.box)))
        self.assertGreater(changed, 64 * 64 * 0.9, "the masked part was hardly repainted")

    def test_white_is_repainted(self):
        mask = encoded(box_mask(150, 110, self.box))
        self.check(self.init, self.repaint(mask_source="MASK_IMAGE_WHITE", mask_image=mask).picture)

    def test_black_is_repainted(self):
        mask = encoded(box_mask(150, 110, self.box, inside=0, outside=255))
        self.check(self.init, self.repaint(mask_source="MASK_IMAGE_BLACK", mask_image=mask).picture)

    def test_what_is_transparent_is_repainted(self):
        init = self.init.convert("RGBA")
        init.putalpha(box_mask(150, 110, self.box, inside=0, outside=255))
        self.check(init, self.repaint(init_image=encoded(init), mask_source="INIT_IMAGE_ALPHA").picture)

    def test_white_and_black_are_each_others_opposite(self):
        white = encoded(box_mask(150, 110, self.box))
        black = encoded(box_mask(150, 110, self.box, inside=0, outside=255))
        one = self.repaint(mask_source="MASK_IMAGE_WHITE", mask_image=white).picture
        other = self.repaint(mask_source="MASK_IMAGE_BLACK", mask_image=black).picture
        self.assertEqual(one.tobytes(), other.tobytes())

    def test_a_one_bit_mask(self):
        mask = encoded(box_mask(150, 110, self.box).convert("1"))
        self.check(self.init, self.repaint(mask_source="MASK_IMAGE_WHITE", mask_image=mask).picture)

    def test_a_picture_larger_than_the_models_own_size(self):
        init, self.box = stripes(640, 512), (400, 300, 464, 364)
        mask = encoded(box_mask(640, 512, self.box))
        body = {"init_image": encoded(init), "mask_source": "MASK_IMAGE_WHITE", "mask_image": mask}
        self.check(init, self.repaint(**body).picture)


class Stream(WithBoto3):
    def stream(self, body, **parameters):
        return self.bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(body), **parameters)

    def test_one_chunk_that_is_the_whole_answer(self):
        body = {**SHORT, "seed": 21}
        reply = self.stream(body)
        chunks = [event["chunk"]["bytes"] for event in reply["body"]]
        self.assertEqual((len(chunks), reply["contentType"]), (1, "application/json"))
        streamed, whole = drawn(reply, b"".join(chunks)), draw(self.bedrock, body)
        self.assertEqual((streamed.picture.tobytes(), streamed.seed), (whole.picture.tobytes(), 21))

    def test_masking_is_streamed_as_well(self):
        mask = encoded(box_mask(64, 64, (16, 16, 48, 48)))
        reply = self.stream({**SHORT, "mask_source": "MASK_IMAGE_WHITE", "mask_image": mask})
        chunks = [event["chunk"]["bytes"] for event in reply["body"]]
        self.assertEqual(drawn(reply, b"".join(chunks)).picture.size, (64, 64))

    def test_a_bare_picture(self):
        reply = self.stream(SHORT, accept="image/png")
        file = b"".join(event["chunk"]["bytes"] for event in reply["body"])
        self.assertEqual((reply["contentType"], pictures.opened(file).size), ("image/png", (64, 64)))


class Version(unittest.TestCase):
    def test_the_version_is_the_one_meant(self):
        requirements = re.search(r"\d+\.\d+\.\d+", boto3.__version__)
        self.assertIn(requirements[0], ["1.28.57", "1.44.5"])
