"""Write `goldens/vae.safetensors`: `AutoencoderKL` and `AutoencoderTiny` both ways, from diffusers.

Models: `tiny-sd15` and `default` (AutoencoderKL), `tiny-taesd` (AutoencoderTiny). For each, and the n-th of its sizes:
`<model>.<n>.pixels` [B, 3, H, W] in [-1, 1], `.mean` and `.logvar` [B, 4, H/8, W/8] (AutoencoderTiny: only `.mean`,
which is all that it gives), `.latent` [B, 4, H/8, W/8], `.decoded` [B, 3, H, W], the decoder's raw output. No scaling
factor is applied anywhere, and `logvar` is clamped to [-30, 20] as diffusers' `DiagonalGaussianDistribution` does.
Case: `{model: [[batch, height, width], …]}`.
"""

import torch

import golden
import models

SIZES = {"tiny-sd15": [(1, 16, 24), (2, 8, 16)], "tiny-taesd": [(1, 16, 24), (2, 8, 16)], "default": [(1, 24, 32)]}


def main():
    arguments = golden.arguments(__doc__.splitlines()[0])
    golden.hold_still()
    tensors = {}
    for model, sizes in SIZES.items():
        default = model == "default"
        vae = (models.default_pipeline(arguments.default_model) if default else models.pipeline(model)).vae
        generator = golden.generator(11)
        for index, (batch, height, width) in enumerate(sizes):
            prefix = f"{model}.{index}"
            pixels = torch.randn(batch, 3, height, width, generator=generator).mul(0.5).clamp(-1, 1)
            latent = torch.randn(batch, 4, height // 8, width // 8, generator=generator)
            encoded = vae.encode(pixels)
            if model == "tiny-taesd":
                tensors[f"{prefix}.mean"] = encoded.latents
            else:
                tensors[f"{prefix}.mean"] = encoded.latent_dist.mean
                tensors[f"{prefix}.logvar"] = encoded.latent_dist.logvar
            tensors |= {f"{prefix}.pixels": pixels, f"{prefix}.latent": latent}
            tensors[f"{prefix}.decoded"] = vae.decode(latent).sample
    golden.write("vae", tensors, SIZES)


if __name__ == "__main__":
    main()
