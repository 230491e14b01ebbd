"""Write tiny random models in diffusers' folder layout to `goldens/models/`.

Their weights mean nothing, but every one of them matters: norms are pushed away from 1 and 0 and no layer is near zero,
so a forgotten bias or a swapped norm shows. Weights are stored as f16 (bf16 in `tiny-bf16-sharded`); all goldens
are computed from the stored values, widened to float32.

- `tiny-sd15`: a whole pipeline, the classes of Stable Diffusion 1.5 (epsilon, `leading`, steps_offset 1).
- `tiny-sd21`: what differs in Stable Diffusion 2.1: a UNet with linear projections, one number of heads a level and
  two layers a block; `gelu` in the text encoder, whose weights are those of `tiny-sd15`; `!` as the padding token;
  v-prediction.
- `tiny-v`: only a scheduler: v-prediction, zero terminal SNR, `trailing`, as the embedded model has it.
- `tiny-taesd`: only a VAE, `AutoencoderTiny`.
- `tiny-bf16-sharded`: only a UNet, that of `tiny-sd21` in bf16 and in three files with an index.
- `tiny-xl`: what differs in Stable Diffusion XL: a second text encoder with a projection, whose tokenizer fills up with
  `!`; a UNet with pooled texts and sizes; the scaling factor of its VAE, whose weights are those of `tiny-sd15`.
- `tiny-turbo`: `tiny-xl` with the scheduler of its distilled kind: Euler ancestral, `trailing`.
- `tiny-inpaint`, `tiny-xl-inpaint`: only a UNet of nine input channels, for `tiny-sd15` and `tiny-xl`.
- `tiny-words`: only a tokenizer, as transformers 5 writes it: `tokenizer.json` and no lists beside it, with few merges, a
  marker and a word that were added, and `!` as the padding token.
- `tiny-lcm`: a UNet that takes the guidance scale, for `tiny-sd15`, and the scheduler of its kind.

A part without weights of its own has those of the model below, in the end `tiny-sd15`: see `assemble`.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import golden

SD15_SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon", timestep_spacing="leading",
)  # fmt: skip


# As the base model has it.
XL_SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1,
    prediction_type="epsilon", timestep_spacing="leading",
)  # fmt: skip
# What a model without files of its own is laid over, where that is not `tiny-sd15`.
BELOW = {"tiny-xl-inpaint": "tiny-xl", "tiny-turbo": "tiny-xl"}


def text_config(hidden_act):
    return CLIPTextConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        projection_dim=32, max_position_embeddings=77, hidden_act=hidden_act,
        bos_token_id=4094, eos_token_id=4095, pad_token_id=4095,
    )  # fmt: skip


def text_config_2():
    return CLIPTextConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=24, max_position_embeddings=77, hidden_act="gelu",
        bos_token_id=4094, eos_token_id=4095, pad_token_id=0,
    )  # fmt: skip


def unet_sd15(**others):
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, norm_num_groups=8, **others,
    )  # fmt: skip


def unet_xl(**others):
    """Widths of 32 + 16 come from the text encoders; 24 pooled and six sizes of 8 are added to the time embedding."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=48,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), norm_num_groups=4, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        **others,
    )  # fmt: skip


def unet_sd21():
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=2, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4), norm_num_groups=4, use_linear_projection=True,
    )  # fmt: skip


def vae_kl():
    return AutoencoderKL(
        sample_size=64, block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
    )  # fmt: skip


def vae_tiny():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 2), num_decoder_blocks=(2, 1, 1, 1),
    )  # fmt: skip


def randomise(model, seed, gain=1.0):
    """Fill every parameter: norms around 1, biases around 0, the rest so that variance is kept (He, without the 2)."""
    generator = golden.generator(seed)
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm))
    }
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name in norms:
            value = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            value = 0.1 * noise
        elif "embedding.weight" in name:
            value = 0.5 * noise
        else:
            value = gain * noise / math.sqrt(parameter[0].numel())
        parameter.data.copy_(value)
    return model.half()


def assemble(variant, target):
    """Lay a whole model out in `target`: a part without weights of its own has those of the models below its files."""
    layers = [variant]
    while layers[0] != "tiny-sd15":
        layers.insert(0, BELOW.get(layers[0], "tiny-sd15"))
    for kind in ("", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        weighty = [name for name in layers if list((golden.MODELS / name / kind).glob("*.safetensors*"))]
        first = layers.index(weighty[-1]) if weighty else 0
        for name in layers[first:]:
            if (golden.MODELS / name / kind).exists():
                (target / kind).mkdir(exist_ok=True)
                for file in (golden.MODELS / name / kind).glob("*.*"):
                    shutil.copyfile(file, target / kind / file.name)
    if (target / "tokenizer_2").exists():  # the words are the same
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(target / "tokenizer" / name, target / "tokenizer_2" / name)


def pipeline(variant):
    """A whole tiny pipeline in float32."""
    with tempfile.TemporaryDirectory() as target:
        assemble(variant, Path(target))
        if json.loads((Path(target) / "model_index.json").read_text())["_class_name"] == "StableDiffusionXLPipeline":
            return DiffusionPipeline.from_pretrained(target, dtype=torch.float32, add_watermarker=False)
        return default_pipeline(target)


def default_pipeline(path):
    """The pipeline in a folder, such as the embedded model, in float32."""
    return StableDiffusionPipeline.from_pretrained(
        path, dtype=torch.float32, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def final_norm(encoder):
    """The norm behind the last layer of a CLIP text encoder, wherever transformers keeps it."""
    return next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))


def write_tokenizer(source, target, pad_token=None):
    """Copy the embedded model's tokenizer, perhaps with another padding token."""
    target.mkdir(parents=True)
    names = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    for name in names if pad_token is None else names[2:]:
        shutil.copyfile(source / name, target / name)
        if pad_token is not None:
            value = json.loads((target / name).read_text())
            (target / name).write_text(json.dumps(value | {"pad_token": pad_token}, indent=2) + "\n")


def write_index(target, index):
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    arguments = golden.arguments(__doc__.splitlines()[0])
    golden.hold_still()
    shutil.rmtree(golden.MODELS, ignore_errors=True)
    sd15, sd21 = golden.MODELS / "tiny-sd15", golden.MODELS / "tiny-sd21"

    write_tokenizer(arguments.default_model / "tokenizer", sd15 / "tokenizer")
    randomise(CLIPTextModel(text_config("quick_gelu")), 1).save_pretrained(sd15 / "text_encoder")
    randomise(unet_sd15(), 2).save_pretrained(sd15 / "unet")
    randomise(vae_kl(), 3).save_pretrained(sd15 / "vae")
    DDIMScheduler(**SD15_SCHEDULER).save_pretrained(sd15 / "scheduler")
    index = json.loads((arguments.default_model / "model_index.json").read_text())
    write_index(sd15, index)

    write_tokenizer(arguments.default_model / "tokenizer", sd21 / "tokenizer", pad_token="!")
    text_config("gelu").save_pretrained(sd21 / "text_encoder")
    randomise(unet_sd21(), 4).save_pretrained(sd21 / "unet")
    DDIMScheduler(**SD15_SCHEDULER | dict(prediction_type="v_prediction")).save_pretrained(sd21 / "scheduler")

    shutil.copytree(arguments.default_model / "scheduler", golden.MODELS / "tiny-v" / "scheduler")
    taesd = golden.MODELS / "tiny-taesd"
    vae = randomise(vae_tiny(), 5)
    vae.decoder.layers[-1].bias.data += 0.75  # it gives [0, 1]: without this its pictures would be black
    vae.save_pretrained(taesd / "vae")
    write_index(taesd, index | {"vae": ["diffusers", "AutoencoderTiny"]})
    sharded = golden.MODELS / "tiny-bf16-sharded" / "unet"
    randomise(unet_sd21(), 6).bfloat16().save_pretrained(sharded, max_shard_size="90KB")
    write_families(arguments.default_model, index)
    write_words(arguments.default_model / "tokenizer")


def write_words(source):
    """A tokenizer of the embedded model's first merges, written by transformers alone."""
    merges = [tuple(line.split(" ")) for line in (source / "merges.txt").read_text().splitlines()[1:151]]
    whole = json.loads((source / "vocab.json").read_text())
    pieces = sorted(whole, key=whole.get)[:512] + ["".join(merge) for merge in merges]
    markers = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces + markers)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!", model_max_length=77)
    tokenizer.add_tokens(["<statue>"], special_tokens=True)
    tokenizer.add_tokens(["plasterwork"])
    tokenizer.save_pretrained(golden.MODELS / "tiny-words" / "tokenizer")


def write_xl_scheduler(scheduler, folder):
    """With what the base model's file says besides; other schedulers made from it read that."""
    scheduler.save_pretrained(folder)
    path = folder / "scheduler_config.json"
    besides = dict(clip_sample=False, sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | besides, indent=2) + "\n")


def write_families(default_model, index):
    """What other families have that those above do not."""
    xl = golden.MODELS / "tiny-xl"
    write_tokenizer(default_model / "tokenizer", xl / "tokenizer_2", pad_token="!")
    randomise(CLIPTextModelWithProjection(text_config_2()), 7).save_pretrained(xl / "text_encoder_2")
    randomise(unet_xl(), 8).save_pretrained(xl / "unet")
    (xl / "vae").mkdir()
    scaled = json.loads((golden.MODELS / "tiny-sd15" / "vae" / "config.json").read_text()) | {"scaling_factor": 0.13025}
    (xl / "vae" / "config.json").write_text(json.dumps(scaled, indent=2) + "\n")
    write_xl_scheduler(EulerDiscreteScheduler(**XL_SCHEDULER), xl / "scheduler")
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    dropped = ("safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder")
    kept = {name: value for name, value in index.items() if name not in dropped}
    kept |= second | {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    write_index(xl, kept | {"scheduler": ["diffusers", "EulerDiscreteScheduler"]})
    turbo = XL_SCHEDULER | dict(timestep_spacing="trailing")
    write_xl_scheduler(EulerAncestralDiscreteScheduler(**turbo), golden.MODELS / "tiny-turbo" / "scheduler")
    write_index(golden.MODELS / "tiny-turbo", kept | {"scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"]})

    randomise(unet_sd15(in_channels=9), 9).save_pretrained(golden.MODELS / "tiny-inpaint" / "unet")
    randomise(unet_xl(in_channels=9), 10).save_pretrained(golden.MODELS / "tiny-xl-inpaint" / "unet")
    lcm = golden.MODELS / "tiny-lcm"
    randomise(unet_sd15(time_cond_proj_dim=12), 11).save_pretrained(lcm / "unet")
    LCMScheduler(**SD15_SCHEDULER).save_pretrained(lcm / "scheduler")
    write_index(lcm, index | {"scheduler": ["diffusers", "LCMScheduler"]})


if __name__ == "__main__":
    main()
