"""Write control networks and what they do: `goldens/controls/`, `goldens/control.safetensors`, `goldens/canny/`.

- `controls/canny/`, `controls/depth/`: two tiny random networks for `tiny-sd15` in diffusers' layout, `controls/canny_xl/` one
  for `tiny-xl`; `controls/original.safetensors`: one of two blocks a level in the naming of the original checkpoints.
- `control.safetensors`: inputs `x` [2, 4, 8, 8], `context` [2, 77, 32], `hint` [1, 3, 64, 64]; residuals `<case>.down.<n>` and
  `<case>.middle`; the final latents `picture.<case>` of diffusers' pipelines; their requests stand in its `case`.
- `canny/<name>_<low>_<high>.png`: edges by OpenCV of the pictures `canny/<name>.png`.
"""

import json
import shutil

import cv2
import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image
from safetensors.torch import save_file

import golden
import models
import pipelines

FOLDER = golden.GOLDENS / "controls"
CANNY = golden.GOLDENS / "canny"
PROMPT = dict(prompt="a cat on a white background, 3d model", negative_prompt="blurry dog, line art")
IN_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip


def network(unet, seed):
    """A control network of this UNet; its zero convolutions are random like all the rest."""
    made = ControlNetModel.from_unet(unet, conditioning_channels=3)
    config = dict(made.config) | dict(conditioning_embedding_out_channels=(4, 8, 8, 16))
    return models.randomise(ControlNetModel.from_config(config), seed, gain=0.5).float()


def original_name(key, layers):
    """The original checkpoints' name of a tensor."""
    layer, kind = key.rsplit(".", 1)
    parts = layer.split(".")
    resnet = lambda rest: IN_RESNET[rest[0]]
    match parts:
        case ["conv_in"]:
            name = "input_blocks.0.0"
        case ["time_embedding", linear]:
            name = f"time_embed.{0 if linear == 'linear_1' else 2}"
        case ["controlnet_down_blocks", index]:
            name = f"zero_convs.{index}.0"
        case ["controlnet_mid_block"]:
            name = "middle_block_out.0"
        case ["controlnet_cond_embedding", "conv_in"]:
            name = "input_hint_block.0"
        case ["controlnet_cond_embedding", "conv_out"]:
            name = "input_hint_block.14"
        case ["controlnet_cond_embedding", "blocks", index]:
            name = f"input_hint_block.{2 * int(index) + 2}"
        case ["down_blocks", level, "downsamplers", *_]:
            name = f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op"
        case ["down_blocks", level, kind_of, index, *rest]:
            block = 1 + int(level) * (layers + 1) + int(index)
            name = f"input_blocks.{block}.0.{resnet(rest)}" if kind_of == "resnets" else f"input_blocks.{block}.1.{'.'.join(rest)}"
        case ["mid_block", "resnets", index, *rest]:
            name = f"middle_block.{2 * int(index)}.{resnet(rest)}"
        case ["mid_block", "attentions", _, *rest]:
            name = f"middle_block.1.{'.'.join(rest)}"
    return f"control_model.{name}.{kind}"


def save(control, name):
    """As f16, which the weights are rounded to."""
    control.half().save_pretrained(FOLDER / name)
    control.float()


def keep(kept, case, control, *inputs, weight=1.0, **more):
    down, middle = control(*inputs, conditioning_scale=weight, return_dict=False, **more)
    kept |= {f"{case}.down.{index}": residual for index, residual in enumerate(down)} | {f"{case}.middle": middle}


def edges():
    CANNY.mkdir()
    generator = np.random.default_rng(5)
    noise = cv2.GaussianBlur(generator.integers(0, 256, (61, 83, 3), dtype=np.uint8), (5, 5), 1.2)
    y, x = np.mgrid[:61, :83]
    shapes = np.stack([x * 3, y * 4, 255 - x * 3], -1).astype(np.uint8)
    cv2.circle(shapes, (40, 30), 21, (250, 240, 20), -1, cv2.LINE_AA)
    cv2.line(shapes, (3, 50), (80, 9), (0, 0, 0), 2, cv2.LINE_AA)
    for name, picture in {"noise": noise, "shapes": shapes, "tiny": noise[:2, :3]}.items():
        Image.fromarray(picture).save(CANNY / f"{name}.png", optimize=True)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        for low, high in ((100, 200), (30, 90.5), (0, 0)):
            Image.fromarray(cv2.Canny(grey, low, high)).save(CANNY / f"{name}_{low}_{high}.png", optimize=True)


def pictures(kept, networks, hints):
    """Whole pictures, by diffusers' three pipelines."""
    inputs = pipelines.FOLDER / "inputs"
    init = Image.open(inputs / "init_64x64.png").convert("RGB")
    mask = Image.open(inputs / "mask_aligned_64x64.png")
    cases = {
        "text": dict(controls=[["canny", "a", 1.0, 0.0, 1.0]]),
        "text_span": dict(controls=[["canny", "a", 0.8, 0.3, 0.8]]),
        "text_two": dict(controls=[["canny", "a", 0.7, 0.0, 1.0], ["depth", "b", 1.6, 0.0, 0.5]]),
        "image": dict(controls=[["canny", "a", 1.0, 0.0, 1.0]], init=True),
        "image_two": dict(controls=[["depth", "b", 0.5, 0.0, 1.0], ["canny", "a", 1.0, 0.5, 1.0]], init=True),
        "masked": dict(controls=[["canny", "a", 1.0, 0.0, 1.0]], init=True, mask=True),
        "xl": dict(controls=[["canny_xl", "a", 0.8, 0.0, 1.0]], model="tiny-xl"),
        "xl_image": dict(controls=[["canny_xl", "b", 1.0, 0.2, 1.0]], model="tiny-xl", init=True),
    }
    for name, case in cases.items():
        pipeline = models.pipeline(case.get("model", "tiny-sd15"))
        chosen = [networks[control[0]] for control in case["controls"]]
        images = [hints[control[1]] for control in case["controls"]]
        one = len(chosen) == 1
        unwrap = lambda values: values[0] if one else values
        cls = StableDiffusionControlNetPipeline
        arguments = dict(image=unwrap(images), width=64, height=64)
        if case.get("init"):
            cls = StableDiffusionControlNetInpaintPipeline if case.get("mask") else StableDiffusionControlNetImg2ImgPipeline
            arguments = dict(image=init, control_image=unwrap(images), strength=0.75)
            arguments |= dict(mask_image=mask) if case.get("mask") else {}
        others = dict(requires_safety_checker=False)
        if case.get("model") == "tiny-xl":
            cls = StableDiffusionXLControlNetImg2ImgPipeline if case.get("init") else StableDiffusionXLControlNetPipeline
            others = dict(add_watermarker=False)
        pipeline = cls(**pipeline.components, controlnet=chosen[0] if one else MultiControlNetModel(chosen), **others)
        if case.get("model") == "tiny-xl":
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        kept[f"picture.{name}"] = pipeline(
            **arguments, **PROMPT, num_inference_steps=8, guidance_scale=4.0, output_type="latent",
            controlnet_conditioning_scale=unwrap([control[2] for control in case["controls"]]),
            control_guidance_start=unwrap([control[3] for control in case["controls"]]),
            control_guidance_end=unwrap([control[4] for control in case["controls"]]),
            generator=golden.generator(42),
        ).images  # fmt: skip
    return cases


def main():
    golden.hold_still()
    for folder in (FOLDER, CANNY):
        shutil.rmtree(folder, ignore_errors=True)
    FOLDER.mkdir()
    edges()
    generator = golden.generator(77)
    random = lambda *shape: torch.randn(shape, generator=generator)
    unet = models.pipeline("tiny-sd15").unet
    networks = {"canny": network(unet, 51), "depth": network(unet, 52)}
    x, context, hint = random(2, 4, 8, 8), random(2, 77, 32), torch.rand(1, 3, 64, 64, generator=generator)
    kept = {"x": x, "context": context, "hint": hint}
    for name, control in networks.items():
        save(control, name)
        keep(kept, name, control, x, 500, context, hint, weight=0.7)

    two_blocks = type(unet).from_config(dict(unet.config) | dict(layers_per_block=2))
    control = network(two_blocks, 53)
    save_file({original_name(key, 2): value.half().contiguous() for key, value in control.state_dict().items()}, FOLDER / "original.safetensors")
    keep(kept, "original", control, x, 500, context, hint)

    control = networks["canny_xl"] = network(models.pipeline("tiny-xl").unet, 54)
    save(control, "canny_xl")
    pooled, sizes = random(2, 24), torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)
    kept |= {"xl.context": random(2, 77, 48), "xl.pooled": pooled, "xl.sizes": sizes[0]}
    keep(kept, "xl", control, x, 500, kept["xl.context"], hint, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})

    hints = {}
    for name, seed in (("a", 1), ("b", 2)):
        values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        hints[name] = Image.fromarray(values)
        kept[f"hint.{name}"] = torch.from_numpy(values.astype(np.int64))
    golden.write("control", kept, {"pictures": pictures(kept, networks, hints)})


if __name__ == "__main__":
    main()
