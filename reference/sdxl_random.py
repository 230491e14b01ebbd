"""Write a random model of Stable Diffusion XL's true architecture, and one step of torch's, into a folder.

    python reference/sdxl_random.py FOLDER [--threads 2]

For checking that the true size loads and computes what diffusers computes; not run by the tests. The folder is in
diffusers' layout, f16: UNet (2,567 M parameters), VAE (84 M), both text encoders (123 M, 695 M), the embedded model's
tokenizer padded with unused names.
Tensors are made one by one, so that no more than the UNet in float32 (10 GB) is ever in memory.

`expected.safetensors` beside it: `unet.sample` [1, 4, 64, 64], `unet.timestep`, `unet.context` [1, 77, 2048],
`unet.pooled` [1, 1280], `unet.sizes` [6], `unet.output`. Its metadata `case` holds the seconds that the step took.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import golden
import models
import sd15_random
import single_files


def fill(name, shape, generator):
    """As `models.randomise` does it, in f16."""
    noise = torch.empty(shape, dtype=torch.float16).normal_(generator=generator)
    if len(shape) == 1:
        return 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    return noise * (0.5 if name.endswith("embedding.weight") else 1 / math.sqrt(math.prod(shape[1:])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--default-model", type=Path, default=golden.DEFAULT_MODEL, help="the embedded model's folder")
    arguments = parser.parse_args()
    golden.hold_still(arguments.threads)
    folder, generator = arguments.folder, golden.generator(1)
    parts = single_files.true_size("sdxl")
    for part, model in parts.items():
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        (folder / part).mkdir(parents=True, exist_ok=True)
        config = model.config.to_json_string() if part.startswith("text") else model.to_json_string()
        (folder / part / "config.json").write_text(config)
        tensors = {name: fill(name, p.shape, generator) for name, p in model.state_dict().items()}
        save_file(tensors, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})
        del tensors
    models.write_xl_scheduler(EulerDiscreteScheduler(**models.XL_SCHEDULER), folder / "scheduler")
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    sd15_random.write_tokenizer(arguments.default_model / "tokenizer", folder / "tokenizer")
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2", dirs_exist_ok=True)
    models.write_index(folder, json.loads((golden.MODELS / "tiny-xl" / "model_index.json").read_text()))

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(parts["unet"].config)
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    unet.load_state_dict({name: stored.pop(name).float() for name in list(stored)}, assign=True)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    inputs = dict(sample=draw(1, 4, 64, 64), timestep=torch.tensor([500.0]), context=draw(1, 77, 2048))
    inputs |= dict(pooled=draw(1, 1280), sizes=torch.tensor([512.0, 512, 0, 0, 512, 512]))
    added = dict(text_embeds=inputs["pooled"], time_ids=inputs["sizes"][None])
    start = time.perf_counter()
    output = unet(inputs["sample"], inputs["timestep"], inputs["context"], added_cond_kwargs=added).sample
    took = {"unet_f32": round(time.perf_counter() - start, 2), "std": round(output.std().item(), 4)}
    tensors = {f"unet.{name}": value.contiguous() for name, value in (inputs | {"output": output}).items()}
    save_file(tensors, folder / "expected.safetensors", metadata={"case": json.dumps(took)})
    print(json.dumps(took))


if __name__ == "__main__":
    main()
