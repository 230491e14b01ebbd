"""stable-diffusion.cpp and Pentimento on the same random weights, one after the other: seconds, ratios and peak memory.

    python sdcpp.py FOLDER SD_CLI PENTIMENTO [--settings "--type f16,--type q8_0 --diffusion-fa"] [--dtypes bf16,int8]
                    [--stages unet_step,vae_decode] [--steps 2] [--json FILE]

FOLDER comes from make.py; both programs read its model in f16. SD_CLI draws one picture of two guided steps with each of
the settings, which are options of its own: 512×512, without a picture to start from, two threads. The step is the last,
by the program's own log; it computes both halves of the guidance one after the other, where Pentimento has them in one
batch. Its decoding has no second run. FILE gets every figure for draw.py. SD_CLI is a command line and gives no single
UNet call, so its error is not told.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

from compare import Pentimento
from safetensors.torch import load_file, save_file

THREADS = 2


def model_of(folder):
    """The diffusers folder with the text encoder's names as the peer knows them, from before transformers dropped a prefix."""
    goal = folder / "sdcpp" / "model"
    text = goal / "text_encoder" / "model.safetensors"
    if not text.exists():
        text.parent.mkdir(parents=True, exist_ok=True)
        for part in ["unet", "vae"]:
            (goal / part).unlink(missing_ok=True)
            (goal / part).symlink_to((folder / "model" / part).resolve())
        prefix = "text_model."
        tensors = load_file(folder / "model" / "text_encoder" / "model.safetensors")
        save_file({prefix + name.removeprefix(prefix): value for name, value in tensors.items()}, text)
    return goal


class StableDiffusionCpp:
    """Draws a picture, and tells its own log's seconds of a stage."""

    def __init__(self, folder, program, setting, steps):
        words = setting.replace("--", "").split()
        self.name = "sdcpp-" + "-".join([word for word in words if word != "type"])
        self.steps = steps
        size = ["-W", "512", "-H", "512", "--cfg-scale", "7.5", "--sampling-method", "euler", "--steps", str(steps)]
        self.command = [program, "-m", model_of(folder), *setting.split(), *size, "-t", str(THREADS), "--seed", "1"]
        self.command += ["-p", "a boy", "-n", "blurry", "-o", folder / "sdcpp" / f"{self.name}.png"]
        self.log = folder / "sdcpp" / f"{self.name}.log"

    def draw(self):
        """Seconds of the last step and of decoding, and peak memory in bytes."""
        with self.log.open("w") as log:
            process = subprocess.Popen([str(word) for word in self.command], stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
        told = self.log.read_text(errors="replace")
        decode = re.search(r"decode_first_stage completed, taking ([0-9.]+)s", told)
        means = re.findall(rf"[0-9]+/{self.steps} - ([0-9.]+)s/it", told)
        if status or not decode or len(means) != self.steps:
            sys.exit(f"{self.name} failed:\n{told[-2000:]}")
        ends = [0.0] + [(index + 1) * float(mean) for index, mean in enumerate(means)]
        return {"unet_step": ends[-1] - ends[-2], "vae_decode": float(decode.group(1))}, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sd_cli", type=pathlib.Path)
    parser.add_argument("pentimento", type=pathlib.Path)
    parser.add_argument("--settings", default="--type f16", help="options of SD_CLI, separated by commas")
    parser.add_argument("--dtypes", default="bf16", help="Pentimento's")
    parser.add_argument("--stages", default="unet_step,vae_decode")
    parser.add_argument("--steps", type=int, default=2, help="of each picture by SD_CLI")
    parser.add_argument("--json", type=pathlib.Path, help="also write every figure to this file")
    typed = parser.parse_args()
    figures = {"stages": {stage: {} for stage in typed.stages.split(",")}, "peak_bytes": {}, "errors": {}}
    ours = [Pentimento(typed.folder, typed.pentimento, dtype) for dtype in typed.dtypes.split(",")]
    for one in ours:
        peaks = []
        for stage, seconds in figures["stages"].items():
            seconds[one.name] = [one.ask(stage)]
            peaks.append(one.ask("memory"))
        figures["peak_bytes"][one.name] = max(peaks)
    for setting in typed.settings.split(","):
        peer = StableDiffusionCpp(typed.folder, typed.sd_cli, setting, typed.steps)
        took, figures["peak_bytes"][peer.name] = peer.draw()
        for stage, seconds in figures["stages"].items():
            seconds[peer.name] = [took[stage]]
    for stage, seconds in figures["stages"].items():
        for name, (took,) in seconds.items():
            ratios = "".join(f", {took / seconds[one.name][0]:.2f} over {one.name}" for one in ours)
            print(f"{stage:<12} {name:<32} {took:8.2f} s{ratios}")
    for name, peak in figures["peak_bytes"].items():
        print(f"peak memory  {name:<32} {peak / 2**30:8.2f} GiB")
    if typed.json:
        typed.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
