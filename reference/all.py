"""Run every program that writes goldens, each in a process of its own, in the order in which they need one another."""

import argparse
import subprocess
import sys
from pathlib import Path

import golden

PROGRAMS = {
    "models": True,
    "noise": False,
    "philox": False,
    "text": True,
    "emphasis": False,
    "unet": True,
    "vae": True,
    "vision": False,
    "filter": False,
    "samplers": False,
    "pipelines": True,
    "families": False,
    "single_files": False,
    "imaging": False,
    "faces": False,
    "lora": False,
    "control": False,
    "hires": False,
    "accelerations": False,
    "ip_adapter": False,
    "clip_guidance": False,
}  # whether it needs the embedded model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--default-model", type=Path, default=golden.DEFAULT_MODEL, help="the embedded model's folder")
    default_model = parser.parse_args().default_model
    for program, needs_model in PROGRAMS.items():
        options = ["--default-model", default_model] if needs_model else []
        subprocess.run([sys.executable, golden.REFERENCE / f"{program}.py", *options], check=True)


if __name__ == "__main__":
    main()
