"""Write `goldens/ip_adapter/`: IP-Adapter and its kin on random weights, from diffusers.

For each adapter an own file in the published layout (`plain`, `full`, `plus`, `faceid`, `faceid_plus`, `faceid_plusv2`, for the
tiny Stable Diffusion 1.x model, some for XL; `image_encoder/` is the encoder of `tiny-vision`) and in `cases.safetensors`: `<name>.tokens` [2, N·T, D]
(of nothing, of what is shown), and `<name>.output` [2, 4, 8, 8], the UNet's prediction for `sample` at `timestep` with `context` and scale 0.7.
Pictures (N = 2) are the photographs of `goldens/faces/photos`, faces are `faces` [2, 16] (the files tell the width, 512 in published ones). `both.output` is with `plain` at
0.7 and `faceid` at 0.4 together. FaceID's low-rank part is in the file as published; `faceid.output_without` is the prediction
with that part left out. `cases_xl.safetensors` holds the same of the tiny Stable Diffusion XL model, whose adapters end in `_xl`; `faceid_512` is
`faceid` for embeddings of 512 numbers. `pooled` [2, P]
is what it is given beside the context, with sizes of 64.
"""

import shutil

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

import golden
import models

FOLDER = golden.GOLDENS / "ip_adapter"
# For each model its adapters, whose files for the second model end in `_xl`.
MODELS = {
    "tiny-sd15": ["plain", "full", "plus", "faceid", "faceid_plus", "faceid_plusv2"],
    "tiny-xl": ["plain_xl", "plus_xl", "faceid_xl", "faceid_plusv2_xl"],
}
HEAD, RANK, FACE = 64, 2, 16
PHOTOS = ["face", "two"]
KINDS = [kind for kinds in MODELS.values() for kind in kinds]


def linear(weights, name, outputs, inputs, generator, bias=True):
    weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
    if bias:
        weights[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1


def norm(weights, name, width, generator):
    weights[f"{name}.weight"] = 1 + torch.randn(width, generator=generator) * 0.1
    weights[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1


def resampler(weights, prefix, inputs, hidden, outputs, depth, generator):
    linear(weights, f"{prefix}proj_in", hidden, inputs, generator)
    linear(weights, f"{prefix}proj_out", outputs, hidden, generator)
    norm(weights, f"{prefix}norm_out", outputs, generator)
    for index in range(depth):
        attention, perceptron = f"{prefix}layers.{index}.0", f"{prefix}layers.{index}.1"
        norm(weights, f"{attention}.norm1", hidden, generator)
        norm(weights, f"{attention}.norm2", hidden, generator)
        linear(weights, f"{attention}.to_q", HEAD, hidden, generator, bias=False)
        linear(weights, f"{attention}.to_kv", 2 * HEAD, hidden, generator, bias=False)
        linear(weights, f"{attention}.to_out", hidden, HEAD, generator, bias=False)
        norm(weights, f"{perceptron}.0", hidden, generator)
        linear(weights, f"{perceptron}.1", 4 * hidden, hidden, generator, bias=False)
        linear(weights, f"{perceptron}.3", hidden, 4 * hidden, generator, bias=False)


def projection(kind, width, encoder, generator):
    """The tensors below `image_proj`, as published."""
    weights, kind = {}, kind.removesuffix("_xl")
    tokens, embedding = encoder.config.hidden_size, encoder.config.projection_dim
    if kind == "plain":
        linear(weights, "proj", 4 * width, embedding, generator)
        norm(weights, "norm", width, generator)
    elif kind == "full":
        linear(weights, "proj.0", tokens, tokens, generator)
        linear(weights, "proj.2", width, tokens, generator)
        norm(weights, "proj.3", width, generator)
    elif kind == "plus":
        weights["latents"] = torch.randn(1, 3, 16, generator=generator)
        resampler(weights, "", tokens, 16, width, 4, generator)
    elif kind == "faceid":
        linear(weights, "proj.0", 2 * FACE, FACE, generator)
        linear(weights, "proj.2", 4 * width, 2 * FACE, generator)
        norm(weights, "norm", width, generator)
    else:
        linear(weights, "proj.0", 2 * FACE, FACE, generator)
        linear(weights, "proj.2", 4 * width, 2 * FACE, generator)
        norm(weights, "norm", width, generator)
        resampler(weights, "perceiver_resampler.", tokens, width, width, 4, generator)
    return weights


def attention(kind, unet, width, generator):
    """The tensors below `ip_adapter`, numbered as diffusers lists the attention layers."""
    weights = {}
    for number, (name, processor) in enumerate(unet.attn_processors.items()):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        inner = layer.to_q.weight.shape[0]
        if ".attn2." in name:
            for part in ("to_k_ip", "to_v_ip"):
                linear(weights, f"{number}.{part}", inner, width, generator, bias=False)
        if kind.startswith("faceid"):
            for part, module in (("q", layer.to_q), ("k", layer.to_k), ("v", layer.to_v), ("out", layer.to_out[0])):
                outputs, inputs = module.weight.shape
                linear(weights, f"{number}.to_{part}_lora.down", RANK, inputs, generator, bias=False)
                linear(weights, f"{number}.to_{part}_lora.up", outputs, RANK, generator, bias=False)
    return weights


def write_adapter(kind, unet, encoder):
    width, generator = unet.config.cross_attention_dim, golden.generator(100 + KINDS.index(kind))
    parts = {"image_proj": projection(kind, width, encoder, generator), "ip_adapter": attention(kind, unet, width, generator)}
    flat = {f"{part}.{key}": value.half().contiguous() for part, tensors in parts.items() for key, value in tensors.items()}
    save_file(flat, FOLDER / f"{kind}.safetensors")


def pipeline_with(model, kinds, scales, encoder, lora=True):
    pipeline = models.pipeline(model)
    pipeline.image_encoder = encoder
    side = encoder.config.image_size
    pipeline.feature_extractor = CLIPImageProcessor(size=side, crop_size=side)
    names = [f"{kind}.safetensors" for kind in kinds]
    folder = FOLDER
    if not lora:
        folder = FOLDER / "without"
        folder.mkdir(exist_ok=True)
        for name in names:
            tensors = load_file(FOLDER / name)
            save_file({key: value for key, value in tensors.items() if "_lora" not in key}, folder / name)
    pipeline.load_ip_adapter([str(folder)] * len(kinds), subfolder=[""] * len(kinds), weight_name=names, image_encoder_folder=None,
                             local_files_only=True)  # fmt: skip
    pipeline.unet.float()  # the files are half
    pipeline.set_ip_adapter_scale(scales)
    if not lora:
        shutil.rmtree(folder)
    return pipeline


def embeds(pipeline, kinds, pictures, faces):
    """What diffusers hands to the UNet, both halves, negative first."""
    result = []
    for kind, layer in zip(kinds, pipeline.unet.encoder_hid_proj.image_projection_layers):
        nothing = torch.stack([torch.zeros_like(faces), faces])
        if kind.removesuffix("_xl") == "faceid":
            result.append(nothing)
        elif kind.startswith("faceid_plus"):
            # The pipeline asks the projection's class which of the encoder's outputs it takes.
            layer.clip_embeds = pipeline.prepare_ip_adapter_image_embeds([pictures], None, "cpu", 1, True)[0]
            layer.shortcut = "v2" in kind
            result.append(nothing)
        else:
            result.append(pipeline.prepare_ip_adapter_image_embeds([pictures], None, "cpu", 1, True)[0])
    return result


def write_cases(model, name, encoder, generator):
    faces = torch.nn.functional.normalize(torch.randn(2, FACE, generator=generator), dim=-1)
    unet = models.pipeline(model).unet
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    sample, timestep = torch.randn(1, 4, 8, 8, generator=generator), 401
    pictures = [Image.open(golden.GOLDENS / "faces" / "photos" / f"{name}.webp").convert("RGB") for name in PHOTOS]
    tensors = {"faces": faces, "context": context, "sample": sample}
    conditions = {}
    if unet.config.addition_embed_type == "text_time":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        tensors["pooled"] = torch.randn(2, width, generator=generator)
        conditions = {"text_embeds": tensors["pooled"], "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)}
    kinds = MODELS[model]
    for kind in kinds:
        write_adapter(kind, unet, encoder)

    def predict(pipeline, shown):
        added = conditions | {"image_embeds": shown}
        return pipeline.unet(torch.cat([sample] * 2), timestep, context, added_cond_kwargs=added).sample

    for kind in kinds:
        pipeline = pipeline_with(model, [kind], [0.7], encoder)
        shown = embeds(pipeline, [kind], pictures, faces)
        tensors[f"{kind}.tokens"] = pipeline.unet.encoder_hid_proj(shown)[0]
        tensors[f"{kind}.output"] = predict(pipeline, shown)
        if kind.startswith("faceid"):
            without = pipeline_with(model, [kind], [0.7], encoder, lora=False)
            tensors[f"{kind}.output_without"] = predict(without, embeds(without, [kind], pictures, faces))
    if "faceid" in kinds:
        plain = pipeline_with(model, ["plain"], [0.7], encoder)
        shown = embeds(plain, ["plain"], pictures, faces)
        both = pipeline_with(model, ["plain", "faceid"], [0.7, 0.4], encoder, lora=False)
        tensors["both.output"] = predict(both, shown + [torch.stack([torch.zeros_like(faces), faces])])
    golden.write(name, tensors, {"photos": PHOTOS, "timestep": timestep, "kinds": kinds})
    for key, value in tensors.items():
        print(key, tuple(value.shape), float(value.std()))


def main():
    golden.hold_still()
    FOLDER.mkdir(parents=True, exist_ok=True)
    encoder_folder = golden.MODELS / "tiny-vision" / "image_encoder"
    encoder = CLIPVisionModelWithProjection.from_pretrained(encoder_folder, dtype=torch.float32)
    for model, name, seed in [("tiny-sd15", "ip_adapter/cases", 99), ("tiny-xl", "ip_adapter/cases_xl", 98)]:
        write_cases(model, name, encoder, golden.generator(seed))
    write_wide()


def write_wide():
    """`faceid` for embeddings of 512 numbers, as real embedders give: its first matrix 32 times beside itself."""
    tensors = load_file(FOLDER / "faceid.safetensors")
    tensors["image_proj.proj.0.weight"] = tensors["image_proj.proj.0.weight"].repeat(1, 512 // FACE)
    save_file(tensors, FOLDER / "faceid_512.safetensors")


if __name__ == "__main__":
    main()
