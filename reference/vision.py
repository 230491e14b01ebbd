"""Write `goldens/models/tiny-vision/image_encoder` and `goldens/vision.safetensors`: CLIP's picture encoder, from transformers.

The model is a tiny random `CLIPVisionModelWithProjection` with its `CLIPImageProcessor` (Pillow's backend; the one of
torchvision rounds otherwise). For the n-th of the case's sizes: `<n>.picture` [H, W, 3], bytes; `<n>.pixels` [1, 3, 16, 16] as
the processor gives them; `<n>.penultimate` [1, 17, 32] (`hidden_states[-2]`), `<n>.pooled` [1, 32], `<n>.embeds` [1, 24].
"""

import shutil

import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import golden
import models

SIZES = [(16, 16), (40, 28), (9, 13), (3, 50), (33, 47)]


def config():
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, projection_dim=24,
        image_size=16, patch_size=4,
    )  # fmt: skip


def processor():
    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def picture(height, width, seed):
    """Slopes with noise on them."""
    noise = torch.rand(height, width, 3, generator=golden.generator(seed))
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    slopes = torch.stack([x, y, (x + y) / 2], dim=2)
    return (255 * (0.6 * slopes + 0.4 * noise)).to(torch.uint8)


def main():
    golden.hold_still()
    target = golden.MODELS / "tiny-vision"
    shutil.rmtree(target, ignore_errors=True)
    model = models.randomise(CLIPVisionModelWithProjection(config()), 21)
    model.save_pretrained(target / "image_encoder")
    processor().save_pretrained(target / "image_encoder")
    model = model.float().eval()
    tensors = {}
    for index, (height, width) in enumerate(SIZES):
        shown = picture(height, width, index)
        pixels = processor()(images=Image.fromarray(shown.numpy()), return_tensors="pt").pixel_values
        seen = model(pixels, output_hidden_states=True)
        tensors |= {f"{index}.picture": shown.float(), f"{index}.pixels": pixels, f"{index}.embeds": seen.image_embeds}
        tensors[f"{index}.penultimate"] = seen.hidden_states[-2]
        tensors[f"{index}.pooled"] = model.vision_model(pixels).pooler_output
    golden.write("vision", tensors, SIZES)


if __name__ == "__main__":
    main()
