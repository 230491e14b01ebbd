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

A part without weights of its own has those of `tiny-sd15`: see `assemble`.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import golden

SD15_SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon", timestep_spacing="leading",
)  # fmt: skip


def text_config(hidden_act):
    return CLIPTextConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        projection_dim=32, max_position_embeddings=77, hidden_act=hidden_act,
        bos_token_id=4094, eos_token_id=4095, pad_token_id=4095,
    )  # fmt: skip


def unet_sd15():
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, norm_num_groups=8,
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
    """Lay a whole model out in `target`: a part that has no weights of its own is that of `tiny-sd15` below its files."""
    for kind in ("", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for name in [variant] if list((golden.MODELS / variant / kind).glob("*.safetensors*")) else ["tiny-sd15", variant]:
            (target / kind).mkdir(exist_ok=True)
            for file in (golden.MODELS / name / kind).glob("*.*"):
                shutil.copyfile(file, target / kind / file.name)


def pipeline(variant):
    """A whole tiny pipeline in float32."""
    with tempfile.TemporaryDirectory() as target:
        assemble(variant, Path(target))
        return default_pipeline(target)


def default_pipeline(path):
    """The pipeline in a folder, such as the embedded model, in float32."""
    return StableDiffusionPipeline.from_pretrained(
        path, dtype=torch.float32, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


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


if __name__ == "__main__":
    main()
