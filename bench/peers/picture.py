"""A whole picture with OpenVINO in a process of its own: image-to-image of 20 steps, strength 0.6 and guidance 7.5.

    python picture.py FOLDER {f32,bf16}

FOLDER comes from make.py and holds the networks as peer.py has converted them (`text`, `vae_encode`, `unet_step` and
`vae_decode`). Reads FOLDER/init.png, writes FOLDER/openvino-PRECISION.png, and prints JSON: seconds from the start of the
process to the end of the first step and of the picture, the seconds of a second picture, and the peak memory in bytes.
Imports what it needs and no more, since that is part of the time.
"""

import json
import pathlib
import resource
import sys
import time

import numpy
import openvino
from PIL import Image
from tokenizers import Tokenizer

THREADS, STEPS, STRENGTH, GUIDANCE, SCALE = 2, 20, 0.6, 7.5, 0.18215
PROMPT, NEGATIVE = "a white plaster statue of a boy", "blurry"


def age():
    """Seconds since this process was started."""
    started = int(pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    ticks = 100
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks


class Networks:
    """Each is read and compiled at its first use, and kept."""

    def __init__(self, folder, precision):
        self.core, self.folder, self.ready = openvino.Core(), folder / "openvino", {}
        self.options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def run(self, name, *inputs):
        if name not in self.ready:
            self.ready[name] = self.core.compile_model(self.folder / f"{name}.xml", "CPU", self.options)
        return self.ready[name](list(inputs))[0]


def ids_of(tokenizer, text):
    ids = tokenizer.encode(text).ids[:76]
    return ids + [49407] * (77 - len(ids))


def steps_of():
    """The walk's times with the share of the picture that is left before and after each (DDIM, leading, offset 1)."""
    betas = numpy.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    left = numpy.cumprod(1 - betas)
    stride = 1000 // STEPS
    times = [index * stride + 1 for index in reversed(range(STEPS))][STEPS - int(STEPS * STRENGTH) :]
    return [(at, left[at], left[at - stride] if at >= stride else left[0]) for at in times]


def picture(networks, folder, init):
    """Draws one, and tells its age at the end of the first step."""
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer" / "tokenizer.json"))
    context = networks.run("text", numpy.array([ids_of(tokenizer, NEGATIVE), ids_of(tokenizer, PROMPT)]))
    pixels = init.transpose(2, 0, 1)[None].astype(numpy.float32) / 127.5 - 1
    random = numpy.random.default_rng(1)
    mean, log_variance = numpy.split(networks.run("vae_encode", pixels), 2, axis=1)
    latents = SCALE * (mean + numpy.exp(log_variance.clip(-30, 20) / 2) * random.standard_normal(mean.shape))
    first = None
    for at, before, after in steps_of():
        if first is None:
            latents = before**0.5 * latents + (1 - before) ** 0.5 * random.standard_normal(mean.shape)
        both = numpy.concatenate([latents, latents]).astype(numpy.float32)
        without, guided = networks.run("unet_step", both, numpy.array([at], numpy.float32), context)
        noise = without + GUIDANCE * (guided - without)
        clean = (latents - (1 - before) ** 0.5 * noise) / before**0.5
        latents = after**0.5 * clean + (1 - after) ** 0.5 * noise
        first = first or age()
    drawn = networks.run("vae_decode", (latents / SCALE).astype(numpy.float32))[0].transpose(1, 2, 0)
    return Image.fromarray(((drawn + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8)), first


def main(folder, precision):
    networks = Networks(folder, precision)
    init = numpy.asarray(Image.open(folder / "init.png").convert("RGB"))
    drawn, first = picture(networks, folder, init)
    drawn.save(folder / f"openvino-{precision}.png")
    figures = {"first_step": first, "cold": age()}
    start = time.perf_counter()
    picture(networks, folder, init)
    figures["warm"] = time.perf_counter() - start
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
