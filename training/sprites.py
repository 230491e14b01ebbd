"""Stage 2: cut-outs with names, from the packages.

    python training/sprites.py [--limit N]

Writes work/sprites.npy [N, 192, 192, 4] (RGBA, the thing fills the square) and work/sprites.json (for each: its name, keywords,
group, and the set and style that it belongs to).
"""

import io
import json
import re

import numpy as np
import resvg_py
from PIL import Image

from common import WORK, begin, parser
from sources import CLIPART, NPM

SIDE = 192
MARGIN = 2
GROUPS = {0: "faces", 1: "people", 3: "animals and plants", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
VECTORS = [("fluent-emoji", "digital art"), ("fluent-emoji-flat", "flat vector art"), ("noto", "cartoon")]
OF_ONE_NAME = 4  # drawings from the clip art


def drawn(svg, side=SIDE):
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def fitted(image):
    """The opaque part, scaled so that its longer side fills the square; `None` where there is next to nothing."""
    ys, xs = np.where(np.asarray(image)[..., 3] > 12)
    if len(xs) < 30:
        return None
    image = image.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    scale = (SIDE - 2 * MARGIN) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Colours are scaled with their opacity, so that what is invisible does not bleed in.
    pixels = np.asarray(image).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    scaled = Image.fromarray(pixels.astype(np.uint8), "RGBA").resize((width, height), Image.LANCZOS)
    pixels = np.asarray(scaled).astype(np.float32)
    pixels[..., :3] = np.clip(pixels[..., :3] * 255 / np.maximum(pixels[..., 3:], 1), 0, 255)
    out = np.zeros((SIDE, SIDE, 4), np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    out[top : top + height, left : left + width] = pixels.astype(np.uint8)
    return out


def things():
    """What the emoji are called. Flags, clock faces, families and professions are left out."""
    out = []
    for emoji in json.loads((NPM / "emojibase-data/en/data.json").read_text()):
        group, name = emoji.get("group"), re.sub("[’]", "'", emoji["label"].lower()).replace("“", "").replace("”", "")
        if group not in GROUPS or re.search(r"o'clock|thirty|: |button|keycap|family|couple with|kiss$", name):
            continue
        if group == 1 and re.match(r"(man|woman|men|women|person|people) ", name):
            continue
        code = emoji["hexcode"].lower().replace("-fe0f", "")
        out.append({"code": code, "name": name, "words": [word.lower() for word in emoji.get("tags", [])], "group": group})
    return out


class Icons:
    """A set of SVG drawings in Iconify's layout."""

    def __init__(self, name):
        folder = NPM / "@iconify-json" / name
        self.icons = json.loads((folder / "icons.json").read_text())
        characters = json.loads((folder / "chars.json").read_text())
        if not characters:  # fluent-emoji has its codes in its sister's file only
            characters = json.loads((NPM / "@iconify-json" / f"{name}-flat" / "chars.json").read_text())
        self.by_code = {code.replace("-fe0f", ""): name for code, name in characters.items()}

    def svg(self, code):
        name = self.by_code.get(code)
        icon = self.icons["icons"].get(name) or self.icons["icons"].get(self.icons.get("aliases", {}).get(name, {}).get("parent"))
        if icon is None:
            return None
        width, height = (icon.get(side, self.icons.get(side, 16)) for side in ("width", "height"))
        box = f'{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}'
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {namespaces} width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'


def emoji_sets(things):
    folder = NPM / "@lobehub/fluent-emoji-3d/assets"
    files = {file.stem.replace("-fe0f", ""): file for file in folder.iterdir()}
    for thing in things:
        if thing["code"] in files:
            image = Image.open(files[thing["code"]]).convert("RGBA")
            yield fitted(image), {"set": "fluent3d", "style": "3d model", **thing}
    for name, style in VECTORS:
        icons = Icons(name)
        for thing in things:
            if svg := icons.svg(thing["code"]):
                yield fitted(drawn(svg)), {"set": name, "style": style, **thing}


def clip_art(things):
    """Drawings whose title is a thing's name, or one or two words and then that."""
    named, seen = {thing["name"]: thing for thing in things if thing["group"] >= 3}, {}
    for file in sorted((CLIPART / "openclipart/svg").rglob("*.svg")):
        if re.search(r"flags|unsorted|special|logos|icons|buttons|symbols|diagrams|computer/", str(file)) or file.stat().st_size > 600_000:
            continue
        text = file.read_text(errors="replace")
        title = re.search(r"<dc:title>(.*?)</dc:title>", text, re.S)
        title = re.sub(r"[^a-z]+", " ", title.group(1).lower()).strip() if title else ""
        words = title.split()
        thing = named.get(title) or (named.get(words[-1]) if 1 < len(words) <= 3 else None)
        if thing is None or seen.get(thing["name"], 0) >= OF_ONE_NAME:
            continue
        try:
            cut = fitted(drawn(text, 256))
        except Exception as error:  # old drawings that the renderer does not read
            print(f"{file.name}: {str(error)[:60]}")
            continue
        if cut is not None and 0.08 < (cut[..., 3] > 128).mean() < 0.97:
            seen[thing["name"]] = seen.get(thing["name"], 0) + 1
            yield cut, {"set": "openclipart", "style": "clip art", **thing}


def main():
    args = parser(__doc__, limit=0).parse_args()
    begin(args)
    known = things()
    if args.limit:
        from words import FEW

        known = [thing for thing in known if thing["name"] in FEW][: args.limit]
    pairs = [*emoji_sets(known), *clip_art(known)]
    pairs = [(cut, about) for cut, about in pairs if cut is not None]
    np.save(WORK / "sprites.npy", np.stack([cut for cut, _ in pairs]))
    (WORK / "sprites.json").write_text(json.dumps([about for _, about in pairs]))
    print(f"{len(pairs)} cut-outs of {len(known)} things")


if __name__ == "__main__":
    main()
