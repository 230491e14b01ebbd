"""A whole picture by Pentimento and by OpenVINO, each timed from the start of its process, in turns.

    python whole.py FOLDER PENTIMENTO [--dtypes bf16,f32] [--rounds 1] [--touch GIB]

FOLDER comes from make.py, and peer.py has converted its networks. Image-to-image, 512×512: 12 of 20 steps, guidance 7.5.

A virtual machine may get the memory that its processes ask for from its host, page by page, which can take seconds of a start
and depends on what ran before. With --touch so much memory is written to and freed before each process, so that both
find it there.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy
from picture import GUIDANCE, NEGATIVE, PROMPT, STEPS, STRENGTH
from PIL import Image


def touch(gib):
    """Has another process write to so many GiB and free them."""
    if not gib:
        return
    write = f"import numpy; numpy.full({gib} << 30, 1, numpy.uint8)"
    subprocess.run([sys.executable, "-c", write], check=True)


def timed(command):
    """Seconds from the start to the end of a process, and its peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("pentimento", type=pathlib.Path)
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--touch", type=int, default=0)
    typed = parser.parse_args()
    folder = typed.folder
    grey = (numpy.arange(3 * 512 * 512) * 37 % 251).astype(numpy.uint8)
    Image.fromarray(grey.reshape(512, 512, 3)).save(folder / "init.png")
    for _ in range(typed.rounds):
        for dtype in typed.dtypes.split(","):
            ours = [typed.pentimento, "generate", "--model", folder / "model", "--dtype", dtype, "--sampler", "DDIM"]
            ours += ["--prompt", PROMPT, "--negative", NEGATIVE, "--init", folder / "init.png", "--quiet", "--seed", "1"]
            ours += ["--steps", STEPS, "--strength", STRENGTH, "--cfg", GUIDANCE]
            touch(typed.touch)
            took, peak = timed([*ours, "--out", folder / f"pentimento-{dtype}.png"])
            print(f"pentimento-{dtype}: {took:.1f} s from process start, peak memory {peak:.2f} GiB", flush=True)
            touch(typed.touch)
            peer = [sys.executable, pathlib.Path(__file__).with_name("picture.py"), folder, dtype]
            told = json.loads(subprocess.run(peer, check=True, capture_output=True, text=True).stdout)
            print(
                f"openvino-{dtype}: {told['cold']:.1f} s from process start, ratio {told['cold'] / took:.2f}; "
                f"first step after {told['first_step']:.1f} s; {told['warm']:.1f} s warm; "
                f"peak memory {told['peak_bytes'] / 2**30:.2f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
