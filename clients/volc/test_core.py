"""`volcengine-python-sdk` from PyPI: the newer interface of the same styles."""

import base64
import json
import unittest

import volcenginesdkcore
import volcenginesdkcv20240606 as cv
from volcenginesdkcore.rest import ApiException

from bedrock.fleet import ACCESS_KEY, SECRET_KEY

from .world import KEY, PHOTO, World, fetched, opened


def setUpModule():
    global world
    world = World('[volcengine.styles."img2img_pastel_boys_style"]\nsteps = 4\nlong_resolution = 256\n')


def tearDownModule():
    world.end()


def api(secret=SECRET_KEY):
    configuration = volcenginesdkcore.Configuration()
    configuration.ak, configuration.sk, configuration.region = ACCESS_KEY, secret, "cn-north-1"
    configuration.host, configuration.scheme = world.address, "http"
    return cv.CV20240606Api(volcenginesdkcore.ApiClient(configuration))


class Stylize(unittest.TestCase):
    def request(self, **members):
        return cv.AIGCStylizeImageUsageRequest(**{"req_key": KEY, "binary_data_base64": [PHOTO], **members})

    def test_a_picture_of_a_style_set_by_configuration(self):
        result = api().a_igc_stylize_image_usage(self.request())
        picture, _ = opened(result.data.binary_data_base64[0])
        self.assertEqual(picture.size, (192, 256))
        self.assertEqual(result.data.algorithm_base_resp.status_code, 0)

    def test_both_actions_links_and_marks(self):
        logo = cv.LogoInfoForAIGCStylizeImageUsageInput(add_logo=True, position=1, language=1)
        request = self.request(binary_data_base64=[], image_urls=[world.photo_url()], return_url=True, logo_info=logo)
        result = api().a_igc_stylize_image_usage(request)
        opened(base64.b64encode(fetched(result.data.image_urls[0])))
        result = api().a_igc_stylize_image(
            cv.AIGCStylizeImageRequest(req_key="img2img_pastel_boys_style", binary_data_base64=[PHOTO])
        )
        opened(result.data.binary_data_base64[0])

    def test_errors(self):
        for client, members, status, code in (
            (api(), {"req_key": "nosuch"}, 400, "50200"),
            (api(), {"binary_data_base64": []}, 400, "50206"),
            (api("wrong"), {}, 401, "SignatureDoesNotMatch"),
        ):
            with self.assertRaises(ApiException) as caught:
                client.a_igc_stylize_image_usage(self.request(**members))
            self.assertEqual(caught.exception.status, status)
            body = json.loads(caught.exception.body)
            self.assertEqual(body["ResponseMetadata"]["Error"]["Code"], code)
