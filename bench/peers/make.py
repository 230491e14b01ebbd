"""Makes a Stable Diffusion 1.5 of the true architecture with random weights, and inputs for one UNet call.

    python make.py FOLDER

FOLDER/model is a diffusers folder in f16 (2 GB), which Pentimento and every peer read; FOLDER/inputs.safetensors holds
`sample` [2, 4, 64, 64], `timestep` [1] and `context` [2, 77, 768]; FOLDER/expected.safetensors holds `out`, what PyTorch
predicts for them in f32.
"""

import json
import pathlib
import shutil
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SEED = 1


def byte_signs():
    """CLIP's signs for the 256 bytes: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def tokenizer(folder):
    """A tokenizer of CLIP's size that knows single signs alone: what a text says does not matter here."""
    signs = byte_signs()
    words = signs + [sign + "</w>" for sign in signs]
    words += [f"unused{index}</w>" for index in range(49408 - 2 - len(words))] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def networks():
    """UNet, VAE and text encoder with the weights that PyTorch starts with."""
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    return unet.eval(), vae.eval(), text.eval()


@torch.no_grad()
def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    unet, vae, text = networks()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder / "model")
    for name in ["vocab.json", "merges.txt"]:  # The newest transformers leaves them out.
        shutil.copy(folder / "tokenizer" / name, folder / "model" / "tokenizer" / name)
    # The weights as they were stored, and f32 from there on.
    unet = pipeline.unet.float()
    generator = torch.Generator().manual_seed(SEED)
    sample = torch.randn(2, 4, 64, 64, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    timestep = torch.tensor([500.0])
    save_file({"sample": sample, "timestep": timestep, "context": context}, str(folder / "inputs.safetensors"))
    out = unet(sample, timestep, context).sample
    save_file({"out": out}, str(folder / "expected.safetensors"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
