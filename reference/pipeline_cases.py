"""The requests that `pipelines.py` runs: a table, written down as JSON beside the results.

Fields: `model` (a variant of the tiny models, or `default`), `width`, `height`, `prompts` (texts with weights; one
positive and one of weight -1 is diffusers' `prompt` and `negative_prompt`), `sampler`, `spacing` (null: the one in
the model's file), `steps`, `strength` (null for text-to-image), `cfg`, `guidance_rescale`, `seed`, `init` and `mask`
(files in `inputs/`; white is repainted), `picture` (whether the expected picture is kept).
"""

CAT, DOG = "a cat on a white background, 3d model", "blurry dog, line art"
BOTH = [[CAT, 1.0], [DOG, -1.0]]
MEANS = [["a cat", 1.0], ["a red flower", 3.0], ["blurry dog", -1.0], ["line art", -0.5]]
STRAWBERRY = [["a strawberry on a white background, 3d model", 1.0]]
BLUE = [["a strawberry on a blue background, 3d model", 1.0], ["red", -1.0]]


def case(name, model, sampler, steps, **fields):
    size = 128 if model == "default" else 64
    fixed = dict(
        name=name, model=model, width=size, height=size, prompts=BOTH, sampler=sampler, spacing=None, steps=steps,
        strength=None, cfg=7.5, guidance_rescale=0.0, seed=42, init=None, mask=None, picture=False,
    )  # fmt: skip
    assert fields.keys() <= fixed.keys(), fields
    return fixed | fields


WIDE = dict(width=96, height=64)
INIT = dict(init="init_64x64.png", cfg=4.0)
WIDE_INIT = dict(init="init_96x64.png", cfg=4.0, **WIDE)
ALIGNED = dict(mask="mask_aligned_64x64.png", **INIT)
LOOSE = dict(mask="mask_loose_64x64.png", **INIT)
WIDE_LOOSE = dict(mask="mask_loose_96x64.png", **WIDE_INIT)
GREY = dict(mask="mask_grey_64x64.png", **INIT)
BIG_INIT = dict(init="init_128x128.png", prompts=STRAWBERRY, cfg=4.0)
BIG_LOOSE = dict(mask="mask_loose_128x128.png", **BIG_INIT)
SHOWN = dict(picture=True)

TEXT = [
    case("text_ddim_1", "tiny-sd15", "DDIM", 1),
    case("text_ddim_4_unguided", "tiny-sd15", "DDIM", 4, cfg=1.0),
    case("text_ddim_4_positive_only", "tiny-sd15", "DDIM", 4, prompts=BOTH[:1], seed=2**32 - 1),
    case("text_ddim_20", "tiny-sd15", "DDIM", 20, cfg=4.0, **SHOWN),
    case("text_ddim_4_rescale", "tiny-sd15", "DDIM", 4, guidance_rescale=0.7),
    case("text_ddim_4_wide_trailing", "tiny-sd15", "DDIM", 4, spacing="trailing", **WIDE, **SHOWN),
    case("text_ddim_4_linspace", "tiny-sd15", "DDIM", 4, spacing="linspace"),
    case("text_ddim_4_means", "tiny-sd15", "DDIM", 4, prompts=MEANS),
    case("text_euler_1", "tiny-sd15", "K_EULER", 1),
    case("text_euler_4", "tiny-sd15", "K_EULER", 4, **SHOWN),
    case("text_euler_4_wide_trailing", "tiny-sd15", "K_EULER", 4, spacing="trailing", **WIDE),
    case("text_euler_4_linspace", "tiny-sd15", "K_EULER", 4, spacing="linspace"),
    case("text_euler_a_4", "tiny-sd15", "K_EULER_ANCESTRAL", 4),
    case("text_euler_a_20_trailing", "tiny-sd15", "K_EULER_ANCESTRAL", 20, spacing="trailing", cfg=4.0),
    case("text_2m_4", "tiny-sd15", "K_DPMPP_2M", 4),
    case("text_2m_10_linspace", "tiny-sd15", "K_DPMPP_2M", 10, spacing="linspace", **SHOWN),
    case("text_sd21_ddim_4", "tiny-sd21", "DDIM", 4),
    case("text_sd21_euler_4", "tiny-sd21", "K_EULER", 4),
    case("text_v_ddim_1", "tiny-v", "DDIM", 1),
    case("text_v_ddim_4", "tiny-v", "DDIM", 4, **SHOWN),
    case("text_v_ddim_4_rescale", "tiny-v", "DDIM", 4, guidance_rescale=0.7),
    case("text_v_ddim_4_leading", "tiny-v", "DDIM", 4, spacing="leading"),
    case("text_v_euler_4", "tiny-v", "K_EULER", 4),
    case("text_v_euler_a_4", "tiny-v", "K_EULER_ANCESTRAL", 4),
    case("text_v_2m_4", "tiny-v", "K_DPMPP_2M", 4),
]
IMAGE = [
    case("image_ddim_4_full", "tiny-sd15", "DDIM", 4, strength=1.0, **INIT),
    case("image_ddim_10", "tiny-sd15", "DDIM", 10, strength=0.6, **INIT, **SHOWN),
    case("image_ddim_10_wide", "tiny-sd15", "DDIM", 10, strength=0.3, **WIDE_INIT),
    case("image_euler_10", "tiny-sd15", "K_EULER", 10, strength=0.6, **INIT),
    case("image_euler_10_linspace", "tiny-sd15", "K_EULER", 10, strength=0.3, spacing="linspace", **INIT),
    case("image_euler_a_10", "tiny-sd15", "K_EULER_ANCESTRAL", 10, strength=0.6, **INIT),
    case("image_2m_10_linspace", "tiny-sd15", "K_DPMPP_2M", 10, strength=0.6, spacing="linspace", **INIT),
    case("image_v_ddim_10", "tiny-v", "DDIM", 10, strength=0.6, **INIT),
    case("image_v_euler_4_full", "tiny-v", "K_EULER", 4, strength=1.0, **INIT),
    case("image_taesd_euler_a_10", "tiny-taesd", "K_EULER_ANCESTRAL", 10, strength=0.6, **INIT, **SHOWN),
]
MASKED = [
    case("masked_ddim_4_full", "tiny-sd15", "DDIM", 4, strength=1.0, **ALIGNED, **SHOWN),
    case("masked_ddim_10", "tiny-sd15", "DDIM", 10, strength=0.6, **LOOSE, **SHOWN),
    case("masked_ddim_10_unguided", "tiny-sd15", "DDIM", 10, strength=0.3, **LOOSE | dict(cfg=1.0)),
    case("masked_euler_4_full", "tiny-sd15", "K_EULER", 4, strength=1.0, **ALIGNED),
    case("masked_euler_10_wide", "tiny-sd15", "K_EULER", 10, strength=0.6, **WIDE_LOOSE, **SHOWN),
    case("masked_euler_a_4_full", "tiny-sd15", "K_EULER_ANCESTRAL", 4, strength=1.0, **ALIGNED),
    case("masked_euler_a_10", "tiny-sd15", "K_EULER_ANCESTRAL", 10, strength=0.6, **LOOSE),
    case("masked_2m_4_full", "tiny-sd15", "K_DPMPP_2M", 4, strength=1.0, spacing="linspace", **ALIGNED),
    case("masked_2m_10", "tiny-sd15", "K_DPMPP_2M", 10, strength=0.6, spacing="linspace", **LOOSE),
    case("masked_v_ddim_4_full", "tiny-v", "DDIM", 4, strength=1.0, **LOOSE),
    case("masked_v_euler_4_full", "tiny-v", "K_EULER", 4, strength=1.0, **LOOSE),
    case("masked_v_euler_a_10", "tiny-v", "K_EULER_ANCESTRAL", 10, strength=0.6, **ALIGNED),
    case("grey_ddim_10_full", "tiny-sd15", "DDIM", 10, strength=1.0, **GREY, **SHOWN),
    case("grey_euler_10", "tiny-sd15", "K_EULER", 10, strength=0.6, **GREY),
    case("grey_euler_a_4_full", "tiny-sd15", "K_EULER_ANCESTRAL", 4, strength=1.0, **GREY),
]
DEFAULT = [
    case("default_text_ddim_20", "default", "DDIM", 20, prompts=STRAWBERRY, cfg=4.0, **SHOWN),
    case("default_text_euler_a_4", "default", "K_EULER_ANCESTRAL", 4, prompts=BLUE, cfg=7.5),
    case("default_text_2m_10_wide", "default", "K_DPMPP_2M", 10, prompts=BLUE, cfg=4.0, width=160, height=96),
    case("default_image_ddim_10", "default", "DDIM", 10, strength=0.6, **BIG_INIT, **SHOWN),
    case("default_masked_ddim_20", "default", "DDIM", 20, strength=0.6, **BIG_LOOSE, **SHOWN),
    case("default_masked_euler_4_full", "default", "K_EULER", 4, strength=1.0, **BIG_LOOSE),
]
CASES = TEXT + IMAGE + MASKED + DEFAULT
