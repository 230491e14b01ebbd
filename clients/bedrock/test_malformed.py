"""Requests that are wrong, each with the answer that it gets; after each group the server draws a picture.

All travel as raw bytes. Unless a case says otherwise they are signed.
"""

import base64
import json
import struct
import time
import unittest
import zlib
from dataclasses import dataclass

from . import fleet, raw
from .pictures import PROMPTS, box_mask, encoded, png, stripes
from .sdk import SHORT

VALIDATION = "ValidationException"
MALFORMED = "Malformed input request, please reformat your input and try again."


@dataclass
class Case:
    """A wrong request: `send` sends it to a server. Several statuses stand for several answers that are all right."""

    name: str
    send: object
    status: object
    error: str = ""
    text: str = ""


class Malformed(unittest.TestCase):
    def __init__(self, case):
        super().__init__("runTest")
        self.case = case

    def id(self):
        return f"test_malformed: {self.case.name}"

    def runTest(self):
        case = self.case
        reply = case.send(fleet.target("plain"))
        allowed = case.status if isinstance(case.status, tuple) else (case.status,)
        self.assertIn(reply.status, allowed, reply.message[:300])
        if reply.status:
            self.assertEqual(reply.error, case.error, reply.message[:300])
            self.assertIn(case.text, reply.message)
            self.assertLess(len(reply.message), 4000, "more is told back than anybody reads")


class Group(Malformed):
    """What stands after each group: the server lives and draws."""

    def id(self):
        return f"test_malformed: after {self.case} the server draws"

    def runTest(self):
        server = fleet.target("plain")
        self.assertEqual(server.page("/healthz"), "ok\n")
        reply = raw.ask(server, json.dumps(SHORT).encode())
        self.assertEqual(reply.status, 200, reply.message)


def load_tests(_loader, _tests, _pattern):
    suite = unittest.TestSuite()
    for group, cases in GROUPS.items():
        suite.addTests([*(Malformed(case) for case in cases), Group(group)])
    return suite


# --- bodies that are no JSON object ---------------------------------------------------------------------------------


def body(name, content, text=MALFORMED):
    """A body as it stands."""
    content = content.encode() if isinstance(content, str) else content
    return Case(f"body: {name}", lambda server: raw.ask(server, content), 400, VALIDATION, text)


def prompt_with(member):
    return '{"text_prompts":[{"text":"a",%s}],"steps":10}' % member


BODIES = [
    body("nothing", ""),
    body("only white space", " \n\t"),
    body("cut in the middle", json.dumps(SHORT)[:40]),
    body("a list", "[]"),
    body("a text", '"text_prompts"'),
    body("null", "null"),
    body("two objects", "{}{}"),
    body("something behind it", '{"text_prompts":[]} x'),
    body("NaN", prompt_with('"weight":NaN')),
    body("infinity", prompt_with('"weight":-Infinity')),
    body("a number beyond doubles", prompt_with('"weight":1e999')),
    body("a leading zero", prompt_with('"weight":01')),
    body("a comment", '{/* hello */"text_prompts":[]}'),
    body("single quotes", "{'text_prompts':[]}"),
    body("a trailing comma", '{"text_prompts":[],}'),
    body("a key twice", '{"steps":10,"steps":11}'),
    body("half a surrogate pair", '{"text_prompts":[{"text":"\\ud800"}]}'),
    body("bytes that are no UTF-8", b'{"text_prompts":[{"text":"\xff\xfe"}]}'),
    body("UTF-16", json.dumps(SHORT).encode("utf-16")),
    body("a byte order mark", b"\xef\xbb\xbf" + json.dumps(SHORT).encode()),
    body("a bare line break in a text", '{"text_prompts":[{"text":"a\nb"}]}'),
    body("zero bytes", b"\0" * 1000),
    body("100,000 lists in each other", "[" * 100_000),
    body("100,000 objects in each other", '{"extras":' * 100_000),
    body("a million values", '{"extras":{"x":[' + "0," * 1_000_000 + "0]}}"),
    body("a form", "text_prompts=a&steps=10"),
]


# --- bodies that break the schema -----------------------------------------------------------------------------------


def schema(name, text, **members):
    """Text-to-image with these members; `...` takes one away."""
    content = {"text_prompts": PROMPTS, "steps": 10, **members}
    content = json.dumps({key: value for key, value in content.items() if value is not ...})
    return Case(f"schema: {name}", lambda server: raw.ask(server, content.encode()), 400, VALIDATION, text)


NULL = "found: Null"

SCHEMA = [
    schema("no prompts", "#: required key [text_prompts] not found", text_prompts=...),
    schema("prompts under the wrong key", "required key [text_prompts]", text_prompts=..., text_prompt=PROMPTS),
    schema("null for prompts", f"#/text_prompts: expected type: JSONArray, {NULL}", text_prompts=None),
    schema("a text for prompts", "expected type: JSONArray, found: String", text_prompts="a cat"),
    schema("an empty list of prompts", "#/text_prompts: expected minimum item count: 1, found: 0", text_prompts=[]),
    schema("65 prompts", "#/text_prompts: expected maximum item count: 64, found: 65", text_prompts=PROMPTS * 65),
    schema("a bare text as prompt", "#/text_prompts/0: expected type: JSONObject, found: String", text_prompts=["a"]),
    schema("a prompt without text", "#/text_prompts/1: required key [text] not found", text_prompts=[*PROMPTS, {}]),
    schema("a number as text", "#/text_prompts/0/text: expected type: String", text_prompts=[{"text": 5}]),
    schema("a text of 2001", "expected maxLength: 2000, actual: 2001", text_prompts=[{"text": "é" * 2001}]),
    schema("a text as weight", "weight: expected type: Number", text_prompts=[{"text": "a", "weight": "1"}]),
    schema("null for weight", NULL, text_prompts=[{"text": "a", "weight": None}]),
    schema("9 steps", "#/steps: 9 is not greater or equal to 10", steps=9),
    schema("51 steps", "#/steps: 51 is not less or equal to 50", steps=51),
    schema("1e300 steps", "is not less or equal to 50", steps=1e300),
    schema("a text for steps", "#/steps: expected type: Integer, found: String", steps="30"),
    schema("half a step", "#/steps: expected type: Integer, found: BigDecimal", steps=10.5),
    schema("true for steps", "#/steps: expected type: Integer, found: Boolean", steps=True),
    schema("a list for steps", "#/steps: expected type: Integer, found: JSONArray", steps=[10]),
    schema("null for steps", f"#/steps: expected type: Integer, {NULL}", steps=None),
    schema("cfg_scale below 0", "#/cfg_scale: -0.5 is not greater or equal to 0", cfg_scale=-0.5),
    schema("cfg_scale above 35", "#/cfg_scale: 35.5 is not less or equal to 35", cfg_scale=35.5),
    schema("null for cfg_scale", f"#/cfg_scale: expected type: Number, {NULL}", cfg_scale=None),
    schema("a seed below 0", "#/seed: -1 is not greater or equal to 0", seed=-1),
    schema("a seed of 33 bits", "#/seed: 4294967296 is not less or equal to 4294967295", seed=2**32),
    schema("a seed of 80 bits", "is not less or equal to 4294967295", seed=2**80),
    schema("2 samples", "#/samples: 2 is not less or equal to 1", samples=2),
    schema("0 samples", "#/samples: 0 is not greater or equal to 1", samples=0),
    schema("an unknown sampler", "#/sampler: K_FOO is not a valid enum value", sampler="K_FOO"),
    schema("a sampler in small letters", "#/sampler: k_euler is not a valid enum value", sampler="k_euler"),
    schema("an empty sampler", "#/sampler:  is not a valid enum value", sampler=""),
    schema("an unknown style", "#/style_preset: cubist is not a valid enum value", style_preset="cubist"),
    schema("null for style", f"#/style_preset: expected type: String, {NULL}", style_preset=None),
    schema("an unknown preset", "#/clip_guidance_preset: FAST is not", clip_guidance_preset="FAST"),
    schema("a list for extras", "#/extras: expected type: JSONObject, found: JSONArray", extras=[]),
    schema("a width of 1000", "#/width: 1000 is not a multiple of 64", width=1000, height=1024),
    schema("a width of 0", "#/width: 0 is not greater or equal to 128", width=0, height=512),
    schema("a width below 0", "#/width: -512 is not greater or equal to 128", width=-512, height=512),
    schema("a width of 2^31", "#/width: 2147483648 is not less or equal to", width=2**31, height=512),
    schema("too few pixels", "invalid_pixel_count", width=512, height=448),
    schema("too many pixels", "invalid_pixel_count", width=1088, height=1024),
    schema("an image_strength above 1", "#/image_strength: 1.5 is not less or equal to 1", image_strength=1.5),
    schema("an image_strength below 0", "#/image_strength: -0.1 is not greater", image_strength=-0.1),
    schema("a step_schedule_start above 1", "#/step_schedule_start: 2 is not less", step_schedule_start=2),
    schema("an unknown mode", "#/init_image_mode: FULL is not a valid enum value", init_image_mode="FULL"),
    schema("a number for init_image", "#/init_image: expected type: String, found: Integer", init_image=5),
    schema("null for init_image", f"#/init_image: expected type: String, {NULL}", init_image=None),
    schema("a mask without init_image", "#: required key [init_image] not found", mask_source="MASK_IMAGE_WHITE"),
    schema("a mask without its source", "#: required key [mask_source] not found", mask_image="AAAA"),
    schema("an unknown mask_source", "#/mask_source: MASK is not a valid enum value", mask_source="MASK"),
    schema("three faults at once", "#/seed: -1 is not greater or equal to 0, #/steps: 9", steps=9, seed=-1, sampler=5),
    schema("a very long name", "is not a valid enum value", sampler="K" * 1_000_000),
    schema("1000 faults", "found: Integer", text_prompts=[{"text": 1, "weight": "x"}] * 64),
]


# --- pictures -------------------------------------------------------------------------------------------------------


def picture(name, text, init_image, **members):
    """Image-to-image, or masking, with these files."""
    content = {**SHORT, "init_image": as_base64(init_image), **members}
    content = json.dumps(content).encode()
    return Case(f"picture: {name}", lambda server: raw.ask(server, content), 400, VALIDATION, text)


def as_base64(file):
    return base64.b64encode(file).decode() if isinstance(file, bytes) else file


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width, height, data, depth=8, color=2):
    """A PNG file that says what it likes about its size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


INIT = stripes(64, 64)
FILE = png(INIT)
MASK = box_mask(64, 64, (16, 16, 48, 48))
WHITE = {"mask_source": "MASK_IMAGE_WHITE"}
HUGE = png_of(20_000, 20_000, zlib.compress(b"\0" * 1000))

PICTURES = [
    picture("base64 cut in the middle of a byte", "invalid_base64", as_base64(FILE)[:33]),
    picture("base64 cut at a byte", "init_image: ", as_base64(FILE)[:400]),
    picture("base64 of another alphabet", "invalid_base64", "iVBORw0KGgo-_-_-"),
    picture("base64 with padding in its middle", "invalid_base64", as_base64(FILE)[:40] + "==" + as_base64(FILE)[40:]),
    picture("no base64 at all", "invalid_base64", "http://127.0.0.1/init.png"),
    picture("an empty text", "invalid_base64", ""),
    picture("a data URL without a picture", "invalid_base64", "data:image/png;base64,"),
    picture("bytes of no format", "invalid_mime_type", b"hello, I am a picture" * 50),
    picture("a GIF file", "invalid_mime_type", encoded(INIT, "GIF")),
    picture("an SVG file", "invalid_mime_type", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    picture("only a PNG file's signature", "init_image: ", FILE[:8]),
    picture("half a PNG file", "init_image: ", FILE[: len(FILE) // 2]),
    picture("half a JPEG file", "init_image: ", base64.b64decode(encoded(INIT, "JPEG"))[:300]),
    picture("half a WebP file", "init_image: ", base64.b64decode(encoded(INIT, "WEBP"))[:100]),
    picture("a PNG file of 20,000x20,000", "invalid_pixel_count", HUGE),
    picture("a PNG file of 2^31x2^31", "init_image: ", png_of(2**31 - 1, 2**31 - 1, zlib.compress(b"\0"))),
    picture("a PNG file of 0x0", "init_image: ", png_of(0, 0, zlib.compress(b""))),
    picture("a PNG file of a pixel too much", "invalid_pixel_count", png_of(1025, 1024, zlib.compress(b"\0"))),
    picture("a PNG file with a wrong checksum", "init_image: ", FILE[:45] + b"\xff" + FILE[46:]),
    picture("a PNG file of noise", "init_image: ", png_of(64, 64, b"\x9c" * 500)),
    picture("a PNG file of too few lines", "init_image: ", png_of(64, 64, zlib.compress(b"\0" * 193 * 10))),
    picture("a mask of another size", "invalid_image_dimensions", FILE, **WHITE, mask_image=encoded(stripes(64, 63))),
    picture("no alpha to read a mask from", "invalid_mask_image", FILE, mask_source="INIT_IMAGE_ALPHA"),
    picture("a side of 20,000", "invalid_pixel_count", png_of(20_000, 2, b"")),
    picture("a mask that is missing", "invalid_mask_image", FILE, **WHITE),
    picture("a mask that is no base64", "mask_image: ", FILE, **WHITE, mask_image="#"),
    picture("a mask of half a file", "mask_image: ", FILE, **WHITE, mask_image=as_base64(png(MASK)[:60])),
    picture("a mask of 20,000x20,000", "invalid_pixel_count", FILE, **WHITE, mask_image=as_base64(HUGE)),
    picture(
        "a schedule that ends before it begins",
        "step_schedule_end (0.7) must be less than step_schedule_start (0.5)",
        FILE,
        init_image_mode="STEP_SCHEDULE",
        step_schedule_start=0.5,
        step_schedule_end=0.7,
    ),
]


# --- signatures -----------------------------------------------------------------------------------------------------

GOOD = json.dumps(SHORT).encode()
INVALID, INCOMPLETE, DENIED = "InvalidSignatureException", "IncompleteSignatureException", "AccessDeniedException"
MISMATCH = "The request signature we calculated does not match"


def signed(name, status, error, text, **signing):
    return Case(f"signature: {name}", lambda server: raw.ask(server, GOOD, **signing), status, error, text)


def tampered(name, status, error, text, content=GOOD, target=raw.INVOKE, **changes):
    """A good request of which something is changed after it was signed. A change to `None` takes the header away."""

    def send(server):
        headers = {**raw.signed_headers(server, GOOD), "content-length": str(len(content))}
        for header, change in changes.items():
            header = header.replace("_", "-")
            headers[header] = change(headers[header]) if callable(change) else change
        headers = {header: value for header, value in headers.items() if value is not None}
        return raw.exchange(server.address, raw.request_bytes(content, target, headers))

    return Case(f"signature: {name}", send, status, error, text)


def hours(count):
    return time.time() + 3600 * count


SIGNATURES = [
    tampered("none", 403, DENIED, "Authorization header is missing", authorization=None),
    tampered("an empty header", (400, 403), INCOMPLETE, "Authorization header", authorization=""),
    tampered("Basic", 400, INCOMPLETE, "Authorization header must begin with", authorization="Basic YTpi"),
    tampered("an old algorithm", 400, INCOMPLETE, "must begin", authorization="AWS3-HTTPS AWSAccessKeyId=x"),
    tampered("only the algorithm", 400, INCOMPLETE, "must begin", authorization="AWS4-HMAC-SHA256"),
    tampered("no list of headers", 400, INCOMPLETE, "'SignedHeaders'", authorization=lambda it: it.split(", ")[0]),
    tampered("no signature in it", 400, INCOMPLETE, "'Signature'", authorization=lambda it: it.split(", Signature")[0]),
    tampered("no hexadecimal", 400, INCOMPLETE, "hexadecimal", authorization=lambda it: it[:-1] + "g"),
    tampered("a short scope", 400, INCOMPLETE, "5 slash-delimited", authorization=lambda it: it.replace("/us-east-1", "")),
    tampered("cut", 403, INVALID, MISMATCH, authorization=lambda it: it[:-2]),
    tampered("empty", (400, 403), INVALID, MISMATCH, authorization=lambda it: it[: it.index("Signature=") + 10]),
    tampered("forged", 403, INVALID, MISMATCH, authorization=lambda it: it[:-64] + "0" * 64),
    tampered("another body", 403, INVALID, MISMATCH, content=GOOD.replace(b"10", b"50")),
    tampered("another model", 403, INVALID, MISMATCH, target=raw.INVOKE.replace("-v1", "-v0")),
    tampered("the other operation", 403, INVALID, MISMATCH, target=raw.STREAM),
    tampered("a query added", 403, INVALID, MISMATCH, target=raw.INVOKE + "?a=b"),
    tampered("another host", 403, INVALID, MISMATCH, host="bedrock-runtime.us-east-1.amazonaws.com"),
    tampered("no time", 400, INCOMPLETE, "'X-Amz-Date'", x_amz_date=None),
    tampered("a time that is none", 400, INCOMPLETE, "basic format", x_amz_date="yesterday"),
    tampered("the 13th month", 400, INCOMPLETE, "basic format", x_amz_date="20261301T000000Z"),
    tampered("another time", 403, INVALID, "", x_amz_date="20200101T000000Z"),
    signed("an unknown key", 403, "UnrecognizedClientException", "The security token included", key="AKIDNOBODY"),
    signed("an empty key", 403, "UnrecognizedClientException", "The security token included", key=""),
    signed("a wrong secret", 403, INVALID, MISMATCH, secret="secret"),
    signed("an hour old", 403, INVALID, "Signature expired: ", now=hours(-1)),
    signed("an hour early", 403, INVALID, "Signature not yet current: ", now=hours(1)),
    signed("for another service", 403, INVALID, "correct service: 'bedrock'", service="s3"),
    signed("another terminator", 403, INVALID, "valid terminator", terminator="aws4"),
    signed("of another day", 403, INVALID, "Date in Credential scope does not match", day="20200101"),
    signed("without the host", 403, INVALID, "must be a 'SignedHeader'", names=("x-amz-date",)),
    signed("a header twice", 403, INVALID, MISMATCH, names=("host", "host", "x-amz-date")),
    signed("a wrong hash", 403, INVALID, "x-amz-content-sha256", headers={"x-amz-content-sha256": "0" * 64}),
    signed("an unsigned body", 403, INVALID, "over HTTPS", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
    tampered("a wrong bearer key", 403, DENIED, "make sure your API Key is valid", authorization="Bearer wrong"),
    tampered("an empty bearer key", 403, DENIED, "make sure your API Key is valid", authorization="Bearer "),
    tampered("half a bearer key", 403, DENIED, "API Key", authorization=f"Bearer {fleet.API_KEY[:-1]}"),
    tampered("two bearer keys", 403, DENIED, "API Key", authorization=f"Bearer {fleet.API_KEY} {fleet.API_KEY}"),
]


# --- operations, ids and media types --------------------------------------------------------------------------------

UNKNOWN = "UnknownOperationException"


def route(name, status, error, text, target=raw.INVOKE, method="POST", **headers):
    """A request that is signed as it is sent."""
    headers = {header.replace("_", "-"): value for header, value in headers.items()}

    def send(server):
        its_headers = raw.signed_headers(server, GOOD, target, headers, method=method)
        return raw.exchange(server.address, raw.request_bytes(GOOD, target, its_headers, method))

    return Case(f"route: {name}", send, status, error, text)


def model(name, identifier, text="The provided model identifier is invalid."):
    return route(name, 400, VALIDATION, text, f"/model/{identifier}/invoke")


PATTERN = "at 'modelId' failed to satisfy constraint"

ROUTES = [
    route("GET", 404, UNKNOWN, "no such operation", method="GET"),
    route("PUT", 404, UNKNOWN, "no such operation", method="PUT"),
    route("a method in small letters", (400, 404), UNKNOWN, "", method="post"),
    route("an operation of other models", 404, UNKNOWN, "no such operation", "/model/x/converse"),
    route("no operation", 404, UNKNOWN, "no such operation", f"/model/{raw.MODEL}"),
    route("no model", 404, UNKNOWN, "no such operation", "/model//invoke"),
    route("a segment too many", 404, UNKNOWN, "no such operation", f"{raw.INVOKE}/now"),
    route("a path of nobody's", 404, "", "", "/foundation-models"),
    route("a page with POST", 405, "", "GET or HEAD", "/metrics"),
    model("another vendor's model", "anthropic.claude-v2"),
    model("a newer model", "stability.sd3-5-large-v1:0"),
    model("an ARN of another model", "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fx.y"),
    model("an ARN of another service", "arn%3Aaws%3As3%3A%3A%3Abucket%2Fx", PATTERN),
    model("a space", "stable%20diffusion", PATTERN),
    model("a way out of the folder", "..%2F..%2Fetc%2Fpasswd", PATTERN),
    model("an escape that is none", "stability%zz", PATTERN),
    model("half an escape", "stability%2", PATTERN),
    model("bytes that are no UTF-8", "stability%ff%fe", PATTERN),
    model("a zero byte", "stability%00", PATTERN),
    model("an id escaped twice", "stability.stable-diffusion-xl-v1%253A0", PATTERN),
    model("an id of 3000", "x" * 3000, "less than or equal to 2048"),
    route("a text as content", 400, VALIDATION, "The provided Content Type is invalid", content_type="text/plain"),
    route("a form as content", 400, VALIDATION, "Content Type", content_type="application/x-www-form-urlencoded"),
    route("a JPEG file wanted", 400, VALIDATION, "The provided Accept Type is invalid", accept="image/jpeg"),
    route("a page wanted", 400, VALIDATION, "The provided Accept Type is invalid", accept="text/html"),
]


# --- HTTP itself ----------------------------------------------------------------------------------------------------

LARGE = 26_000_000
# A connection that is closed at once answers as well as a status does.
CLOSED = (400, 0)


def http(name, status, make, error="", text="", half_close=False):
    """Bytes that `make` makes from a server's address and the headers of a good request."""

    def send(server):
        return raw.exchange(server.address, make(raw.signed_headers(server, GOOD)), half_close)

    return Case(f"http: {name}", send, status, error, text)


def bent(name, status, change, content=GOOD, **expected):
    """A good request with other headers than `Content-Length`, before any bytes."""

    def make(headers):
        headers = {header: value for header, value in headers.items() if header != "content-length"}
        return raw.request_bytes(content, headers={**headers, **change})

    return http(name, status, make, **expected)


def chunked(content):
    pieces = [content[start : start + 65536] for start in range(0, len(content), 65536)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


TOO_LARGE = {"error": VALIDATION, "text": "at most 25000000 bytes"}

HTTP = [
    bent("a body of 26 MB", 413, {"content-length": LARGE}, b" " * LARGE, **TOO_LARGE),
    bent("a body of 26 MB in chunks", 413, {"transfer-encoding": "chunked"}, chunked(b" " * LARGE), **TOO_LARGE),
    bent("26 MB announced", 413, {"content-length": LARGE, "expect": "100-continue"}, b"", **TOO_LARGE),
    bent("a length of 2^64", CLOSED, {"content-length": 2**64}, b""),
    bent("a length below 0", CLOSED, {"content-length": -5}),
    bent("a length that is none", CLOSED, {"content-length": "ten"}),
    bent("two lengths", CLOSED, {"content-length": len(GOOD), "Content-Length": 5}),
    bent("an unknown coding", CLOSED, {"transfer-encoding": "gzip"}),
    bent("chunks that are none", CLOSED, {"transfer-encoding": "chunked"}, b"zzz\r\nhello\r\n"),
    bent("a chunk of 2^64", CLOSED, {"transfer-encoding": "chunked"}, b"fffffffffffffffff\r\nhello\r\n"),
    bent("chunks that break off", CLOSED, {"transfer-encoding": "chunked"}, b"10\r\nhello", half_close=True),
    bent("a body that breaks off", CLOSED, {"content-length": len(GOOD) + 10}, half_close=True),
    bent("a header of 100 KB", (431, 400, 0), {"x-long": "x" * 100_000}),
    bent("200 headers", (431, 400, 0), {f"x-{number}": "x" for number in range(200)}),
    bent("a zero byte in a header", CLOSED, {"x-zero": "a\0b", "content-length": len(GOOD)}),
    bent("a space in a header's name", CLOSED, {"x y": "z", "content-length": len(GOOD)}),
    http("a target of 100 KB", (414, 431, 400, 0), lambda _: raw.request_bytes(b"", "/model/" + "x" * 100_000)),
    http("bare letters in a target", CLOSED, lambda _: raw.request_bytes(b"", "/model/é ü/invoke")),
    http("a version that is none", CLOSED, lambda _: raw.request_bytes(b"", version="HTTP/3.7")),
    http("no version", CLOSED, lambda _: b"POST /model/x/invoke\r\n\r\n"),
    http("an empty line and an end", 0, lambda _: b"\r\n\r\n", half_close=True),
    http("noise", CLOSED, lambda _: bytes(range(256)) * 10 + b"\r\n\r\n", half_close=True),
    http("a TLS greeting", CLOSED, lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, half_close=True),
    http("HTTP/2 that goes wrong", 0, lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100),
    http("half of HTTP/2's greeting", CLOSED, lambda _: b"PRI * HTTP/2.0\r\n\r\nSM", half_close=True),
]


# --- what looks wrong, but is right ---------------------------------------------------------------------------------


def accepted(name, make):
    def send(server):
        return raw.exchange(server.address, make(server))

    return Case(f"right: {name}", send, 200)


def sent_as(version="HTTP/1.1", target=raw.INVOKE, content=GOOD, **headers):
    def make(server):
        its = raw.signed_headers(server, GOOD, raw.INVOKE, {key.replace("_", "-"): to for key, to in headers.items()})
        if content is not GOOD:
            its = {**its, "transfer-encoding": "chunked"}
            del its["content-length"]
        return raw.request_bytes(content, target.format(*server.address), its, version=version)

    return make


RIGHT = [
    accepted("HTTP/1.0", sent_as("HTTP/1.0")),
    accepted("an absolute target", sent_as(target="http://{}:{}" + raw.INVOKE)),
    accepted("a body in chunks", sent_as(content=chunked(GOOD))),
    accepted("headers of guardrails", sent_as(x_amzn_bedrock_guardrailidentifier="g", x_amzn_bedrock_trace="ENABLED")),
    accepted("a strange user agent", sent_as(user_agent="é' OR 1=1 --")),
]

GROUPS = {
    "the bodies": BODIES,
    "the schema": SCHEMA,
    "the pictures": PICTURES,
    "the signatures": SIGNATURES,
    "the routes": ROUTES,
    "HTTP": HTTP,
    "what is right": RIGHT,
}
