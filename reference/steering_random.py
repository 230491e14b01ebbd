"""Write random weights of the true sizes for what steers Stable Diffusion 1.5: for measuring costs, not run by the tests.

    python reference/steering_random.py FOLDER

`FOLDER/sd15/` is a model (f16) that carries a CLIP ViT-L picture encoder. `FOLDER/data/` is a data folder with
`loras/rank32.safetensors` (every layer of the transformers, as kohya's trainer has it), `controls/canny/` and
`ip-adapters/plain.safetensors` with that picture encoder, `ip-adapters/faceid.safetensors` with a low-rank part of rank
128, and in `faces` the tiny embedder of the goldens. docs/performance.md tells how they are measured.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import ControlNetModel, DDIMScheduler
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import golden
from sd15_random import text_encoder, unet, vae, write_tokenizer

RANK = 32
FACE_RANK = 128


def random_half(model):
    """The same module in f16 with weights that keep the variance."""
    for name, parameter in model.named_parameters():
        norm = "norm" in name or "ln" in name
        if parameter.ndim == 1:
            parameter.data = (torch.ones if norm and name.endswith("weight") else torch.zeros)(parameter.shape, dtype=torch.half)
        else:
            parameter.data = (torch.randn(parameter.shape) * parameter[0].numel() ** -0.5).half()
    return model.half()


def made(build):
    """A module without the time that its own first values take."""
    with torch.device("meta"):
        shapes = build()
    shapes.to_empty(device="cpu")
    return random_half(shapes)


def faceid(network):
    """An adapter for faces as published: a projection of 512 numbers to four tokens, keys and values, low ranks."""
    weights = {"image_proj.proj.0.weight": (1024, 512), "image_proj.proj.2.weight": (4 * 768, 1024)}
    zeros = {"image_proj.proj.0.bias": 1024, "image_proj.proj.2.bias": 4 * 768, "image_proj.norm.bias": 768}
    tensors = {name: torch.zeros(width).half() for name, width in zeros.items()}
    tensors["image_proj.norm.weight"] = torch.ones(768).half()
    for number, name in enumerate(network.attn_processors):
        layers = network.get_submodule(name.removesuffix(".processor"))
        for part in ("q", "k", "v", "out"):
            layer = layers.to_out[0] if part == "out" else getattr(layers, f"to_{part}")
            outputs, inputs = layer.weight.shape
            weights[f"ip_adapter.{number}.to_{part}_lora.down.weight"] = (FACE_RANK, inputs)
            weights[f"ip_adapter.{number}.to_{part}_lora.up.weight"] = (outputs, FACE_RANK)
        if ".attn2." in name:
            width = layers.to_q.weight.shape[0]
            weights |= {f"ip_adapter.{number}.{part}.weight": (width, 768) for part in ("to_k_ip", "to_v_ip")}
    for name, shape in weights.items():
        tensors[name] = (torch.randn(shape) * shape[1] ** -0.5 * (0.01 if ".up." in name else 1)).half()
    return tensors


def lora(network):
    """An adapter as kohya's trainer writes it: every layer of the transformers, the projections around them too."""
    tensors = {}
    for name, module in network.named_modules():
        if ".attentions." in name and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            outputs, inputs, *taps = module.weight.shape
            place = "lora_unet_" + name.replace(".", "_")
            tensors[f"{place}.lora_down.weight"] = (torch.randn(RANK, inputs, *taps) * inputs**-0.5).half()
            tensors[f"{place}.lora_up.weight"] = (torch.randn(outputs, RANK, *taps) * 0.01).half()
            tensors[f"{place}.alpha"] = torch.tensor(float(RANK))
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    golden.hold_still()
    torch.manual_seed(1)
    model, data = folder / "sd15", folder / "data"
    for place in (model, data / "loras", data / "controls", data / "ip-adapters", data / "faces"):
        place.mkdir(parents=True, exist_ok=True)

    network = made(unet)
    network.save_pretrained(model / "unet")
    save_file(lora(network), data / "loras" / "rank32.safetensors")
    adapter = {"image_proj.proj.weight": torch.randn(4 * 768, 768).half() * 768**-0.5, "image_proj.proj.bias": torch.zeros(4 * 768).half(),
               "image_proj.norm.weight": torch.ones(768).half(), "image_proj.norm.bias": torch.zeros(768).half()}  # fmt: skip
    for number, name in enumerate(network.attn_processors):
        if ".attn2." in name:
            width = network.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
            for part in ("to_k_ip", "to_v_ip"):
                adapter[f"ip_adapter.{number}.{part}.weight"] = (torch.randn(width, 768) * 768**-0.5).half()
    save_file(adapter, data / "ip-adapters" / "plain.safetensors")
    save_file(faceid(network), data / "ip-adapters" / "faceid.safetensors")
    shutil.copyfile(golden.GOLDENS / "faces" / "networks" / "w600k_tiny.onnx", data / "faces" / "w600k_tiny.onnx")
    del network, adapter
    made(lambda: ControlNetModel(cross_attention_dim=768)).save_pretrained(data / "controls" / "canny")
    made(vae).save_pretrained(model / "vae")
    made(text_encoder).save_pretrained(model / "text_encoder")

    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, projection_dim=768,
    )  # fmt: skip
    encoder = model / "image_encoder"
    made(lambda: CLIPVisionModelWithProjection(config)).save_pretrained(encoder)
    weights = load_file(encoder / "model.safetensors")
    weights["text_projection.weight"] = (torch.randn(768, 768) * 768**-0.5).half()
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    del weights
    if not (data / "ip-adapters" / "image_encoder").exists():
        (data / "ip-adapters" / "image_encoder").symlink_to(encoder.resolve())

    write_tokenizer(golden.DEFAULT_MODEL / "tokenizer", model / "tokenizer")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(model / "scheduler")  # fmt: skip
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPTokenizer"], "text_encoder": ["transformers", "CLIPTextModel"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]}  # fmt: skip
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
