"""Pictures to send, and what is seen in those that come back."""

import base64
import io

from PIL import Image

PROMPTS = [{"text": "a strawberry on a white background, 3d model"}]


def stripes(width, height, mode="RGB"):
    """A picture in which no two neighbours are equal, so that a shifted or resampled pixel shows."""
    pixels = [
        ((7 * x + 3 * y) % 256, (5 * x + 11 * y) % 256, (x * y) % 256, 255)[: len(mode)]
        for y in range(height)
        for x in range(width)
    ]
    picture = Image.new(mode, (width, height))
    picture.putdata(pixels)
    return picture


def box_mask(width, height, box, inside=255, outside=0):
    """A mask with a box of one value on a ground of another."""
    mask = Image.new("L", (width, height), outside)
    mask.paste(inside, box)
    return mask


def png(picture):
    """A picture's file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def encoded(picture, kind="PNG"):
    """A picture's file in base64."""
    file = io.BytesIO()
    picture.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def opened(file):
    """The picture in a file's bytes."""
    picture = Image.open(io.BytesIO(file))
    picture.load()
    return picture


def pixels_of(picture, box):
    return list(picture.convert("RGB").crop(box).getdata())


def outside_of(picture, box):
    """The pixels outside of a box, as bytes, in which the box is blackened."""
    rest = picture.convert("RGB")
    rest.paste((0, 0, 0), box)
    return rest.tobytes()
