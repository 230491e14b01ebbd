"""What accelerations do to pictures: a Markdown table of errors on the standard output.

    python accelerations.py PENTIMENTO [--model DIR] [--steps 20] [--sheet SHEET.png] [OPTIONS...]

Each of OPTIONS is one setting in quotes, as "--step-cache 3"; without any, those of the table in docs/performance.md. Every setting draws
the same prompts and seeds as a run without it. Error: root mean square of all bytes' differences over the root mean square of the plain
pictures' deviations from their means, and the peak signal-to-noise ratio of all pictures together. `--sheet` shows them side by side,
plain ones first. Needs numpy and Pillow.
"""

import argparse
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy
from PIL import Image

PROMPTS = (
    "a red apple on a white background, 3d model",
    "a strawberry on a blue background, 3d model",
    "a hamburger on a white background, 3d model",
    "a yellow flower on a white background, line art",
    "a house on a white background",
    "a cat on a white background, 3d model",
)
SETTINGS = (
    "--guidance-interval 0.2:0.8",
    "--guidance-interval 0:0.8",
    "--guidance-interval 0:0.5",
    "--step-cache 2",
    "--step-cache 3",
    "--step-cache 3:1",
    "--step-cache 5",
    "--token-merging 0.25",
    "--token-merging 0.5",
    "--token-merging 0.75",
    "--step-cache 2 --guidance-interval 0:0.8 --token-merging 0.5",
)


def draw(typed, setting, folder):
    pictures = []
    for seed, prompt in enumerate(PROMPTS, 1):
        path = folder / "picture.png"
        words = ["generate", "-p", prompt, "--cfg", "4", "--guidance-rescale", "0.5", "--steps", typed.steps, "--seed", str(seed)]
        model = ["--model", typed.model] if typed.model else []
        command = [typed.pentimento, *words, *model, *shlex.split(setting), "--quiet", "-o", path]
        subprocess.run(command, check=True)
        pictures.append(numpy.asarray(Image.open(path).convert("RGB"), dtype=float))
    return numpy.stack(pictures)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pentimento")
    parser.add_argument("settings", nargs="*", default=SETTINGS)
    parser.add_argument("--model")
    parser.add_argument("--steps", default="20")
    parser.add_argument("--sheet")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = draw(typed, "", Path(folder))
        rows = [plain]
        scale = numpy.sqrt(numpy.mean((plain - plain.mean(axis=(1, 2), keepdims=True)) ** 2))
        print("| setting | relative error | PSNR |\n|---|---|---|")
        for setting in typed.settings:
            rows.append(draw(typed, setting, Path(folder)))
            error = numpy.sqrt(numpy.mean((rows[-1] - plain) ** 2))
            print(f"| `{setting}` | {error / scale:.3f} | {20 * numpy.log10(255 / max(error, 1e-9)):.1f} dB |", flush=True)
    if typed.sheet:
        sheet = numpy.concatenate([numpy.concatenate(list(row), axis=1) for row in rows])
        Image.fromarray(sheet.astype(numpy.uint8)).save(typed.sheet)


if __name__ == "__main__":
    main()
