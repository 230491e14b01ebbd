"""Write `goldens/hires/`: pictures drawn in two passes, composed from diffusers' pipelines.

The first pass ends in a latent (`output_type="latent"`); torch's `interpolate` enlarges it bilinearly; the image-to-image
pipeline, which takes latents as they are, draws it out at the larger size with a generator of the same seed.

`cases.json`: the requests. `pictures/<name>.png`: the decoded pictures. Inputs are those of `pipelines/inputs`.
"""

import json
import shutil

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

import golden
import models

FOLDER = golden.GOLDENS / "hires"
SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "K_EULER": EulerDiscreteScheduler,
    "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler,
}
SHARED = dict(model="tiny-sd15", prompt="a red house", negative="fog", cfg=5.0, seed=11)
CASES = [
    SHARED | dict(name="ddim", sampler="DDIM", size=[64, 48], steps=6, scale=1.5, strength=0.6, second_steps=None),
    SHARED | dict(name="euler", sampler="K_EULER", size=[32, 64], steps=5, scale=2.0, strength=0.5, second_steps=8),
    SHARED | dict(name="ancestral", sampler="K_EULER_ANCESTRAL", size=[64, 64], steps=5, scale=1.3, strength=0.7,
                  second_steps=None),
    SHARED | dict(name="img2img", sampler="DDIM", size=[64, 64], steps=8, scale=1.5, strength=0.5, second_steps=6,
                  init="init_64x64", init_strength=0.6),
]  # fmt: skip


def draw(case):
    pipeline = models.pipeline(case["model"])
    pipeline.scheduler = SCHEDULERS[case["sampler"]].from_config(pipeline.scheduler.config)
    again = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    for each in (pipeline, again):
        each.set_progress_bar_config(disable=True)
    prompts = dict(prompt=case["prompt"], negative_prompt=case["negative"], guidance_scale=case["cfg"])
    seeded = lambda: prompts | dict(generator=golden.generator(case["seed"]))
    width, height = case["size"]
    if "init" in case:
        init = Image.open(golden.GOLDENS / "pipelines" / "inputs" / f"{case['init']}.png").convert("RGB")
        first = again(
            **seeded(), image=init, strength=case["init_strength"], num_inference_steps=case["steps"],
            output_type="latent",
        ).images  # fmt: skip
    else:
        first = pipeline(
            **seeded(), width=width, height=height, num_inference_steps=case["steps"], output_type="latent"
        ).images
    cells = [round(side * case["scale"] / 8) for side in (height, width)]
    enlarged = torch.nn.functional.interpolate(first, size=cells, mode="bilinear", align_corners=False)
    second_steps = case["second_steps"] or case["steps"]
    return again(
        **seeded(), image=enlarged, strength=case["strength"], num_inference_steps=second_steps
    ).images[0]


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "pictures").mkdir(parents=True)
    for case in CASES:
        draw(case).save(FOLDER / "pictures" / f"{case['name']}.png", optimize=True)
    (FOLDER / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main()
