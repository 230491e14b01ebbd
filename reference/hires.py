"""Write `goldens/hires/`: pictures drawn in two passes, composed from diffusers' pipelines and from loops by hand.

The first pass ends in a latent (`output_type="latent"`); torch's `interpolate` enlarges it bilinearly; an image-to-image
pipeline, which takes latents as they are, draws it out at the larger size with a generator of the same seed.

By hand, since diffusers has no pipeline that takes a latent to start from beside a picture that is known:
- masks: the inpainting pipeline's loop, from the enlarged latent noised again. What is known is the picture, enlarged with
  Lanczos' filter and encoded; a network with nine channels is shown it without what is painted. Draws: as in `pipelines.py`.
- K_DPMPP_2M: k-diffusion's sampler in both passes.

`cases.json`: the requests. `pictures/<name>.png`: the decoded pictures. Inputs are those of `pipelines/inputs`; `control` names
a network of `controls/`, which is shown the picture `hint`, in the second pass at its size.
"""

import json
import shutil

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

import families
import golden
import models
import pipelines
import samplers

FOLDER = golden.GOLDENS / "hires"
INPUTS = golden.GOLDENS / "pipelines" / "inputs"
SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "K_EULER": EulerDiscreteScheduler,
    "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler,
    "K_DPMPP_2M": EulerDiscreteScheduler,
}
SHARED = dict(model="tiny-sd15", prompt="a red house", negative="fog", cfg=5.0, seed=11)
CASES = [
    SHARED | dict(name="ddim", sampler="DDIM", size=[64, 48], steps=6, scale=1.5, strength=0.6, second_steps=None),
    SHARED | dict(name="euler", sampler="K_EULER", size=[32, 64], steps=5, scale=2.0, strength=0.5, second_steps=8),
    SHARED | dict(name="ancestral", sampler="K_EULER_ANCESTRAL", size=[64, 64], steps=5, scale=1.3, strength=0.7,
                  second_steps=None),
    SHARED | dict(name="img2img", sampler="DDIM", size=[64, 64], steps=8, scale=1.5, strength=0.5, second_steps=6,
                  init="init_64x64", init_strength=0.6),
    SHARED | dict(name="dpmpp_2m", sampler="K_DPMPP_2M", size=[64, 64], steps=6, scale=1.5, strength=0.6, second_steps=8),
    SHARED | dict(name="xl", model="tiny-xl", sampler="K_EULER", size=[64, 48], steps=5, scale=1.5, strength=0.6,
                  second_steps=None),
    SHARED | dict(name="control", sampler="DDIM", size=[64, 64], steps=6, scale=1.5, strength=0.6, second_steps=None,
                  control="canny", hint="init_64x64"),
    SHARED | dict(name="masked", sampler="DDIM", size=[64, 64], steps=6, scale=1.5, strength=0.6, second_steps=None,
                  init="init_64x64", init_strength=0.8, mask="mask_aligned_64x64"),
    SHARED | dict(name="masked_full", sampler="K_EULER_ANCESTRAL", size=[64, 64], steps=5, scale=2.0, strength=0.5,
                  second_steps=6, init="init_64x64", init_strength=1.0, mask="mask_loose_64x64"),
    SHARED | dict(name="inpaint", model="tiny-inpaint", sampler="DDIM", size=[64, 64], steps=6, scale=1.5, strength=0.6,
                  second_steps=None, init="init_64x64", init_strength=1.0, mask="mask_aligned_64x64"),
]  # fmt: skip


def opened(name):
    return Image.open(INPUTS / f"{name}.png")


def enlarged(latent, case):
    cells = [round(side * case["scale"] / 8) for side in reversed(case["size"])]
    return torch.nn.functional.interpolate(latent, size=cells, mode="bilinear", align_corners=False)


def second_steps(case):
    return case["second_steps"] or case["steps"]


def draw(case):
    pipeline = models.pipeline(case["model"])
    pipeline.scheduler = SCHEDULERS[case["sampler"]].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    # The same in the words of `pipelines.py`.
    one = case | dict(
        prompts=[[case["prompt"], 1.0], [case["negative"], -1.0]], width=case["size"][0], height=case["size"][1],
        strength=case.get("init_strength"), spacing=None, guidance_rescale=0.0,
    )  # fmt: skip
    if "mask" in case:
        return masked(pipeline, case, one)
    if case["sampler"] == "K_DPMPP_2M":
        first = pipelines.by_k_diffusion(pipeline, one, None, None)
        return by_k_diffusion(pipeline, case, one, enlarged(first, case))
    return by_diffusers(pipeline, case)


def by_diffusers(pipeline, case):
    parts, shown = pipeline.components, {}
    if "control" in case:
        network = ControlNetModel.from_pretrained(golden.GOLDENS / "controls" / case["control"])
        kinds = (StableDiffusionControlNetPipeline, StableDiffusionControlNetImg2ImgPipeline)
        pipeline, again = (kind(**parts, controlnet=network, requires_safety_checker=False) for kind in kinds)
    elif "text_encoder_2" in parts:
        again = StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    else:
        again = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    for each in (pipeline, again):
        each.set_progress_bar_config(disable=True)
    prompts = dict(prompt=case["prompt"], negative_prompt=case["negative"], guidance_scale=case["cfg"])
    seeded = lambda: prompts | dict(generator=golden.generator(case["seed"]))
    width, height = case["size"]
    if "init" in case:
        first = again(
            **seeded(), image=opened(case["init"]).convert("RGB"), strength=case["init_strength"],
            num_inference_steps=case["steps"], output_type="latent",
        ).images  # fmt: skip
    else:
        hint = dict(image=opened(case["hint"]).convert("RGB")) if "hint" in case else {}
        first = pipeline(
            **seeded(), **hint, width=width, height=height, num_inference_steps=case["steps"], output_type="latent"
        ).images
    latent = enlarged(first, case)
    if "hint" in case:
        size = dict(width=latent.shape[-1] * 8, height=latent.shape[-2] * 8)
        hint = opened(case["hint"]).convert("RGB").resize(tuple(size.values()), Image.LANCZOS)
        shown = dict(control_image=hint, **size)
    return again(
        **seeded(), **shown, image=latent, strength=case["strength"], num_inference_steps=second_steps(case)
    ).images[0]


def by_k_diffusion(pipeline, case, one, latent):
    """The second pass with a sampler of k-diffusion."""
    scheduler, steps = pipeline.scheduler, second_steps(case)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas[steps - samplers.steps_of(steps, case["strength"]) :]
    noise = torch.randn(latent.shape, generator=golden.generator(case["seed"]))
    denoise = samplers.k_external.DiscreteEpsDDPMDenoiser(
        pipelines.guided(pipeline, one), scheduler.alphas_cumprod, quantize=False
    )
    x = samplers.SAMPLERS[case["sampler"]](denoise, latent + noise * sigmas[0], sigmas, disable=True)
    return pipelines.decode(pipeline, x)


def cells(mask, height, width):
    """Whether each cell of another grid covers something white, [1, 1, height, width]."""
    values, painted = np.array(mask) > 127, torch.zeros(1, 1, height, width, dtype=torch.bool)
    span = lambda index, count, pixels: slice(index * pixels // count, -(-(index + 1) * pixels // count))
    for row in range(height):
        for column in range(width):
            part = values[span(row, height, values.shape[0]), span(column, width, values.shape[1])]
            painted[0, 0, row, column] = bool(part.any())
    return painted


def masked(pipeline, case, one):
    """The second pass from the enlarged latent, with what is known at the larger size."""
    init, mask = opened(case["init"]).convert("RGB"), opened(case["mask"])
    inpaints = pipeline.unet.config.in_channels == 9
    if inpaints:
        first = families.run(one | dict(init=f"{case['init']}.png", mask=f"{case['mask']}.png"), pipeline.components)
    else:
        first = pipelines.by_diffusers(pipeline, one, init, mask)
    latent = enlarged(first, case)
    height, width = latent.shape[-2:]
    generator, scale = golden.generator(case["seed"]), pipeline.vae.config.scaling_factor
    encode = lambda pixels: pipelines.retrieve_latents(pipeline.vae.encode(pixels), generator=generator) * scale
    pixels = pipeline.image_processor.preprocess(init.resize((width * 8, height * 8), Image.LANCZOS))
    known = None if inpaints else encode(pixels)
    noise = torch.randn(latent.shape, generator=generator)
    painted = cells(mask, height, width)
    without = pixels * (1 - torch.nn.functional.interpolate(painted.float(), scale_factor=8))
    shown = encode(without)
    guided = pipelines.guided(pipeline, one)
    predict = guided
    if inpaints:
        predict = lambda x, timestep: guided(torch.cat([x, painted.float(), shown], 1), timestep)
    scheduler, steps = pipeline.scheduler, second_steps(case)
    scheduler.set_timesteps(steps)
    run = samplers.steps_of(steps, case["strength"])
    timesteps = scheduler.timesteps[steps - run :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(steps - run)
    x = scheduler.add_noise(latent, noise, timesteps[:1])
    draws = {} if case["sampler"] == "DDIM" else {"generator": generator}
    for index, timestep in enumerate(timesteps):
        output = predict(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, **draws).prev_sample
        if known is not None:
            following = timesteps[index + 1 : index + 2]
            x = torch.where(painted, x, scheduler.add_noise(known, noise, following) if len(following) else known)
    return pipelines.decode(pipeline, x)


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "pictures").mkdir(parents=True)
    for case in CASES:
        draw(case).save(FOLDER / "pictures" / f"{case['name']}.png", optimize=True)
    (FOLDER / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main()
