"""`volcengine` from PyPI, as old code uses it."""

import base64
import json
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

from volcengine.visual.VisualService import VisualService

from bedrock.fleet import ACCESS_KEY, SECRET_KEY

from .world import AIGC, KEY, PHOTO, SHORT, World, fetched, opened, until_done


ROOT = Path(__file__).parents[2]


def setUpModule():
    global world
    world = World()


def tearDownModule():
    world.end()


def service(address=None, access_key=ACCESS_KEY, secret=SECRET_KEY, token=None):
    visual = VisualService()
    visual.set_host(address or world.address)
    visual.set_scheme("http")
    visual.set_ak(access_key)
    visual.set_sk(secret)
    visual.set_session_token(token or "")
    visual.set_connection_timeout(10)
    visual.set_socket_timeout(300)
    return visual


def pixels(text):
    return opened(text)[0].tobytes()


class Visual(unittest.TestCase):
    def done(self, answer):
        """The data of an answer that says success in every way."""
        self.assertEqual((answer["code"], answer["status"], answer["message"]), (10000, 10000, "Success"))
        self.assertRegex(answer["request_id"], r"^\d{14}[0-9A-F]{20}$")
        self.assertRegex(answer["time_elapsed"], r"^[\dhm.]+(ms|µs|s)$")
        return answer["data"]

    def refused(self, code, form, visual=None, text="", call="cv_process"):
        with self.assertRaises(Exception) as caught:
            getattr(visual or service(), call)(form)
        told = json.loads(eval(str(caught.exception)))
        self.assertEqual(told.get("code") or told["ResponseMetadata"]["Error"]["Code"], code, told)
        self.assertIn(text, json.dumps(told, ensure_ascii=False))
        return told

    def test_the_example_of_the_documents(self):
        data = self.done(
            service().cv_process(
                {
                    **SHORT,
                    "image_urls": [],
                    "prompt": "good looking,(((pure white statue))), ((white hair)), 8k",
                    "strength": 0.9,
                    "scale": 7,
                    "lora_multipers": {"shanzhagaoSomeSortOf_v1Epoch10": 0.4, "Colorwater_v4": 0.2},
                    "clip_skip": 2,
                    "canny_weight": 0.8,
                    "sampler_name": "DPM++ 2M Karras",
                    "i2i_keep_texture": 1,
                    "id_scale": 0.5,
                    "return_url": False,
                }
            )
        )
        self.assertEqual(data["algorithm_base_resp"], {"status_code": 0, "status_message": "Success"})
        [text] = data["binary_data_base64"]
        picture, _ = opened(text)
        self.assertEqual((picture.format, picture.size), ("JPEG", (192, 256)))
        self.assertIn("shanzhagaoSomeSortOf_v1Epoch10, Colorwater_v4", "".join(data["pentimento_notes"]))

    def test_a_seed_gives_the_same_picture(self):
        # The files differ: their receipts tell how long the stages took.
        first, again = (self.done(service().cv_process(SHORT))["binary_data_base64"][0] for _ in range(2))
        self.assertEqual(pixels(first), pixels(again))

    def test_a_url_in_and_a_link_out(self):
        form = {**SHORT, "binary_data_base64": [], "image_urls": [world.photo_url()], "return_url": True}
        data = self.done(service().cv_process(form))
        self.assertEqual(data["binary_data_base64"], [])
        [link] = data["image_urls"]
        by_url = fetched(link)
        [text] = self.done(service().cv_process(SHORT))["binary_data_base64"]
        self.assertEqual(pixels(base64.b64encode(by_url)), pixels(text))

    def test_a_url_that_is_not_allowed_or_not_there(self):
        for url in (world.photo_url("nosuch.jpg"), "http://127.0.0.1:9/x.jpg", "http://169.254.169.254/", "file:///etc/passwd"):
            self.refused(50207, {"req_key": KEY, "image_urls": [url]})

    def test_marks_and_labels(self):
        def drawn(**members):
            data = self.done(service().cv_process({**SHORT, **members}))
            return data, *opened(data["binary_data_base64"][0])

        _, plain, file = drawn()
        self.assertNotIn(AIGC, file)
        halves = {}
        for position, corner in enumerate([(96, 128), (0, 128), (0, 0), (96, 0)]):
            logo = {"add_logo": True, "position": position, "language": position % 2, "opacity": 1}
            _, marked, _ = drawn(logo_info=logo)
            box = (*corner, corner[0] + 96, corner[1] + 128)
            halves[position] = marked.crop(box).tobytes() != plain.crop(box).tobytes()
        self.assertEqual(halves, dict.fromkeys(range(4), True))
        data, _, file = drawn(aigc_meta={"producer_id": "7", "content_producer": "工作室"})
        self.assertTrue(data["aigc_meta_tagged"])
        self.assertIn(AIGC, file)
        self.assertIn("&quot;ContentProducer&quot;:&quot;工作室&quot;".encode(), file)

    def test_the_asynchronous_pair(self):
        visual = service()
        for submit, result in (
            (visual.cv_sync2async_submit_task, visual.cv_sync2async_get_result),
            (visual.cv_submit_task, visual.cv_get_result),
        ):
            task = self.done(submit(SHORT))["task_id"]
            self.assertTrue(re.fullmatch(r"\d{1,20}", task), task)
            question = {"req_key": KEY, "task_id": task}
            data = self.done(until_done(lambda: result(question)))
            self.assertEqual(data["status"], "done")
            [text] = self.done(visual.cv_process(SHORT))["binary_data_base64"]
            self.assertEqual(pixels(data["binary_data_base64"][0]), pixels(text))
            # The same picture again, as a link and with a mark.
            wish = {"return_url": True, "logo_info": {"add_logo": True}}
            data = self.done(result({**question, "req_json": json.dumps(wish)}))
            marked = base64.b64encode(fetched(data["image_urls"][0]))
            self.assertNotEqual(pixels(marked), pixels(text))

    def test_tasks_that_are_not_there(self):
        question = {"req_key": KEY, "task_id": "7392616336519610409"}
        self.assertEqual(self.done(service().cv_sync2async_get_result(question))["status"], "not_found")
        self.refused(50215, question, call="cv_get_result")
        self.refused("50215", question, call="cv_cancel_task")

    def test_a_task_is_found_by_its_own_style_only(self):
        task = self.done(service().cv_sync2async_submit_task(SHORT))["task_id"]
        other = {"req_key": "img2img_cartoon_style", "task_id": task}
        self.assertEqual(self.done(service().cv_sync2async_get_result(other))["status"], "not_found")
        until_done(lambda: service().cv_sync2async_get_result({"req_key": KEY, "task_id": task}))

    def test_older_names(self):
        form = {**SHORT, "req_key": "img2img_pastel_boys_style"}
        self.done(service().img2img_create_pastel_boys2d(form))
        self.done(service().img2img_create_anylora_makoto({**SHORT, "req_key": "img2img_makoto_style", "prompt": ""}))

    def test_errors_by_code(self):
        for code, text, members in (
            (50200, "req_key not supported", {"req_key": "nosuch"}),
            (50201, "req_key", {"req_key": ""}),
            (50204, "strength", {"strength": "x"}),
            (50200, "strength goes from 0 to 1", {"strength": 2}),
            (50206, "Image Empty", {"binary_data_base64": []}),
            (50207, "data:", {"binary_data_base64": [f"data:image/jpeg;base64,{PHOTO}"]}),
            (50200, "exactly one image", {"binary_data_base64": [PHOTO, PHOTO]}),
        ):
            self.refused(code, {**SHORT, **members}, text=text)
        self.refused(50213, {**SHORT, "prompt": "x" * 9_000_000})

    def test_errors_of_the_gateway(self):
        self.refused("InvalidAccessKey", SHORT, service(access_key="AKLTNOBODY"), text="100009")
        self.refused("SignatureDoesNotMatch", SHORT, service(secret="wrong"), text="100010")
        visual = service()
        visual.set_api_info("NoSuchAction", "2022-08-31")
        with self.assertRaisesRegex(Exception, "InvalidActionOrVersion"):
            visual.cv_json_api("NoSuchAction", SHORT)

    def test_a_token_that_nobody_asks_for(self):
        self.done(service(token="STSanything").cv_process(SHORT))


class Readme(unittest.TestCase):
    def test_the_example_runs_as_it_is_printed(self):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
        [code] = [block for block in blocks if "VisualService" in block]
        for printed, here in (("127.0.0.1:8181", world.address), ('ak("...")', f'ak("{ACCESS_KEY}")'), ('sk("...")', f'sk("{SECRET_KEY}")')):
            self.assertIn(printed, code)
            code = code.replace(printed, here)
        run = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertTrue(fetched(run.stdout.strip()).startswith(b"\xff\xd8"))


class Impatient(unittest.TestCase):
    def test_a_deadline_is_the_gateways_504(self):
        slow = World("threads = 1\n[limits]\ndeadline_seconds = 0.05")
        self.addCleanup(slow.end)
        with self.assertRaisesRegex(Exception, "InternalServiceTimeout"):
            service(slow.address).cv_process({**SHORT, "ddim_steps": 50, "strength": 1, "long_resolution": 1024})


class Worded(unittest.TestCase):
    def test_a_word_that_is_not_drawn_is_50413_and_becomes_no_task(self):
        strict = World('[filter]\nwords = ["gore"]')
        self.addCleanup(strict.end)
        visual = service(strict.address)
        for call in (visual.cv_process, visual.cv_sync2async_submit_task):
            with self.assertRaisesRegex(Exception, "50413.*Post Text Risk Not Pass"):
                call({**SHORT, "prompt": "a statue, (gore:1.2)"})


class Roomless(unittest.TestCase):
    def test_a_picture_for_which_there_is_no_memory_is_refused_at_once(self):
        small = World("[limits]\npicture_memory_bytes = 1_000_000")
        self.addCleanup(small.end)
        visual = service(small.address)
        for call in (visual.cv_process, visual.cv_sync2async_submit_task):
            with self.assertRaisesRegex(Exception, "50200.*MiB of memory"):
                call(SHORT)


class Cancelled(unittest.TestCase):
    def test_a_task_that_waits_is_cancelled(self):
        visual, long = service(), {**SHORT, "ddim_steps": 50, "strength": 1, "long_resolution": 1024, "seed": -1}
        first, second = (visual.cv_sync2async_submit_task(long)["data"]["task_id"] for _ in range(2))
        for task in (second, first):
            told = visual.cv_cancel_task({"req_key": KEY, "task_id": task})
            self.assertEqual(told["Result"]["code"], 10000)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                visual.cv_sync2async_get_result({"req_key": KEY, "task_id": second})
            except Exception as error:
                self.assertIn("50215", str(error))
                return
            time.sleep(0.1)
        self.fail("the cancelled task never said so")
