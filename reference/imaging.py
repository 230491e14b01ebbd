"""Writes the golden pictures of pentimento-imaging with Pillow 13.

    python reference/imaging.py

`decode/NAME.EXT` is a file of a kind that clients send, `decode/NAME.expected.png` what Pillow reads from it as 8-bit
RGB or RGBA. `resize/` holds pictures and what LANCZOS (for masks, mode L: BILINEAR; `cubic_*`: BICUBIC) makes of them. `luma/` holds a
picture and its mode L. The drawings are made of integer arithmetic alone, so a second run writes the same bytes as
long as Pillow and its codecs stay the same.
"""

import pathlib

from PIL import Image

ROOT = pathlib.Path(__file__).parent / "goldens" / "imaging"


def drawing(mode: str, width: int, height: int) -> Image.Image:
    """Slopes, a disc with a hard edge, and a corner of noise; with alpha, a transparent disc elsewhere."""
    image = Image.new(mode, (width, height))
    state = 1
    for y in range(height):
        for x in range(width):
            # A linear congruential generator (Numerical Recipes, ranqd1).
            state = (state * 1664525 + 1013904223) % 2**32
            red, green, blue = 255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)
            if (3 * x - width) ** 2 + (3 * y - height) ** 2 < (height * 2 // 3) ** 2:
                red, green, blue = 250, 240, 20
            if x > width * 2 // 3 and y < height // 3:
                red, green, blue = state >> 24, state >> 16 & 255, state >> 8 & 255
            inside = (3 * x - 2 * width) ** 2 + (3 * y - 2 * height) ** 2 < height**2
            alpha = 0 if inside else 255 - 128 * x // width
            pixel = {"L": red, "RGB": (red, green, blue), "RGBA": (red, green, blue, alpha)}[mode]
            image.putpixel((x, y), pixel)
    return image


def smooth(mode: str, width: int, height: int) -> Image.Image:
    """Slopes alone, which lossy formats keep nearly."""
    image = Image.new(mode, (width, height))
    for y in range(height):
        for x in range(width):
            pixel = (255 * x // width, 255 * y // height, 128, 255 - 200 * y // height)
            image.putpixel((x, y), pixel[: len(mode)])
    return image


def save(image: Image.Image, name: str, **options) -> None:
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def decoding(name: str, image: Image.Image, **options) -> None:
    """Saves the file, and what Pillow reads back from it."""
    save(image, f"decode/{name}", **options)
    with Image.open(ROOT / "decode" / name) as read:
        alpha = "A" in read.getbands() or "transparency" in read.info
        expected = read.convert("RGBA" if alpha else "RGB")
    save(expected, f"decode/{name.split('.')[0]}.expected.png")


def write_decoding() -> None:
    rgb, rgba, grey = (drawing(mode, 24, 18) for mode in ("RGB", "RGBA", "L"))
    soft, clear = smooth("RGB", 24, 18), smooth("RGBA", 24, 18)
    decoding("rgb.png", rgb)
    decoding("rgba.png", rgba)
    decoding("grey.png", grey)
    decoding("grey_alpha.png", rgba.convert("LA"))
    decoding("one_bit.png", grey.convert("1"))
    decoding("palette.png", rgb.quantize(16), bits=4)
    decoding("palette_transparent.png", rgb.quantize(16), transparency=bytes([0, 128, 255]))
    decoding("grey_transparent.png", grey, transparency=grey.getpixel((3, 3)))
    decoding("rgb_transparent.png", rgb, transparency=(250, 240, 20))
    decoding("animated.png", rgb, save_all=True, append_images=[soft], duration=100)
    decoding("baseline.jpg", soft, quality=95, subsampling="4:4:4")
    decoding("subsampled.jpg", soft, quality=95, subsampling="4:2:0")
    decoding("progressive.jpg", soft, quality=95, progressive=True)
    decoding("grey_jpeg.jpg", soft.convert("L"), quality=95)
    decoding("cmyk.jpg", Image.merge("CMYK", smooth("RGBA", 24, 18).split()), quality=95)
    decoding("lossy.webp", soft, quality=95)
    decoding("lossy_alpha.webp", clear, quality=95)
    decoding("lossless.webp", rgb, lossless=True)
    decoding("lossless_alpha.webp", rgba, lossless=True, exact=True)
    decoding("animated_webp.webp", rgb, save_all=True, append_images=[soft], duration=100, lossless=True)


SIZES = [(16, 11), (64, 80), (37, 12), (90, 29), (5, 3), (1, 1)]


def write_resizing() -> None:
    for mode, filter_ in [("RGB", "LANCZOS"), ("RGBA", "LANCZOS"), ("L", "BILINEAR")]:
        source = drawing(mode, 37, 29)
        save(source, f"resize/{mode.lower()}.png")
        for width, height in SIZES:
            resized = source.resize((width, height), Image.Resampling[filter_])
            save(resized, f"resize/{mode.lower()}_{width}x{height}.png")
    for width, height in SIZES:
        resized = drawing("RGB", 37, 29).resize((width, height), Image.Resampling.BICUBIC)
        save(resized, f"resize/cubic_{width}x{height}.png")


def write_luma() -> None:
    source = drawing("RGB", 37, 29)
    save(source, "luma/rgb.png")
    save(source.convert("L"), "luma/l.png")


if __name__ == "__main__":
    write_decoding()
    write_resizing()
    write_luma()
