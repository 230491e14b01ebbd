"""Draw what the embedded model's control network and adapters do, as the sheet of docs/conditioning.md.

    python reference/steering_sheet.py PENTIMENTO docs/steering.png

Each row: a picture drawn from words, its edges as OpenCV finds them, the picture drawn on at strength 0.9 without and with the
edges, and the same with each adapter. To be run again when the embedded model changes; not run by the tests.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIDE = 128
GAP = 4
ROWS = [
    ("a house on a white background, 3d model", "a castle on a white background, 3d model", 3),
    ("a red apple on a white background, 3d model", "an orange on a white background, 3d model", 7),
    ("a strawberry on a white background, 3d model", "a strawberry on a white background, 3d model", 1),
]
ADAPTERS = ("plaster=1", "pastel=1", "pencil=1")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pentimento", type=Path)
    parser.add_argument("sheet", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:

        def draw(name, prompt, *options):
            out = Path(folder) / f"{name}.png"
            words = ["generate", "-p", prompt, "--cfg", "4", "--guidance-rescale", "0.5", "--steps", "30", "--dtype", "f32"]
            subprocess.run([arguments.pentimento, *words, *map(str, options), "-q", "-o", out], check=True)
            return out

        for number, (first, second, seed) in enumerate(ROWS):
            init = draw(f"{number}-init", first, "--seed", seed)
            edges = cv2.Canny(cv2.imread(str(init)), 100, 200)
            start = ("--init", init, "--strength", "0.9", "--seed", seed + 100)
            pictures = [draw(f"{number}-plain", second, *start), draw(f"{number}-edges", second, *start, "--canny", "1")]
            for adapter in ADAPTERS:
                options = (*start, "--canny", "1", "--lora", adapter)
                pictures.append(draw(f"{number}-{adapter}", second, *options))
            cells = [np.asarray(Image.open(path).convert("RGB")) for path in [init, *pictures]]
            cells.insert(1, np.repeat(edges[:, :, None], 3, axis=2))
            rows.append(cells)
    sheet = Image.new("RGB", (len(rows[0]) * (SIDE + GAP) - GAP, len(rows) * (SIDE + GAP) - GAP), "white")
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            sheet.paste(Image.fromarray(cell), (column * (SIDE + GAP), row * (SIDE + GAP)))
    sheet.save(arguments.sheet, optimize=True)


if __name__ == "__main__":
    main()
