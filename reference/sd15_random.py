"""Write a random model of Stable Diffusion 1.5's true architecture, and what torch makes of it, into a folder.

    python reference/sd15_random.py FOLDER [--threads 2]

For measuring speed and memory at the true size, and for checking that nothing breaks there; not run by the tests.
The folder is in diffusers' layout, f16: UNet (860 M parameters), VAE (84 M), CLIP ViT-L text encoder (123 M, 49408
tokens). The tokenizer is the embedded model's, padded with unused names up to 49408. Weights keep the variance of what
passes through them.

`expected.safetensors` beside it: `unet.sample` [2, 4, 64, 64], `unet.timestep` [2], `unet.context` [2, 77, 768],
`unet.output`; `vae.latent` [1, 4, 64, 64], `vae.decoded` [1, 3, 512, 512]; `text.ids` [1, 77], `text.states`
[1, 77, 768]. Its metadata `case` holds the seconds that each took: by the clock and summed over the threads
(a clock time well above their share says that other programs were busy), float32, and for the UNet bfloat16 too.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import golden
import models

TOKENS = 49408


def unet():
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the defaults are Stable Diffusion 1's


def vae():
    return AutoencoderKL(
        sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2, scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def text_encoder():
    config = CLIPTextConfig(
        vocab_size=TOKENS, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, hidden_act="quick_gelu", bos_token_id=TOKENS - 2, eos_token_id=TOKENS - 1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config)


def write_tokenizer(source, target):
    """The embedded model's words; the two markers at the end, where CLIP has them, and unused names in between."""
    models.write_tokenizer(source, target)
    words = sorted(json.loads((source / "vocab.json").read_text()).items(), key=lambda item: item[1])
    plain, markers = [word for word, _ in words[:-2]], [word for word, _ in words[-2:]]
    unused = [f"<unused{index}>" for index in range(TOKENS - len(words))]
    vocabulary = {word: index for index, word in enumerate(plain + unused + markers)}
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))


def seconds(function, runs=3):
    """The last result, and of several runs after one to warm up the best time: by the clock, and of all threads."""
    best, result = (float("inf"), 0), function()
    for _ in range(runs):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        best = min(best, (round(time.perf_counter() - start, 3), round(time.process_time() - used, 3)))
    return result, best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--default-model", type=Path, default=golden.DEFAULT_MODEL, help="the embedded model's folder")
    arguments = parser.parse_args()
    golden.hold_still(arguments.threads)
    folder, generator, tensors, took = arguments.folder, golden.generator(1), {}, {"threads": arguments.threads}

    models.randomise(text_encoder(), 21).save_pretrained(folder / "text_encoder")
    models.randomise(unet(), 22).save_pretrained(folder / "unet")
    models.randomise(vae(), 23).save_pretrained(folder / "vae")
    DDIMScheduler(**models.SD15_SCHEDULER).save_pretrained(folder / "scheduler")
    if not (folder / "tokenizer").exists():
        write_tokenizer(arguments.default_model / "tokenizer", folder / "tokenizer")
    models.write_index(folder, json.loads((arguments.default_model / "model_index.json").read_text()))
    pipeline = models.default_pipeline(folder)
    took["parameters"] = {
        name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in ("unet", "vae", "text_encoder")
    }

    ids = pipeline.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    states, took["text_f32"] = seconds(lambda: pipeline.text_encoder(ids)[0])
    tensors |= {"text.ids": ids, "text.states": states}

    latent = torch.randn(1, 4, 64, 64, generator=generator)
    decoded, took["vae_decode_f32"] = seconds(lambda: pipeline.vae.decode(latent).sample, runs=1)
    tensors |= {"vae.latent": latent, "vae.decoded": decoded}

    sample = torch.randn(2, 4, 64, 64, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    timestep = torch.tensor([500.0, 500.0])
    output, took["unet_f32"] = seconds(lambda: pipeline.unet(sample, timestep, context).sample)
    tensors |= {"unet.sample": sample, "unet.timestep": timestep, "unet.context": context, "unet.output": output}

    half = pipeline.unet.to(torch.bfloat16)
    inputs = (sample.bfloat16(), timestep, context.bfloat16())
    rough, took["unet_bf16"] = seconds(lambda: half(*inputs).sample)
    took["unet_bf16_relative_error"] = round(((rough.float() - output).std() / output.std()).item(), 5)
    for name in ("text.states", "vae.decoded", "unet.output"):
        took[f"{name}_std"] = round(tensors[name].std().item(), 4)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, folder / "expected.safetensors", metadata={"case": json.dumps(took)})
    print(json.dumps(took, indent=2))


if __name__ == "__main__":
    main()
