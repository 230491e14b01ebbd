"""Stage 12: the model as it is delivered: diffusers' layout, f16, with the names that published checkpoints use.

    python training/export.py DIR

Writes the base model, `controlnet-canny/` and `loras/` into DIR, as far as they were trained, and refuses more than 45 MB.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import MODEL

LIMIT = 45_000_000
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
# Folder, file of weights, and what stands before the tensors' names in published checkpoints and is no longer written.
PARTS = [
    ("text_encoder", "model.safetensors", "text_model."),
    ("unet", "diffusion_pytorch_model.safetensors", ""),
    ("vae", "diffusion_pytorch_model.safetensors", ""),
    ("controlnet-canny", "diffusion_pytorch_model.safetensors", ""),
]


def halved(source, target, before=""):
    """Writes the tensors in f16, and answers the file's size."""
    tensors = {}
    for name, tensor in load_file(source).items():
        name = name if name.startswith(before) else before + name
        tensors[name] = tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
    if not all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise SystemExit(f"{source} does not fit into f16")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, {"format": "pt"})
    target.chmod(0o644)
    return target.stat().st_size


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--model", type=Path, default=MODEL)
    args = options.parse_args()
    total = 0
    for part, file, before in PARTS:
        if (args.model / part / file).exists():
            size = halved(args.model / part / file, args.folder / part / file, before)
            config = json.loads((args.model / part / "config.json").read_text())
            for key in ("_name_or_path", "dtype", "torch_dtype"):
                config.pop(key, None)
            config["torch_dtype" if part == "text_encoder" else "_torch_dtype"] = "float16"
            (args.folder / part / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            print(f"{part}: {size} bytes")
            total += size
    for lora in sorted((args.model / "loras").glob("*.safetensors")):
        size = halved(lora, args.folder / "loras" / lora.name)
        print(f"loras/{lora.name}: {size} bytes")
        total += size
    for folder in ("tokenizer", "scheduler"):
        if (args.model / folder).exists():
            shutil.copytree(args.model / folder, args.folder / folder, dirs_exist_ok=True)
            (args.folder / "model_index.json").write_text(json.dumps(PIPELINE, indent=1) + "\n")
    print(f"together {total / 1e6:.1f} MB")
    if total > LIMIT:
        raise SystemExit(f"that is more than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
