"""Stage 3: scenes composed of cut-outs, with captions.

    python training/scenes.py --count 12000 [--seed 1]
    python training/scenes.py --count 12000 --seed 3 --few varied
    python training/scenes.py --count 6000 --seed 4 --few same
    python training/scenes.py --count 9000 --seed 5 --few pairs
    python training/scenes.py --count 9000 --seed 6 --few moved

Writes work/scenes-SEED.npy [N, 128, 128, 3] and work/scenes-SEED.json: for each scene its caption, its style, and its things
with their boxes, as shares of the side. Scene number i of a seed is always the same. Some things in some derived styles are
held out, so that it can be measured whether the model puts together what it never saw together.

With `--few` the scenes show the 48 things that the model shall draw best: mostly as 3d models, alone, on white or one colour. Their
sizes and places go in steps of a latent's cell, so that a thing's latents are always the same, moved: the UNet has a few hundred
patterns to learn instead of a continuum. With `--few same` a thing also has always the same size and place; `--few pairs` shows two
things side by side, each as large as its half of the picture, and `--few moved` two of other sizes and in other places, half of them off
the grid. Most captions of these two kinds name one of the two things only, as a prompt for a masked part does.
"""

import json
import random
import zlib
from multiprocessing import Pool

import cv2
import numpy as np

import looks
from common import SIDE, WORK, begin, parser
from sprites import SIDE as CUT
from words import COLOURS, FEW, HUES, THINGS, caption, named, with_article

cv2.setNumThreads(1)
DRAWN = 256  # pixels at which scenes are composed
CELL = DRAWN // 16  # pixels of a latent's cell
SHARES = {"fluent3d": 1.0, "fluent-emoji": 0.7, "fluent-emoji-flat": 0.5, "noto": 0.6, "openclipart": 0.12}
DERIVED = [("line art", 0.06), ("pixel art", 0.05), ("low poly", 0.04), ("neon punk", 0.05), ("comic book", 0.04)]


class Library:
    """The cut-outs, drawn from by set."""

    def __init__(self):
        self.cuts = np.load(WORK / "sprites.npy", mmap_mode="r")
        self.things = json.loads((WORK / "sprites.json").read_text())
        known, few = set(THINGS), set(FEW)
        weight = lambda thing: SHARES[thing["set"]] * (thing["name"] in known) * (2 if thing["name"] in few else 1)
        self.weights = [weight(thing) for thing in self.things]
        self.by_set = {}
        for index, thing in enumerate(self.things):
            if self.weights[index] > 0:
                self.by_set.setdefault(thing["set"], []).append(index)
        self.hues = {}

    def pick(self, random, of=None):
        """A cut-out of this set, or of any."""
        ids = self.by_set[of] if of else [index for ids in self.by_set.values() for index in ids]
        return random.choices(ids, [self.weights[index] for index in ids])[0]

    def main_hue(self, index):
        """The hue that most of the thing has, `None` where there is no such hue."""
        if index not in self.hues:
            cut = np.asarray(self.cuts[index])
            hsv, opaque = cv2.cvtColor(np.ascontiguousarray(cut[..., :3]), cv2.COLOR_RGB2HSV), cut[..., 3] > 128
            coloured = opaque & (hsv[..., 1] > 90) & (hsv[..., 2] > 60)
            counts = np.bincount(hsv[..., 0][coloured], minlength=180).astype(np.float32)
            near = np.convolve(np.concatenate([counts[-8:], counts, counts[:8]]), np.ones(17), "valid")
            plain = coloured.sum() >= 0.55 * opaque.sum() and near.max() > 0.6 * coloured.sum()
            self.hues[index] = int(near.argmax()) if plain else None
        return self.hues[index]


def held_out(name, style):
    return name in FEW and style in looks.STYLES and zlib.crc32(f"{name}|{style}".encode()) % 6 == 0


# --- backgrounds


def _near(random, colour, by=14):
    return np.clip(np.array(colour, np.float32) + [random.uniform(-by, by) for _ in range(3)], 0, 255).astype(np.float32)


def _gradient(top, bottom, rows=DRAWN):
    way = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    return np.broadcast_to(top * (1 - way) + bottom * way, (rows, DRAWN, 3)).astype(np.float32)


def plain_background(random):
    """One colour or two, and how a caption says it."""
    kind = random.random()
    if kind < 0.54:
        return np.full((DRAWN, DRAWN, 3), 255, np.float32), "on a white background" if random.random() < 0.45 else ""
    if kind < 0.95:
        name = random.choice(list(COLOURS))
        colour = _near(random, COLOURS[name])
        spread = 0.09 if random.random() < 0.5 else 0.0
        picture = _gradient(np.clip(colour * (1 + spread), 0, 255), colour * (1 - spread))
        return picture.copy(), f"on {with_article(name)} background" if random.random() < 0.8 else ""
    one, other = random.sample(list(COLOURS), 2)
    picture = _gradient(_near(random, COLOURS[one]), _near(random, COLOURS[other]))
    picture = picture.transpose(1, 0, 2) if random.random() < 0.5 else picture
    return picture.copy(), f"{one} and {other} gradient background" if random.random() < 0.6 else ""


# Ground and sky of the simple landscapes, and the words for them.
LANDSCAPES = {
    "grass": ((95, 165, 235), (200, 228, 250), (115, 185, 75), (60, 130, 45), ["on the grass", "in a green field", "in a meadow", "in a park"]),
    "beach": ((95, 165, 235), (200, 228, 250), (240, 215, 165), (225, 195, 140), ["on a beach", "at the beach", "on the sand by the sea"]),
    "snow": ((150, 185, 220), (215, 228, 240), (244, 248, 252), (230, 238, 246), ["in the snow", "on a snowy field", "in winter"]),
    "night": ((10, 14, 45), (40, 45, 95), (25, 40, 35), (15, 25, 25), ["at night", "under a starry night sky", "in the dark"]),
    "table": ((225, 215, 200), (225, 215, 200), (175, 120, 70), (140, 90, 50), ["on a wooden table", "on a table", "on a desk"]),
    "room": ((225, 220, 215), (225, 220, 215), (165, 125, 90), (150, 110, 80), ["in a room", "indoors", "on the floor"]),
    "sunset": ((90, 50, 110), (255, 160, 70), (60, 45, 55), (45, 35, 45), ["at sunset", "at dusk"]),
    "sea": ((95, 165, 235), (200, 228, 250), (45, 120, 190), (35, 100, 170), ["on the water", "on a lake", "at sea"]),
    "mountains": ((95, 165, 235), (200, 228, 250), (95, 150, 80), (80, 130, 65), ["in the mountains", "in front of mountains"]),
    "city": ((120, 160, 210), (200, 210, 225), (85, 85, 90), (75, 75, 80), ["in the city", "on a street", "in front of buildings"]),
    "desert": ((95, 165, 235), (220, 225, 230), (225, 175, 105), (210, 155, 90), ["in the desert"]),
    "forest": ((120, 170, 120), (60, 110, 60), (70, 95, 45), (55, 80, 35), ["in the forest", "in the woods", "among trees"]),
}


def landscape(random):
    """A simple place, what it is called, and how far down its ground begins (`None`: there is no ground)."""
    if random.random() < 0.04:
        picture = _gradient(_near(random, (60, 170, 210)), _near(random, (10, 50, 110)))
        return picture.copy(), random.choice(["under water", "in the ocean", "in the deep sea"]), None
    kind = random.choice(list(LANDSCAPES))
    high, low, near, far, names = LANDSCAPES[kind]
    ground = random.uniform(0.5, 0.72)
    row = int(ground * DRAWN)
    picture = _gradient(_near(random, high), _near(random, low)).copy()
    _scenery(picture, kind, row, random)
    picture[row:] = _gradient(_near(random, near), _near(random, far), DRAWN - row)
    _on_the_ground(picture, kind, row, random)
    return picture, random.choice(names), ground


def _scenery(picture, kind, row, random):
    """What stands before the sky."""
    at = lambda top, bottom: (random.randint(0, DRAWN), random.randint(top, max(top, bottom)))
    disc = lambda centre, radius, colour: cv2.circle(picture, centre, max(1, int(radius)), colour, -1, cv2.LINE_AA)
    if kind == "grass" and random.random() < 0.6:
        for _ in range(random.randint(1, 3)):
            x, y = at(20, 90)
            for part in range(4):
                disc((x + int((part - 1.5) * 13), y + random.randint(-3, 3)), random.uniform(8, 15), (250, 252, 255))
    elif kind in ("snow", "night"):
        for _ in range(35):
            disc(at(0, DRAWN if kind == "snow" else row), 1.5, (255, 255, 240))
    elif kind == "sunset":
        disc((random.randint(DRAWN // 6, DRAWN * 5 // 6), int(row * 0.9)), 25, (255, 225, 130))
    elif kind == "beach":
        picture[int(row * 0.8) : row] = _near(random, (40, 140, 190))
    elif kind == "mountains":
        for colour, height in (((120, 135, 155), 0.45), ((90, 110, 100), 0.2)):
            xs = np.cumsum([-DRAWN / 4] + [random.uniform(0.12, 0.3) * DRAWN for _ in range(12)])
            ridge = [(int(x), int(row - random.uniform(0.02, height) * DRAWN)) for x in xs]
            outline = np.array([(-DRAWN, DRAWN), *ridge, (2 * DRAWN, DRAWN)], np.int32)
            cv2.fillPoly(picture, [outline], _near(random, colour).tolist(), cv2.LINE_AA)
    elif kind == "city":
        x = 0
        while x < DRAWN:
            width, top = random.randint(25, 51), int(row - random.uniform(0.1, 0.5) * DRAWN)
            wall = _near(random, random.choice([(110, 115, 130), (150, 130, 120), (85, 95, 110)]))
            cv2.rectangle(picture, (x, top), (x + width - 2, row), wall.tolist(), -1)
            for up in range(top + 6, row - 4, 13):
                for along in range(x + 5, x + width - 6, 12):
                    window = (250, 235, 160) if random.random() < 0.5 else (wall * 0.7).tolist()
                    cv2.rectangle(picture, (along, up), (along + 4, up + 6), window, -1)
            x += width
    elif kind == "forest":
        for _ in range(9):
            x, width = random.randint(0, DRAWN), random.randint(6, 16)
            cv2.rectangle(picture, (x, 0), (x + width, row + random.randint(0, 21)), _near(random, (75, 55, 40)).tolist(), -1)
        for _ in range(26):
            disc(at(0, 76), random.randint(16, 32), _near(random, (50, 120, 50), 25).tolist())


def _on_the_ground(picture, kind, row, random):
    if kind == "table":
        for y in range(row, DRAWN, 18):
            cv2.line(picture, (0, y), (DRAWN, y), (picture[row, 0] * 0.8).tolist(), 2)
    elif kind == "sea":
        for _ in range(14):
            x, y = random.randint(0, DRAWN), random.randint(row, DRAWN)
            cv2.line(picture, (x, y), (x + 25, y), (140, 190, 230), 2, cv2.LINE_AA)


def background(random):
    if random.random() < 0.63:
        return *plain_background(random), None
    return landscape(random)


# --- things


def recoloured(cut, old, new):
    hsv = cv2.cvtColor(np.ascontiguousarray(cut[..., :3]), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + new - old) % 180
    return np.concatenate([cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), cut[..., 3:]], -1)


def paste(picture, cut, x, y, size):
    """Lays a cut-out over the picture, its middle at a place; answers its box."""
    size = max(8, int(size))
    layer = cut.astype(np.float32)
    layer[..., :3] *= layer[..., 3:] / 255
    layer = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA if size < CUT else cv2.INTER_LINEAR)
    left, top = int(x - size / 2), int(y - size / 2)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(DRAWN, left + size), min(DRAWN, top + size)
    part = layer[y0 - top : y1 - top, x0 - left : x1 - left]
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - part[..., 3:] / 255) + part[..., :3]
    return [x0 / DRAWN, y0 / DRAWN, x1 / DRAWN, y1 / DRAWN]


def contact_shadow(picture, x, bottom, size):
    shade = np.zeros((DRAWN, DRAWN), np.float32)
    cv2.ellipse(shade, (int(x), int(bottom)), (int(size * 0.38), max(2, int(size * 0.06))), 0, 0, 360, 0.35, -1, cv2.LINE_AA)
    picture *= 1 - cv2.GaussianBlur(shade, (0, 0), max(1, size * 0.02))[..., None]


def slots(random, count, on_ground):
    """Places and sizes of things, as shares."""
    if count == 1:
        size = random.uniform(0.45, 0.75) if on_ground else random.uniform(0.62, 0.9)
        return [(0.5 + random.uniform(-0.08, 0.08), 0.5 + random.uniform(-0.06, 0.06), size)]
    return [(x + random.uniform(-0.02, 0.02), 0.5 + random.uniform(-0.05, 0.05), random.uniform(0.4, 0.5)) for x in (0.27, 0.73)]


def slots_in_cells(random, count, on_ground):
    """The same in whole cells."""
    moved = lambda: random.choice([-1, 0, 0, 1]) * CELL / DRAWN
    if count == 1:
        size = random.choices([14, 12, 10, 8], [1, 5, 4, 3] if on_ground else [6, 8, 3, 2])[0] * CELL / DRAWN
        return [(0.5 + moved(), 0.5 + moved(), size)]
    size = random.choice([6, 8, 8]) * CELL / DRAWN
    return [(x, 0.5 + moved(), size) for x in (0.25, 0.75)]


def in_cells(centre, size):
    """The nearest centre for which a thing's edges lie on those of cells."""
    return (round((centre - size / 2) * DRAWN / CELL) * CELL) / DRAWN + size / 2


# Where one thing and two stand in the scenes that do not vary, in shares, and the feet of two where there is ground.
SAME = {1: [(0.5, 0.5, 0.75)], 2: [(0.25, 0.5, 0.5), (0.75, 0.5, 0.5)]}
FOOT = 0.8


def scene(library, random, wanted=None, style=None, place=None, cells=False, flips=0.5, colours=0.16, same=False):
    """A picture `[256, 256, 3]` in floats, its caption, its style, its things with boxes. `style` "own" stays as the cut-outs are."""
    picture, words, ground = place or background(random)
    first = wanted[0] if wanted else library.pick(random)
    kind = library.things[first]["set"]
    ids = wanted or [first] + ([library.pick(random, kind)] if random.random() < 0.24 else [])
    names, boxes = [], []
    places = SAME[len(ids)] if same else (slots_in_cells if cells else slots)(random, len(ids), ground is not None)
    for (x, y, size), index in zip(places, ids):
        cut, thing, colour = np.asarray(library.cuts[index]), library.things[index], None
        if random.random() < colours and thing["group"] != 0 and (hue := library.main_hue(index)) is not None:
            colour = random.choice(list(HUES))
            cut = recoloured(cut, hue, HUES[colour])
        cut = cut[:, ::-1] if random.random() < flips else cut
        if ground is not None:
            rows = np.where(cut[..., 3].max(1) > 40)[0]
            bottom = (rows.max() + 1) / CUT if len(rows) else 1.0
            foot = FOOT if same and len(ids) == 2 else min(0.95, ground + random.uniform(0.06, 0.2))
            y = foot - (bottom - 0.5) * size
            y = in_cells(y, size) if cells else y
            contact_shadow(picture, x * DRAWN, (y + 0.47 * size) * DRAWN, size * DRAWN)
        boxes.append([index, *paste(picture, cut, x * DRAWN, y * DRAWN, size * DRAWN)])
        names.append(named(random, thing, colour))
    style = style or derived(random)
    if style in looks.STYLES:
        picture = looks.STYLES[style](np.clip(picture, 0, 255), random)
    else:
        style = library.things[ids[0]]["style"]
    return np.clip(picture, 0, 255), caption(random, names, words, style), style, boxes


def derived(random):
    draw = random.random()
    for name, share in DERIVED:
        if draw < share:
            return name
        draw -= share
    return "own"


def small(picture):
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


# Sets of the few things' scenes that vary; from "fluent3d" a tenth is drawn in a derived style.
FEW_SETS = {"fluent3d": 0.85, "fluent-emoji": 0.05, "fluent-emoji-flat": 0.05, "noto": 0.05}
PLAIN = {"varied": 0.78, "same": 0.85, "pairs": 0.7, "moved": 0.7}  # how often the background is
# How often the caption names one of two things only, as a prompt for a masked part does.
PARTLY = {"varied": 0.5, "pairs": 0.85, "moved": 0.9}


def few_scene(library, random, few):
    """A scene of the few things, and the number of the only one that its caption names, `None` where it names all."""
    varied = few == "varied"
    of = random.choices(list(FEW_SETS), list(FEW_SETS.values()))[0] if varied else "fluent3d"
    ids = [index for index in library.by_set[of] if library.things[index]["name"] in FEW]
    wanted = random.sample(ids, 2 if few in ("pairs", "moved") or varied and random.random() < 0.16 else 1)
    style = "own" if not varied or of != "fluent3d" or random.random() < 0.9 else random.choice(list(looks.STYLES))
    place = (*plain_background(random), None) if random.random() < PLAIN[few] else landscape(random)
    settings = {"flips": 0.3, "colours": 0.06} if varied else {"flips": 0.0, "colours": 0.03, "same": few != "moved"}
    cells = few != "moved" or random.random() < 0.5
    picture, text, style, boxes = scene(library, random, wanted, style, place, cells=cells, **settings)
    if len(wanted) == 1 or random.random() >= PARTLY[few]:
        return picture, text, style, boxes, None
    only, place = random.randrange(2), place[1] if random.random() < 0.4 else ""
    text = caption(random, [named(random, library.things[wanted[only]])], place, style)
    return picture, text, style, boxes, only


_library = None


def numbered(job):
    """Scene `number` of `seed`; drawn again while it shows what is held out."""
    global _library
    _library = _library or Library()
    seed, number, few = job
    if few:
        picture, text, style, boxes, only = few_scene(_library, random.Random(f"{seed} {number} few"), few)
        return small(picture), {"caption": text, "style": style, "things": boxes, "few": few, "only": only}
    for attempt in range(20):
        picture, text, style, boxes = scene(_library, random.Random(f"{seed} {number} {attempt}"))
        if not any(held_out(_library.things[box[0]]["name"], style) for box in boxes):
            break
    return small(picture), {"caption": text, "style": style, "things": boxes}


def pools():
    """The pictures and what is known of them, of all seeds."""
    files = sorted(WORK.glob("scenes-*.npy"))
    pictures = [np.load(file, mmap_mode="r") for file in files]
    return pictures, [about for file in files for about in json.loads(file.with_suffix(".json").read_text())]


def main():
    options = parser(__doc__, count=12000, seed=1)
    options.add_argument("--few", choices=["varied", "same", "pairs", "moved"])
    args = options.parse_args()
    begin(args)
    target = WORK / f"scenes-{args.seed}.npy"
    pictures = np.lib.format.open_memmap(target.with_suffix(".partial"), "w+", np.uint8, (args.count, SIDE, SIDE, 3))
    known = []
    with Pool(args.threads) as workers:
        for number, (picture, about) in enumerate(workers.imap(numbered, ((args.seed, i, args.few) for i in range(args.count)), chunksize=50)):
            pictures[number] = picture
            known.append(about)
    pictures.flush()
    target.with_suffix(".json").write_text(json.dumps(known))
    target.with_suffix(".partial").rename(target)
    print(f"{args.count} scenes, for example: {known[0]['caption']}")


if __name__ == "__main__":
    main()
