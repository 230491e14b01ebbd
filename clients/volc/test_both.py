"""Both clouds' clients at once against one server, with one pair of keys."""

import unittest
from concurrent.futures import ThreadPoolExecutor

from bedrock import sdk as bedrock

from . import test_visual as volcengine
from .world import SHORT, World, opened


class Both(unittest.TestCase):
    def test_pictures_of_both_at_once(self):
        world = World()
        self.addCleanup(world.end)
        aws = bedrock.client(world.server.target)
        visual = volcengine.service(world.address)

        def one(turn):
            if turn % 2:
                return bedrock.draw(aws, {**bedrock.SHORT, "seed": turn}).picture.size
            [text] = visual.cv_process({**SHORT, "seed": turn})["data"]["binary_data_base64"]
            return opened(text)[0].size

        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(one, range(12)))
        self.assertEqual(sizes, [(192, 256), (64, 64)] * 6)
