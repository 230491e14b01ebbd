"""Write `goldens/pipelines/`: whole pictures, from diffusers' three Stable Diffusion pipelines, and from loops by hand.

- `cases.json`: the requests, as `pipeline_cases.py` describes them, with two fields added: `reference`, what the case
  was computed by, and `steps_run`.
- `latents.safetensors`: the final latent [1, 4, H/8, W/8] of each case, under its name, before the VAE.
- `pictures/<name>.png`: the decoded picture, where the case keeps it. No pixel of the input is composited back in.
- `inputs/*.png`: pictures and masks that the requests name.

`reference` is one of
- `diffusers`: StableDiffusionPipeline, …Img2ImgPipeline or …InpaintPipeline (4-channel UNet) with DDIMScheduler,
  EulerDiscreteScheduler or EulerAncestralDiscreteScheduler. A mask that does not follow the latent's grid is handed to
  it already widened to full 8x8 cells: that is our rule, and the only difference.
- `k-diffusion`: its samplers around the pipeline's parts, for K_DPMPP_2M and for K_* with `linspace`, where diffusers
  differs. The start is noise·sigma, or for `leading` noise·√(sigma² + 1), diffusers' rule for its Euler schedulers.
- `by hand`: grey masks. Of N steps a cell of value m takes part in step i (from 0) if m >= 1 - i/N; after each step
  the cells that did not are put back to the known latent at the next step's noise, as diffusers does it for black.

The order of draws is diffusers': posterior, latent noise, with a mask the masked picture's posterior, the sampler's.
"""

import functools
import json
import shutil

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import retrieve_latents
from PIL import Image

import golden
import models
import samplers
from pipeline_cases import CASES

FOLDER = golden.GOLDENS / "pipelines"
SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "K_EULER": EulerDiscreteScheduler,
    "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler,
}
_, k_external = golden.k_diffusion()


def write_inputs():
    """A landscape of gradients and a disc; masks on the latent's grid, off it, and in greys."""
    (FOLDER / "inputs").mkdir(parents=True)
    for width, height in ((64, 64), (96, 64), (128, 128)):
        y, x = np.mgrid[:height, :width]
        disc = (x - width // 2) ** 2 + (y - height // 2) ** 2 < (height // 3) ** 2
        picture = np.stack([x * 255 // width, y * 255 // height, (x + y) * 127 // (width + height) + 64], axis=-1)
        picture[disc] = (200, 60, 40)
        save(picture, f"init_{width}x{height}")
        # Off the grid: a disc, a line one pixel wide, a single pixel in the last corner.
        loose = (x - width // 2 + 3) ** 2 + (y - height // 2) ** 2 < (height // 4 - 3) ** 2
        loose |= (y == 5) & (x > 3) & (x < 13)
        loose[-1, -1] = True
        save(loose * 255, f"mask_loose_{width}x{height}")
    y, x = np.mgrid[:64, :64]
    save(((x >= 16) & (x < 48) & (y >= 24) & (y < 56)) * 255, "mask_aligned_64x64")
    greys = np.array([0, 16, 64, 100, 128, 160, 200, 255])
    save(np.where(y < 48, greys[x // 8], greys[::-1][(x + 3) // 8 % 8]), "mask_grey_64x64")


def save(values, name):
    Image.fromarray(values.astype(np.uint8)).save(FOLDER / "inputs" / f"{name}.png", optimize=True)


def cells(mask):
    """Each 8x8 cell's greatest value, as fractions [1, 1, H/8, W/8]."""
    values = torch.from_numpy(np.array(mask)).double()[None, None] / 255
    return torch.nn.functional.max_pool2d(values, 8)


def widened(mask):
    """The mask with every touched cell filled up."""
    return Image.fromarray(np.kron(cells(mask)[0, 0].numpy() * 255, np.ones((8, 8))).round().astype(np.uint8))


def mean_of(pipeline, prompts):
    """The weighted mean of the embeddings of the prompts of one sign; of the empty prompt if there are none."""
    prompts = prompts or [["", 1.0]]
    total = sum(abs(weight) for _, weight in prompts)
    encode = lambda text: pipeline.encode_prompt(text, "cpu", 1, False)[0]
    return sum(encode(text) * (abs(weight) / total) for text, weight in prompts)


def embeddings(pipeline, case):
    positive, negative = ([p for p in case["prompts"] if (p[1] > 0) == sign] for sign in (True, False))
    return mean_of(pipeline, positive), mean_of(pipeline, negative)


@functools.cache
def load(model, default_model):
    """A pipeline and its own scheduler's configuration."""
    pipeline = models.default_pipeline(default_model) if model == "default" else models.pipeline(model)
    return pipeline, pipeline.scheduler.config


def prepare(case, default_model):
    """The case's pipeline, with its scheduler in place."""
    pipeline, config = load(case["model"], default_model)
    spacing = {"timestep_spacing": case["spacing"]} if case["spacing"] else {}
    cls = SCHEDULERS.get(case["sampler"], EulerDiscreteScheduler)
    pipeline.scheduler = cls.from_config(config, **spacing)
    return pipeline


def by_diffusers(pipeline, case, init, mask):
    """One call of the pipeline that diffusers has for this."""
    positive, negative = embeddings(pipeline, case)
    arguments = dict(
        prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=case["steps"],
        guidance_scale=case["cfg"], generator=golden.generator(case["seed"]), output_type="latent",
    )  # fmt: skip
    if [weight for _, weight in case["prompts"]] == [1.0, -1.0]:  # the texts themselves: nothing of ours in between
        del arguments["prompt_embeds"], arguments["negative_prompt_embeds"]
        arguments |= dict(prompt=case["prompts"][0][0], negative_prompt=case["prompts"][1][0])
    pipeline.set_progress_bar_config(disable=True)
    size = dict(width=case["width"], height=case["height"])
    if init is None:
        return pipeline(**arguments, **size, guidance_rescale=case["guidance_rescale"]).images
    arguments |= dict(image=init, strength=case["strength"])
    cls = StableDiffusionImg2ImgPipeline if mask is None else StableDiffusionInpaintPipeline
    variant = cls(**pipeline.components, requires_safety_checker=False)
    variant.set_progress_bar_config(disable=True)
    return variant(**arguments, **({} if mask is None else dict(mask_image=widened(mask), **size))).images


def guided(pipeline, case):
    """The UNet with both halves in one batch, as the pipelines call it."""
    positive, negative = embeddings(pipeline, case)
    if case["cfg"] <= 1:
        return lambda x, timestep: pipeline.unet(x, timestep.float(), positive).sample

    def predict(x, timestep):
        both = pipeline.unet(torch.cat([x, x]), timestep.float().reshape(-1)[:1], torch.cat([negative, positive]))
        without, with_text = both.sample.chunk(2)
        return without + case["cfg"] * (with_text - without)

    return predict


def draw(pipeline, case, init, mask):
    """The generator, the known latent (or None) and the latent noise, drawn in diffusers' order."""
    generator = golden.generator(case["seed"])
    scale = pipeline.vae.config.scaling_factor
    encode = lambda pixels: retrieve_latents(pipeline.vae.encode(pixels), generator=generator) * scale
    pixels = None if init is None else pipeline.image_processor.preprocess(init)
    known = None if init is None else encode(pixels)
    noise = torch.randn(1, 4, case["height"] // 8, case["width"] // 8, generator=generator)
    if mask is not None:
        encode(pixels)  # what is encoded does not matter here, only that its noise is drawn
    return generator, known, noise


def by_k_diffusion(pipeline, case, init, mask):
    """A sampler of k-diffusion; black cells re-imposed before each call of the UNet but the first, and at the end."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(case["steps"])
    generator, known, noise = draw(pipeline, case, init, mask)
    schedule = k_external.DiscreteSchedule(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5, False)
    linspace = scheduler.config.timestep_spacing == "linspace"
    sigmas = schedule.get_sigmas(case["steps"]) if linspace else scheduler.sigmas
    sigmas = sigmas[case["steps"] - samplers.steps_of(case["steps"], case["strength"] or 1) :]
    if init is None or (mask is not None and case["strength"] == 1):
        leading = scheduler.config.timestep_spacing == "leading"
        start = noise * ((sigmas[0] ** 2 + 1).sqrt() if leading else sigmas[0])
    else:
        start = known + noise * sigmas[0]
    v = scheduler.config.prediction_type == "v_prediction"
    wrapper = k_external.DiscreteVDDPMDenoiser if v else k_external.DiscreteEpsDDPMDenoiser
    denoise = wrapper(guided(pipeline, case), scheduler.alphas_cumprod, quantize=False)
    painted = None if mask is None else (cells(mask) >= 0.5).float()

    def masked(x, sigma):
        if mask is not None and sigma[0] < sigmas[0]:
            x = torch.where(painted > 0, x, known + noise * sigma)
        return denoise(x, sigma)

    extra = {"noise_sampler": lambda *_: torch.randn(start.shape, generator=generator)} if "_A" in case["sampler"] else {}
    x = samplers.SAMPLERS[case["sampler"]](masked, start, sigmas, disable=True, **extra)
    return x if mask is None else torch.where(painted > 0, x, known)


def by_hand(pipeline, case, init, mask):
    """The inpainting pipeline's loop, with cells that join it late."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(case["steps"])
    generator, known, noise = draw(pipeline, case, init, mask)
    steps = samplers.steps_of(case["steps"], case["strength"])
    timesteps = scheduler.timesteps[case["steps"] - steps :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(case["steps"] - steps)
    full = case["strength"] == 1
    x = noise * scheduler.init_noise_sigma if full else scheduler.add_noise(known, noise, timesteps[:1])
    predict, values = guided(pipeline, case), cells(mask)
    draws = {} if case["sampler"] == "DDIM" else {"generator": generator}
    for i, timestep in enumerate(timesteps):
        output = predict(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, **draws).prev_sample
        level = scheduler.add_noise(known, noise, timesteps[i + 1 : i + 2]) if i + 1 < steps else known
        x = torch.where(values >= 1 - i / steps, x, level)
    return x


def run(pipeline, case):
    inputs = FOLDER / "inputs"
    init = Image.open(inputs / case["init"]) if case["init"] else None
    mask = Image.open(inputs / case["mask"]) if case["mask"] else None
    linspace = pipeline.scheduler.config.timestep_spacing == "linspace"
    if case["name"].startswith("grey"):
        reference, way = "by hand", by_hand
    elif case["sampler"] == "K_DPMPP_2M" or (case["sampler"] != "DDIM" and linspace):
        reference, way = "k-diffusion", by_k_diffusion
    else:
        reference, way = "diffusers", by_diffusers
    return way(pipeline, case, init, mask), reference


def decode(pipeline, latent):
    """As the pipelines do it, to 8-bit pixels."""
    pixels = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
    return pipeline.image_processor.postprocess(pixels, output_type="pil")[0]


def main():
    arguments = golden.arguments(__doc__.splitlines()[0])
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_inputs()
    (FOLDER / "pictures").mkdir()
    latents, written = {}, []
    for case in CASES:
        pipeline = prepare(case, arguments.default_model)
        latent, reference = run(pipeline, case)
        latents[case["name"]] = latent
        if case["picture"]:
            decode(pipeline, latent).save(FOLDER / "pictures" / f"{case['name']}.png", optimize=True)
        steps_run = samplers.steps_of(case["steps"], case["strength"] or 1)
        written.append(case | {"reference": reference, "steps_run": steps_run})
    golden.write("pipelines/latents", latents, {"cases": "cases.json"})
    (FOLDER / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in written) + "\n]\n")


if __name__ == "__main__":
    main()
