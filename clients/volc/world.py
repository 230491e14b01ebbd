"""A server with Volcengine's keys, a host of pictures beside it that it may fetch from, and pictures to send."""

import base64
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import ProxyHandler, build_opener

from PIL import Image

from bedrock import fleet
from bedrock.pictures import encoded, stripes

KEY = "img2img_pastel_boys_style_usage"
PHOTO = encoded(stripes(120, 160), "JPEG")
# A small picture of few steps: what is drawn does not matter here.
SHORT = {"req_key": KEY, "binary_data_base64": [PHOTO], "ddim_steps": 4, "long_resolution": 256, "seed": 7}

AIGC = b"http://www.tc260.org.cn/ns/AIGC/1.0/"


class Host(BaseHTTPRequestHandler):
    """Answers one picture and nothing else."""

    def do_GET(self):
        found = self.path == "/photo.jpg"
        body = base64.b64decode(PHOTO) if found else b"nothing here"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class World:
    """Started once per module of tests."""

    def __init__(self, config="", allowed=True):
        self.host = ThreadingHTTPServer(("127.0.0.1", 0), Host)
        threading.Thread(target=self.host.serve_forever, daemon=True).start()
        self.authority = "127.0.0.1:%d" % self.host.server_address[1]
        options = ("--allow-fetch", self.authority) if allowed else ()
        self.server = fleet.Server(fleet.binary(), config, options).start()
        self.address = self.server.target.url.split("//")[1]

    def photo_url(self, name="photo.jpg"):
        return f"http://{self.authority}/{name}"

    def end(self):
        self.host.shutdown()
        self.host.server_close()
        assert self.server.end() == 0, "the server did not end with code 0"


def opened(text):
    """The picture in base64, and its file."""
    file = base64.b64decode(text, validate=True)
    picture = Image.open(io.BytesIO(file))
    picture.load()
    return picture, file


def fetched(url):
    """What lies behind a link."""
    with build_opener(ProxyHandler({})).open(url, timeout=30) as reply:
        return reply.read()


def until_done(poll, seconds=120):
    """Asks for a task until it is no longer on its way."""
    end = time.monotonic() + seconds
    while (answer := poll())["data"]["status"] in ("in_queue", "generating"):
        assert time.monotonic() < end, answer
        time.sleep(0.1)
    return answer
