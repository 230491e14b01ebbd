"""Write `goldens/single_files/`: what models are called in one file, and pictures that such files must give.

Nothing here holds weights: they follow from a formula (`values`), which the tests know too, so that a model is a list of
names. The names in one file are written here by hand and proved by diffusers: its own conversion of such a file gives back
every tensor of the folder that was written down, bit for bit.

- `<model>.json.gz`, tiny models of which every width fits the family's rules: `tensors`: for each tensor in the file
  its name, the folder and names of the tensors that it is made of, their shape, and how: `whole`, `pixel` (one more
  pair of dimensions), `transposed`, `stacked` (three behind one another); `configs`: the folder's JSON files; `extra`:
  names and shapes in the file that belong to no tensor of the folder; `case`: a request as in `pipelines.py`.
- `latents.safetensors`: the final latent of each, from diffusers' pipeline over the folder's tensors.
- `true_<model>.json.gz`: the same without `case`, at the true size.
- `tokens.json`: `texts`: ids of texts from transformers' `CLIPTokenizer` with the vocabulary that OpenAI's CLIP builds;
  `exclaimed`: the same filled up with `!`.
- `floats.safetensors`: every 8-bit float in both formats as a stored tensor (`e4m3`, `e5m2`), and its f32 values.
"""

import gzip
import importlib.machinery
import importlib.util
import json
import re
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import golden
import models
import text
from pipeline_cases import BOTH, case

FOLDER = golden.GOLDENS / "single_files"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def values(part, name, shape):
    """The weights of a tensor: splitmix64 of its name's CRC and the index, as uniform numbers of a fitting width."""
    count = int(np.prod(shape))
    seed = np.uint64(zlib.crc32(f"{part}/{name}".encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        z = seed + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    uniform = (z >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5
    if len(shape) == 1:
        result = 1 + 0.4 * uniform if name.endswith("weight") else 0.2 * uniform
    elif name.endswith("embedding.weight"):
        result = 2.0 * uniform
    else:
        result = uniform * np.sqrt(12.0 / np.prod(shape[1:]))
    return torch.from_numpy(result.astype(np.float16).reshape(shape))


def renamed(rest, names):
    for name, stored in names.items():
        if rest.startswith(name + "."):
            return stored + rest[len(name) :]
    return rest


def unet_name(name, unet):
    """The name in the file, and how the tensor is stored."""
    prefix, layers = "model.diffusion_model.", unet.config.layers_per_block + 1
    for top, stored in TOP.items():
        if name.startswith(top + "."):
            return prefix + stored + name[len(top) :]
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, index, rest = match.groups()
        block = 2 * int(index) if kind == "resnets" else 1
        return f"{prefix}middle_block.{block}.{renamed(rest, RESNET) if kind == 'resnets' else rest}"
    way, level, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    first, index = int(level) * layers + (way == "down"), int(index)
    blocks = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{prefix}input_blocks.{first + layers - 1}.0.op{rest[4:]}"
    if kind == "upsamplers":
        behind = 2 if hasattr(unet.up_blocks[int(level)], "attentions") else 1
        return f"{prefix}output_blocks.{first + layers - 1}.{behind}.{rest}"
    if kind == "resnets":
        return f"{prefix}{blocks}.{first + index}.0.{renamed(rest, RESNET)}"
    return f"{prefix}{blocks}.{first + index}.1.{rest}"


def vae_name(name, vae):
    prefix, last = "first_stage_model.", len(vae.config.block_out_channels) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        half, kind, index, rest = match.groups()
        place = f"block_{int(index) + 1}.{rest}" if kind == "resnets" else f"attn_1.{renamed(rest, ATTENTION)}"
        return f"{prefix}{half}.mid.{place}"
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(resnets\.(\d)|\w+samplers\.0)\.(.*)", name):
        half, way, level, kind, layer, rest = match.groups()
        level = int(level) if way == "down" else last - int(level)
        return f"{prefix}{half}.{way}.{level}." + (f"block.{layer}.{rest}" if layer else f"{way}sample.{rest}")
    return prefix + name


def entries(part, model, family):
    """The tensors in the file: name, folder, names in the folder, shape there, how."""
    for name, parameter in model.state_dict().items():
        shape = list(parameter.shape)
        if part == "unet":
            yield unet_name(name, model), part, [name], shape, "whole"
        elif part == "vae":
            matrix = ".attentions." in name and len(shape) == 2
            yield vae_name(name, model), part, [name], shape, "pixel" if matrix else "whole"
        elif part == "text_encoder" and family != "sd2":
            prefix = "conditioner.embedders.0.transformer." if family == "sdxl" else "cond_stage_model.transformer."
            yield prefix + "text_model." + name.removeprefix("text_model."), part, [name], shape, "whole"
        else:
            yield from open_clip_entries(part, name, shape, family)


def open_clip_entries(part, name, shape, family):
    prefix = "conditioner.embedders.1.model." if family == "sdxl" else "cond_stage_model.model."
    plain = name.removeprefix("text_model.")
    fixed = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if plain in fixed:
        yield prefix + fixed[plain], part, [name], shape, "whole"
    elif plain == "text_projection.weight":
        yield prefix + "text_projection", part, [name], shape, "transposed"
    elif ".self_attn.q_proj." in plain:
        layer, kind = re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", plain).groups()
        names = [name.replace("q_proj", key) for key in ("q_proj", "k_proj", "v_proj")]
        yield f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}", part, names, shape, "stacked"
    elif ".k_proj." not in plain and ".v_proj." not in plain:
        layer, rest = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", plain).groups()
        yield f"{prefix}transformer.resblocks.{layer}.{renamed(rest, OPEN_CLIP)}", part, [name], shape, "whole"


def stored(entry):
    """The tensor in the file."""
    _, part, names, shape, how = entry
    parts = [values(part, name, shape) for name in names]
    if how == "pixel":
        return parts[0][:, :, None, None]
    return parts[0].T.contiguous() if how == "transposed" else torch.cat(parts)


def prove(parts, file, family):
    """diffusers' own conversion of the file gives the folder's tensors."""
    converted = {
        "unet": single_file_utils.convert_ldm_unet_checkpoint(dict(file), parts["unet"].config),
        "vae": single_file_utils.convert_ldm_vae_checkpoint(dict(file), parts["vae"].config),
    }
    if family == "sd2":
        open_clip = single_file_utils.convert_open_clip_checkpoint(parts["text_encoder"], dict(file))
        # The last layer is in the file and not in the folder.
        last = f".layers.{parts['text_encoder'].config.num_hidden_layers}."
        converted["text_encoder"] = {name: value for name, value in open_clip.items() if last not in name}
        converted["text_encoder"].pop("text_projection.weight", None)
    else:
        converted["text_encoder"] = single_file_utils.convert_ldm_clip_checkpoint(dict(file))
    if family == "sdxl":
        prefix = "conditioner.embedders.1.model."
        converted["text_encoder_2"] = single_file_utils.convert_open_clip_checkpoint(
            parts["text_encoder_2"], dict(file), prefix=prefix
        )
    for part, tensors in converted.items():
        bare = lambda name: name.removeprefix("text_model.")
        expected = {bare(name): shape for name, shape in ((n, p.shape) for n, p in parts[part].state_dict().items())}
        original = {bare(name): name for name in parts[part].state_dict()}
        tensors = {bare(name): value for name, value in tensors.items() if not name.endswith("position_ids")}
        assert tensors.keys() == expected.keys(), (part, tensors.keys() ^ expected.keys())
        for name, value in tensors.items():
            assert value.shape == expected[name], (part, name)
            if value.device.type != "meta":
                assert torch.equal(value, values(part, original[name], list(value.shape))), (part, name)


def extra(parts, family):
    """What files hold besides."""
    found = {"betas": [1000], "model_ema.decay": [], "model_ema.diffusion_modelinput_blocks00weight": [4]}
    if family == "sd1":
        found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = [1, 77]
    if family == "sd2":
        config = parts["text_encoder"].config
        width, inner = config.hidden_size, config.intermediate_size
        layer = f"cond_stage_model.model.transformer.resblocks.{config.num_hidden_layers}"
        shapes = {
            "attn.in_proj_weight": [3 * width, width], "attn.in_proj_bias": [3 * width], "attn.out_proj.weight": [width, width],
            "attn.out_proj.bias": [width], "ln_1.weight": [width], "ln_1.bias": [width], "ln_2.weight": [width], "ln_2.bias": [width],
            "mlp.c_fc.weight": [inner, width], "mlp.c_fc.bias": [inner], "mlp.c_proj.weight": [width, inner], "mlp.c_proj.bias": [width],
        }  # fmt: skip
        found |= {f"{layer}.{name}": shape for name, shape in shapes.items()}
        found |= {"cond_stage_model.model.text_projection": [width, width], "cond_stage_model.model.logit_scale": []}
    return found


def clip_config(width, layers, inner, activation, vocabulary=49408, **others):
    return CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=77, hidden_act=activation, **others,
    )  # fmt: skip


def vae(channels, layers, scale):
    return AutoencoderKL(
        sample_size=64, block_out_channels=channels, layers_per_block=layers, latent_channels=4, scaling_factor=scale,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


CROSS, PLAIN = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def tiny(family, inputs=4):
    """The smallest model of which the widths fit: norms of 32 groups, heads of 64 (8 heads in 1.x)."""
    small = dict(sample_size=8, layers_per_block=1, in_channels=inputs)
    if family == "sd1":
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64), down_block_types=CROSS, up_block_types=PLAIN, cross_attention_dim=64,
            attention_head_dim=8, **small,
        )  # fmt: skip
        texts = [CLIPTextModel(clip_config(64, 2, 128, "quick_gelu"))]
    elif family == "sd2":
        unet = UNet2DConditionModel(
            block_out_channels=(64, 128), down_block_types=CROSS, up_block_types=PLAIN, cross_attention_dim=64,
            attention_head_dim=(1, 2), use_linear_projection=True, **small,
        )  # fmt: skip
        texts = [CLIPTextModel(clip_config(64, 2, 128, "gelu"))]
    else:
        unet = UNet2DConditionModel(
            block_out_channels=(32 * 2, 64 * 2), down_block_types=CROSS[::-1], up_block_types=PLAIN[::-1],
            cross_attention_dim=128, attention_head_dim=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=64 + 6 * 256,
            transformer_layers_per_block=(1, 2), **small,
        )  # fmt: skip
        texts = [
            CLIPTextModel(clip_config(64, 2, 128, "quick_gelu")),
            CLIPTextModelWithProjection(clip_config(64, 2, 128, "gelu", projection_dim=64, eos_token_id=49407)),
        ]
    return parts_of(unet, vae((32, 32, 32, 32), 1, 0.13025 if family == "sdxl" else 0.18215), texts)


def true_size(family, inputs=4):
    """The published sizes, without memory for weights."""
    attended = dict(sample_size=64, in_channels=inputs)
    with torch.device("meta"):
        if family == "sd1":
            unet = UNet2DConditionModel(cross_attention_dim=768, **attended)
            texts = [CLIPTextModel(clip_config(768, 12, 3072, "quick_gelu"))]
        elif family == "sd2":
            unet = UNet2DConditionModel(
                cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, **attended
            )
            texts = [CLIPTextModel(clip_config(1024, 23, 4096, "gelu"))]
        else:
            unet = UNet2DConditionModel(
                block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
                transformer_layers_per_block=(1, 2, 10), sample_size=128, in_channels=inputs,
            )  # fmt: skip
            texts = [
                CLIPTextModel(clip_config(768, 12, 3072, "quick_gelu")),
                CLIPTextModelWithProjection(clip_config(1280, 32, 5120, "gelu", projection_dim=1280)),
            ]
        autoencoder = vae((128, 256, 512, 512), 2, 0.13025 if family == "sdxl" else 0.18215)
    return parts_of(unet, autoencoder, texts)


def parts_of(unet, autoencoder, texts):
    return {"unet": unet, "vae": autoencoder} | dict(zip(("text_encoder", "text_encoder_2"), texts))


def describe(parts, family):
    listed = [entry for part, model in parts.items() for entry in entries(part, model, family)]
    configs = {part: json.loads(model.config.to_json_string() if part.startswith("text") else model.to_json_string())
               for part, model in parts.items()}  # fmt: skip
    return {"family": family, "tensors": listed, "extra": extra(parts, family), "configs": configs}


def save(name, value):
    path = FOLDER / f"{name}.json.gz"
    path.write_bytes(gzip.compress(json.dumps(value).encode(), 9, mtime=0))
    print(f"{path.relative_to(golden.REFERENCE)}  {path.stat().st_size} bytes")


def write_tokenizer(folder, pad_token):
    """The vocabulary as OpenAI's CLIP builds it, in transformers' files."""
    # The one module, without the rest of the package, which needs an older setuptools.
    package = importlib.machinery.PathFinder.find_spec("clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("simple_tokenizer", Path(package) / "simple_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder))
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    config = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad_token)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(folder)


def picture(parts, family, tokenizers, request):
    """The final latent of diffusers' pipeline over the folder's tensors."""
    for part, model in parts.items():
        model.load_state_dict({n: values(part, n, list(p.shape)).float() for n, p in model.state_dict().items()})
        model.eval()
    scheduler = DDIMScheduler(**models.SD15_SCHEDULER | dict(prediction_type="v_prediction" if family == "sd2" else "epsilon"))
    inpaints = parts["unet"].config.in_channels == 9
    if family == "sdxl":
        pair = dict(zip(("tokenizer", "tokenizer_2"), tokenizers))
        pipeline = StableDiffusionXLPipeline(**parts, **pair, scheduler=scheduler, add_watermarker=False)
    else:
        cls = StableDiffusionInpaintPipeline if inpaints else StableDiffusionPipeline
        pad = tokenizers[1] if family == "sd2" else tokenizers[0]
        pipeline = cls(
            **parts, tokenizer=pad, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    masked = dict(image=Image.new("RGB", (64, 64)), mask_image=Image.new("L", (64, 64), 255), strength=1.0) if inpaints else {}
    (positive, _), (negative, _) = request["prompts"]
    return pipeline(
        prompt=positive, negative_prompt=negative, num_inference_steps=request["steps"], guidance_scale=request["cfg"],
        generator=golden.generator(request["seed"]), output_type="latent", width=64, height=64, **masked,
    ).images  # fmt: skip


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    latents = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = [write_tokenizer(Path(folder) / str(index), pad) for index, pad in enumerate(["<|endoftext|>", "!"])]
        ids = [[{"text": t, "ids": tokenizer(t).input_ids} for t in text.TEXTS] for tokenizer in tokenizers]
    (FOLDER / "tokens.json").write_text(json.dumps(dict(texts=ids[0], exclaimed=ids[1])))
    for name, family, inputs in (("sd1", "sd1", 4), ("sd2", "sd2", 4), ("sdxl", "sdxl", 4), ("sd1-inpaint", "sd1", 9)):
        parts = tiny(family, inputs)
        described = describe(parts, family)
        file = {entry[0]: stored(entry) for entry in described["tensors"]}
        file |= {n: torch.zeros(shape) for n, shape in described["extra"].items()}
        prove(parts, file, family)
        described["case"] = case(name, name, "DDIM", 4, prompts=BOTH, cfg=4.0)
        latents[name] = picture(parts, family, tokenizers, described["case"])
        save(name, described)
    golden.write("single_files/latents", latents, {})
    for name, family, inputs in (("sd1", "sd1", 4), ("sd2", "sd2", 9), ("sdxl", "sdxl", 4), ("sdxl-inpaint", "sdxl", 9)):
        parts = true_size(family, inputs)
        described = describe(parts, family)
        shapes = {"pixel": lambda s: [*s, 1, 1], "stacked": lambda s: [3 * s[0], *s[1:]], "transposed": lambda s: s[::-1]}
        file = {e[0]: torch.empty(shapes.get(e[4], list)(e[3]), device="meta") for e in described["tensors"]}
        prove(parts, file | {n: torch.empty(s, device="meta") for n, s in described["extra"].items()}, family)
        save(f"true_{name}", described)
    bytes_ = torch.arange(256).to(torch.uint8)
    floats = {"e4m3": bytes_.clone().view(torch.float8_e4m3fn), "e5m2": bytes_.clone().view(torch.float8_e5m2)}
    save_file(floats | {f"{n}.values": v.float() for n, v in floats.items()}, FOLDER / "floats.safetensors")


if __name__ == "__main__":
    main()
