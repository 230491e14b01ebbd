"""Write GGUF models and stable-diffusion.cpp's own pictures of them into a folder.

    python reference/gguf_pictures.py FOLDER

stable-diffusion.cpp knows only the true sizes, so this is Stable Diffusion 1.5's architecture (1.07 billion weights, from the
formula of `single_files.py`) and takes 12 GB; not run by the tests. With `PENTIMENTO_GGUF_PICTURES=FOLDER` before
`cargo test -p pentimento-diffusion stable_diffusion_cpp` the engine draws the same from the same files and compares.

- `<type>.gguf`: the model as stable-diffusion.cpp converts it: matrices in this type, convolutions f16.
- `<type>.png`: what it draws from the file. Its generator "cuda" is Philox, its Euler's method over the "discrete" schedule is
  k-diffusion's, so that nothing but arithmetic is between both programs: ggml multiplies f16 convolutions in f16, and quantised
  matrices with inputs that it rounds to 8 bits.
- `request.json`: what was asked for.

Needs `stable-diffusion-cpp-python==0.4.7`, as `gguf_files.py` does.
"""

import argparse
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gguf import GGMLQuantizationType
from safetensors.torch import save_file
from stable_diffusion_cpp import StableDiffusion
from stable_diffusion_cpp import stable_diffusion_cpp as sd_cpp

import golden
from single_files import stored

TYPES = ["F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"]
REQUEST = dict(prompt="a cat", negative="", seed=7, steps=4, cfg=2.0, side=64)


def write_model(path):
    manifest = json.loads(gzip.decompress((golden.GOLDENS / "single_files" / "true_sd1.json.gz").read_bytes()))
    entries = manifest["tensors"]
    with ThreadPoolExecutor(2) as pool:
        tensors = dict(zip((entry[0] for entry in entries), pool.map(lambda entry: stored(entry).contiguous(), entries)))
    save_file(tensors, path)


def draw(model):
    pipeline = StableDiffusion(model_path=str(model), n_threads=2, rng_type="cuda", sampler_rng_type="cuda", verbose=False)
    pictures = pipeline.generate_image(
        prompt=REQUEST["prompt"], negative_prompt=REQUEST["negative"], seed=REQUEST["seed"], sample_method="euler",
        scheduler="discrete", sample_steps=REQUEST["steps"], cfg_scale=REQUEST["cfg"], width=REQUEST["side"],
        height=REQUEST["side"],
    )  # fmt: skip
    return pictures[0].convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.safetensors"
    if not model.exists():
        write_model(model)
    for kind in TYPES:
        file = folder / f"{kind}.gguf"
        paths = [str(model).encode(), b"", str(file).encode()]
        assert sd_cpp.convert(*paths, GGMLQuantizationType[kind].value, b"", False), kind
        draw(file).save(folder / f"{kind}.png")
        print(kind, file.stat().st_size, "bytes", flush=True)
    (folder / "request.json").write_text(json.dumps(REQUEST) + "\n")


if __name__ == "__main__":
    main()
