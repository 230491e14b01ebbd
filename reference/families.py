"""Write `goldens/families/`: whole pictures and networks of the model families, from diffusers' own pipelines.

- `cases.json`: requests as in `pipelines.py`, all of them computed by `diffusers`; `steps_run` is added.
- `latents.safetensors`: the final latent of each case, before the VAE.
- `networks.safetensors`: passes of the parts that only these families have. `text.<n>.context` and `.pooled`: what
  `tiny-xl` makes of the n-th of `case["texts"]`; `unet.<model>.*`: `sample`, `context`, `output`, and with them
  `pooled`, `sizes` (`tiny-xl`) or `scale` (`tiny-lcm`: the guidance scale).

Pipelines: StableDiffusion…, StableDiffusionXL… and LatentConsistencyModel…, each with its image-to-image and inpainting
kinds (consistency models but for the first: the plain ones). An inpainting UNet without a mask in the case is run with one that is white everywhere, without a picture
with a grey one: that is what we make of such requests. A mask off the latent's grid comes widened to it, as in
`pipelines.py`.
"""

import json
import shutil

import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

import golden
import models
import pipelines
import samplers
from pipeline_cases import ALIGNED, BOTH, INIT, LOOSE, WIDE, WIDE_INIT, WIDE_LOOSE, case

FOLDER = golden.GOLDENS / "families"
SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "K_EULER": EulerDiscreteScheduler,
    "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler,
    "LCM": LCMScheduler,
}
# Text-to-image, image-to-image, mask.
PLAIN = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline)
XL = (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline)
# Its own image-to-image kind cuts the timesteps before it counts the steps; the plain one counts as everywhere else.
CONSISTENT = (LatentConsistencyModelPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline)
EXCLAIMED = [["wow!! a cat, a dog!", 1.0], ["no! line art", -1.0]]
ONE = BOTH[:1]
EMPTY_NEGATIVE = [BOTH[0], ["", -1.0]]

CASES = [
    case("sd21_image_ddim_10", "tiny-sd21", "DDIM", 10, strength=0.6, **INIT),
    case("sd21_masked_ddim_10", "tiny-sd21", "DDIM", 10, strength=0.6, **LOOSE),
    case("sd21_masked_euler_4_full", "tiny-sd21", "K_EULER", 4, strength=1.0, **ALIGNED),
    case("xl_text_euler_4", "tiny-xl", "K_EULER", 4, cfg=5.0),
    case("xl_text_euler_4_exclaimed", "tiny-xl", "K_EULER", 4, prompts=EXCLAIMED),
    case("xl_text_ddim_4_wide", "tiny-xl", "DDIM", 4, cfg=5.0, **WIDE),
    case("xl_text_ddim_4_zeros", "tiny-xl", "DDIM", 4, prompts=ONE),
    case("xl_text_ddim_4_empty", "tiny-xl", "DDIM", 4, prompts=EMPTY_NEGATIVE),
    case("xl_text_ddim_4_rescale", "tiny-xl", "DDIM", 4, guidance_rescale=0.7),
    case("xl_image_euler_10", "tiny-xl", "K_EULER", 10, strength=0.6, **INIT),
    case("xl_image_ddim_10_wide", "tiny-xl", "DDIM", 10, strength=0.3, **WIDE_INIT),
    case("xl_masked_ddim_10", "tiny-xl", "DDIM", 10, strength=0.6, **LOOSE),
    case("xl_masked_euler_4_full", "tiny-xl", "K_EULER", 4, strength=1.0, **ALIGNED),
    case("turbo_text_1", "tiny-turbo", "K_EULER_ANCESTRAL", 1, cfg=1.0, prompts=ONE),
    case("turbo_text_4", "tiny-turbo", "K_EULER_ANCESTRAL", 4, cfg=1.0, prompts=ONE),
    case("turbo_image_2", "tiny-turbo", "K_EULER_ANCESTRAL", 2, strength=0.5, prompts=ONE, **INIT | dict(cfg=1.0)),
    case("turbo_masked_4", "tiny-turbo", "K_EULER_ANCESTRAL", 4, strength=0.6, prompts=ONE, **LOOSE | dict(cfg=1.0)),
    case("inpaint_masked_ddim_4_full", "tiny-inpaint", "DDIM", 4, strength=1.0, **ALIGNED),
    case("inpaint_masked_ddim_10", "tiny-inpaint", "DDIM", 10, strength=0.6, **LOOSE),
    case("inpaint_masked_euler_a_4_full", "tiny-inpaint", "K_EULER_ANCESTRAL", 4, strength=1.0, **LOOSE),
    case("inpaint_masked_euler_10_unguided", "tiny-inpaint", "K_EULER", 10, strength=0.6, **WIDE_LOOSE | dict(cfg=1.0)),
    case("inpaint_text_ddim_4", "tiny-inpaint", "DDIM", 4),
    case("inpaint_image_ddim_10", "tiny-inpaint", "DDIM", 10, strength=0.6, **INIT),
    case("xl_inpaint_masked_euler_4_full", "tiny-xl-inpaint", "K_EULER", 4, strength=1.0, **LOOSE),
    case("xl_inpaint_masked_ddim_10", "tiny-xl-inpaint", "DDIM", 10, strength=0.6, **ALIGNED),
    case("xl_inpaint_text_euler_4", "tiny-xl-inpaint", "K_EULER", 4),
    case("xl_inpaint_image_euler_10", "tiny-xl-inpaint", "K_EULER", 10, strength=0.6, **INIT),
    case("lcm_text_4", "tiny-lcm", "LCM", 4, cfg=8.5, prompts=ONE),
    case("lcm_image_10", "tiny-lcm", "LCM", 10, strength=0.6, prompts=ONE, **INIT),
    case("lcm_masked_4_full", "tiny-lcm", "LCM", 4, strength=1.0, prompts=ONE, **ALIGNED),
    case("lcm_text_ddim_4", "tiny-lcm", "DDIM", 4, cfg=8.5),
    case("lcm_image_ddim_10", "tiny-lcm", "DDIM", 10, strength=0.6, **INIT),
    case("lcm_masked_ddim_10", "tiny-lcm", "DDIM", 10, strength=0.6, **LOOSE),
]


def pipeline_of(case, parts, kind):
    """The pipeline for the case's model with its scheduler in place; `kind` counts as in PLAIN."""
    classes = XL if "text_encoder_2" in parts else CONSISTENT if case["sampler"] == "LCM" else PLAIN
    spacing = {"timestep_spacing": case["spacing"]} if case["spacing"] else {}
    scheduler = SCHEDULERS[case["sampler"]].from_config(parts["scheduler"].config, **spacing)
    names = dict(add_watermarker=False) if classes is XL else dict(requires_safety_checker=False)
    pipeline = classes[kind](**parts | {"scheduler": scheduler}, **names)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(case, parts):
    """The final latent."""
    size = dict(width=case["width"], height=case["height"])
    inpaints = parts["unet"].config.in_channels == 9
    inputs = golden.GOLDENS / "pipelines" / "inputs"
    init = Image.open(inputs / case["init"]) if case["init"] else None
    mask = pipelines.widened(Image.open(inputs / case["mask"])) if case["mask"] else None
    if inpaints:
        init = init or Image.new("RGB", tuple(size.values()), (127, 127, 127))
        mask = mask or Image.new("L", tuple(size.values()), 255)
    kind = 2 if mask else 1 if init else 0
    texts = {sign: [text for text, weight in case["prompts"] if weight == sign] for sign in (1.0, -1.0)}
    arguments = dict(
        prompt=texts[1.0][0], num_inference_steps=case["steps"], guidance_scale=case["cfg"],
        generator=golden.generator(case["seed"]), output_type="latent",
    )  # fmt: skip
    if texts[-1.0]:
        arguments |= dict(negative_prompt=texts[-1.0][0])
    if case["guidance_rescale"]:
        arguments |= dict(guidance_rescale=case["guidance_rescale"])
    if init:
        arguments |= dict(image=init, strength=case["strength"] or 1.0)
    if mask:
        arguments |= dict(mask_image=mask)
    if kind != 1:
        arguments |= size
    return pipeline_of(case, parts, kind)(**arguments).images


def networks(parts_of):
    """Passes of the parts that only these families have."""
    tensors, generator = {}, golden.generator(13)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    texts = ["", "a cat", EXCLAIMED[0][0], "a cat " * 60]
    pipeline = pipeline_of({"sampler": "K_EULER", "spacing": None}, parts_of("tiny-xl"), 0)
    for index, text in enumerate(texts):
        states, _, pooled, _ = pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        tensors |= {f"text.{index}.context": states[:, [0, 1, 2, 5, 9, 40, 76]], f"text.{index}.pooled": pooled}
    for name in ("tiny-xl", "tiny-lcm", "tiny-inpaint"):
        unet = parts_of(name)["unet"]
        inputs = dict(sample=draw(2, unet.config.in_channels, 8, 12), context=draw(2, 9, unet.config.cross_attention_dim))
        arguments = {}
        if name == "tiny-xl":
            inputs |= dict(pooled=draw(2, 24), sizes=torch.tensor([1024.0, 768, 3, 40, 64, 96]))
            ids = inputs["sizes"].expand(2, 6)
            arguments = dict(added_cond_kwargs=dict(text_embeds=inputs["pooled"], time_ids=ids))
        if name == "tiny-lcm":
            inputs |= dict(scale=torch.tensor([8.5]))
            embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
            arguments = dict(timestep_cond=embed(None, inputs["scale"] - 1, unet.config.time_cond_proj_dim))
        output = unet(inputs["sample"], torch.tensor(321.5), inputs["context"], **arguments).sample
        tensors |= {f"unet.{name}.{key}": value for key, value in inputs.items()} | {f"unet.{name}.output": output}
    golden.write("families/networks", tensors, {"texts": texts, "positions": [0, 1, 2, 5, 9, 40, 76], "timestep": 321.5})


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    loaded = {}

    def parts_of(name):
        if name not in loaded:
            loaded[name] = models.pipeline(name).components
        return loaded[name]

    latents, written = {}, []
    for case in CASES:
        latents[case["name"]] = run(case, parts_of(case["model"]))
        steps_run = samplers.steps_of(case["steps"], case["strength"] or 1)
        written.append(case | {"reference": "diffusers", "steps_run": steps_run})
    golden.write("families/latents", latents, {"cases": "cases.json"})
    (FOLDER / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in written) + "\n]\n")
    networks(parts_of)


if __name__ == "__main__":
    main()
