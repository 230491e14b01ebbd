"""Write `goldens/models/tiny-clip/` and `goldens/clip_guidance.safetensors`: the gradient of CLIP's similarity, from torch's autograd.

`tiny-clip` is `tiny-sd15` with an `image_encoder/` (CLIPVisionModelWithProjection) that also holds `text_projection.weight`.
For the prompts `case["prompts"]` (text, weight): `target` [1, 24], the weighted mean of their embeddings, of length 1. For the
n-th latent `<n>.latents` [1, 4, h, w]: `<n>.cosine` [1] of the decoded picture and the target, and `<n>.gradient` with respect to
the latents. Latents are brought to at most as many cells as the encoder's picture has (bilinear, antialiased), decoded, brought
to the encoder's square, and normalised.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import golden
import models

SIDE = 20
PROMPTS = [("a red house", 1.0), ("fog over the sea", 0.5), ("a blurry photo", -1.0)]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


def write_encoder():
    """The picture encoder with the projection of texts beside it; both are given back."""
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=4,
        projection_dim=24, hidden_act="quick_gelu",
    )  # fmt: skip
    folder = golden.MODELS / "tiny-clip" / "image_encoder"
    models.randomise(CLIPVisionModelWithProjection(config), 31).half().save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["text_projection.weight"] = (torch.randn(24, 32, generator=golden.generator(32)) * 32**-0.5).half()
    save_file(weights, file, {"format": "pt"})
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
    return encoder, weights["text_projection.weight"].float()


def target(pipeline, projection):
    total = 0
    for text, weight in PROMPTS:
        if weight > 0:
            ids = pipeline.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            pooled = pipeline.text_encoder(ids).pooler_output
            total = total + weight * F.normalize(pooled @ projection.T, dim=-1)
    return F.normalize(total, dim=-1)


def cosine(pipeline, encoder, wanted, latents):
    height, width = latents.shape[2:]
    cells = -(-SIDE // 8)
    small = F.interpolate(latents, (min(height, cells), min(width, cells)), mode="bilinear", antialias=True)
    picture = pipeline.vae.decode(small / pipeline.vae.config.scaling_factor).sample
    picture = F.interpolate(picture, (SIDE, SIDE), mode="bilinear", antialias=True)
    seen = encoder((picture / 2 + 0.5 - MEAN) / DEVIATION).image_embeds
    return (F.normalize(seen, dim=-1) * wanted).sum()


def main():
    golden.hold_still()
    encoder, projection = write_encoder()
    pipeline = models.pipeline("tiny-sd15")
    generator = golden.generator(33)
    with torch.no_grad():
        wanted = target(pipeline, projection)
    tensors = {"target": wanted}
    for index, (height, width) in enumerate([(8, 8), (8, 12), (2, 3)]):
        latents = torch.randn(1, 4, height, width, generator=generator).requires_grad_()
        with torch.enable_grad():
            value = cosine(pipeline, encoder, wanted, latents)
            value.backward()
        tensors |= {
            f"{index}.latents": latents.detach(),
            f"{index}.cosine": value.detach().reshape(1),
            f"{index}.gradient": latents.grad,
        }
        print(index, float(value), float(latents.grad.std()))
    golden.write("clip_guidance", tensors, {"prompts": PROMPTS, "count": 3})


if __name__ == "__main__":
    main()
