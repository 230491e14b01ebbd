"""Write `goldens/lora/`: adapters of every flavour, and what the tiny models give with them.

- `<flavour>.safetensors`: an adapter as its trainer writes it, with tiny random weights.
- `../lora.safetensors`: the inputs `x` [2, 4, 8, 8], `context` [2, 77, 32] and `ids` [1, 77], and for each case
  `unet.<case>` [2, 4, 8, 8], and `text.<case>` [1, 77, 32] where the text encoder is changed; for SDXL `xl.x`,
  `xl.context`, `xl.pooled`, `xl.sizes` and `xl.<case>`. Its `case` names the adapters, weights and reference of each.

Reference: diffusers' loader and PEFT for their own namings and kohya's, LyCORIS' own modules for LoCon, LoHa and LoKr. Where
both are on one network, LyCORIS' are merged into the weights first, then PEFT's are laid over them.
"""

import json
import shutil

import torch
from lycoris import create_lycoris
from lycoris.wrapper import LycorisNetwork
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import golden
import models

FOLDER = golden.GOLDENS / "lora"
TIMESTEP = 500
DOWN = "down_blocks.0.attentions.0"
ATTENTION = [f"{DOWN}.transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn2.to_k", "attn2.to_v", "attn1.to_out.0")]
FEED = [f"{DOWN}.transformer_blocks.0.ff.net.0.proj", f"{DOWN}.transformer_blocks.0.ff.net.2", f"{DOWN}.proj_in"]
CONVS = ["conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"]
TIME = ["mid_block.resnets.0.time_emb_proj", "time_embedding.linear_1", "up_blocks.0.resnets.0.conv_shortcut"]
TEXT = [f"text_model.encoder.layers.{layer}.{name}" for layer in (0, 2) for name in ("self_attn.q_proj", "mlp.fc1")]
SEEDS = iter(range(100, 1000))


def fill(parameters):
    """Random values of a size at which a change shows and does not swamp the network."""
    generator = golden.generator(next(SEEDS))
    for name, parameter in sorted(parameters):
        if name.endswith(("lora_magnitude_vector.weight", "dora_scale")) or "magnitude" in name:
            parameter.data.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator).abs())
        else:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def save(name, tensors, metadata=None):
    save_file({key: value.detach().float().contiguous().clone() for key, value in tensors.items()}, FOLDER / f"{name}.safetensors", metadata)


def kohya(network, prefix, layers, rank, alpha):
    """A file of kohya's trainer for some layers of a network: convolutions too, as LoCon."""
    tensors, generator = {}, golden.generator(next(SEEDS))
    random = lambda *shape: 0.3 * torch.randn(shape, generator=generator)
    for layer in layers:
        bare = layer.removeprefix("text_model.")  # transformers 5 has that level in the model with a projection only
        weight = dict(network.named_parameters()).get(f"{layer}.weight", dict(network.named_parameters()).get(f"{bare}.weight"))
        outputs, inputs, *kernel = weight.shape
        name = prefix + layer.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = random(rank, inputs, *kernel)
        tensors[f"{name}.lora_up.weight"] = random(outputs, rank, *[1 for _ in kernel])
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def peft(name, network, prefix, layers, **settings):
    """A file as diffusers saves it, and its settings in the file's header."""
    network.add_adapter(LoraConfig(target_modules=layers, init_lora_weights=False, **settings), adapter_name=name)
    fill([(key, value) for key, value in network.named_parameters() if f".{name}" in key])
    tensors = {f"{prefix}.{key}": value for key, value in get_peft_model_state_dict(network, adapter_name=name).items()}
    header = {f"{prefix}.{key}": value for key, value in settings.items()}
    save(name, tensors, {"lora_adapter_metadata": json.dumps(header, sort_keys=True)})


def lay_over(pipeline, tensors, weight, text_weight, other=None, other_weight=0.0):
    """Kohya's file on a pipeline, beside another adapter of the UNet: the UNet by diffusers' loader, the text by PEFT."""
    unet = {key: value for key, value in tensors.items() if key.startswith("lora_unet_")}
    pipeline.load_lora_weights(unet, adapter_name="kohya")
    names, weights = (["kohya", other], [weight, other_weight]) if other else (["kohya"], [weight])
    pipeline.unet.set_adapters(names, weights)
    on_text(pipeline.text_encoder, tensors, "lora_te_", TEXT, 2, text_weight)


def on_text(encoder, tensors, prefix, layers, alpha, weight):
    """Kohya's tensors of a text encoder as an adapter of PEFT. (diffusers' loader finds no layers of transformers 5.)"""
    names = {name.removeprefix("text_model."): name for name, _ in encoder.named_modules()}
    targets = {names[layer.removeprefix("text_model.")]: prefix + layer.replace(".", "_") for layer in layers}
    encoder.add_adapter(LoraConfig(r=4, lora_alpha=alpha * weight, target_modules=list(targets)), adapter_name="kohya")
    for target, stored in targets.items():
        module = encoder.get_submodule(target)
        module.lora_A["kohya"].weight.data.copy_(tensors[f"{stored}.lora_down.weight"])
        module.lora_B["kohya"].weight.data.copy_(tensors[f"{stored}.lora_up.weight"])


def lycoris(name, unet, layers, multiplier, **settings):
    """A file of LyCORIS, and the network with its modules in place."""
    LycorisNetwork.apply_preset({"target_module": [], "target_name": layers, "enable_conv": True, "unet_target_module": [], "unet_target_name": layers})
    network = create_lycoris(unet, multiplier, linear_alpha=2, **settings)
    network.apply_to()
    fill([(key, value) for key, value in network.named_parameters()])
    tensors = {key.replace("lycoris_", "lora_unet_", 1): value for key, value in network.state_dict().items()}
    save(name, tensors)
    return network


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    generator = golden.generator(99)
    random = lambda *shape: torch.randn(shape, generator=generator)
    x, context = random(2, 4, 8, 8), random(2, 77, 32)
    ids = torch.randint(0, 4094, (1, 77), generator=generator)
    ids[0, 0], ids[0, -1] = 4094, 4095  # start and end
    kept, cases = {"x": x, "context": context, "ids": ids}, {}
    fresh = lambda: models.pipeline("tiny-sd15")

    def keep(case, pipeline, adapters, reference):
        kept[f"unet.{case}"] = pipeline.unet(x, TIMESTEP, context).sample
        kept[f"text.{case}"] = pipeline.text_encoder(ids).last_hidden_state
        cases[case] = {"adapters": adapters, "reference": reference}

    keep("none", fresh(), [], "diffusers")
    pipeline = fresh()
    tensors = kohya(pipeline.unet, "lora_unet_", ATTENTION + FEED + CONVS + TIME, 4, 2)
    tensors |= kohya(pipeline.text_encoder, "lora_te_", TEXT, 4, 2)
    save("kohya", tensors)
    lay_over(pipeline, tensors, 1.0, 1.0)
    keep("kohya", pipeline, [["kohya", 1.0, None]], "diffusers")
    pipeline = fresh()
    lay_over(pipeline, tensors, -0.6, 0.3)
    keep("kohya_own_text_weight", pipeline, [["kohya", -0.6, 0.3]], "diffusers")

    pipeline = fresh()
    plain = dict(r=3, lora_alpha=6, alpha_pattern={"conv_in": 2})
    peft("peft", pipeline.unet, "unet", ATTENTION + CONVS[:2], **plain)
    pipeline.unet.set_adapters(["peft"], [0.7])
    keep("peft", pipeline, [["peft", 0.7, None]], "peft")
    lay_over(pipeline, tensors, 0.5, 0.5, "peft", -0.4)
    keep("stacked", pipeline, [["kohya", 0.5, None], ["peft", -0.4, None]], "peft")
    pipeline = fresh()
    peft("dora", pipeline.unet, "unet", ATTENTION + FEED[:1] + CONVS[1:3], r=3, lora_alpha=6, use_dora=True)
    pipeline.unet.set_adapters(["dora"], [0.7])
    keep("dora", pipeline, [["dora", 0.7, None]], "peft")

    layers = ATTENTION + FEED + CONVS
    flavours = {
        "locon": dict(algo="lora", linear_dim=4, conv_dim=4),
        "locon_tucker": dict(algo="lora", linear_dim=4, conv_dim=3, use_tucker=True),
        "loha": dict(algo="loha", linear_dim=3, conv_dim=3),
        "loha_tucker": dict(algo="loha", linear_dim=3, conv_dim=3, use_tucker=True),
        "lokr": dict(algo="lokr", linear_dim=1, conv_dim=1, factor=2),
        "lokr_both": dict(algo="lokr", linear_dim=1, conv_dim=1, factor=4, decompose_both=True),
        "lokr_tucker": dict(algo="lokr", linear_dim=1, conv_dim=1, factor=2, use_tucker=True),
        "lokr_full": dict(algo="lokr", linear_dim=1, conv_dim=1, factor=2, full_matrix=True),
        "dora_lycoris": dict(algo="lora", linear_dim=4, conv_dim=4, dora_wd=True),
        "dora_of_inputs": dict(algo="lora", linear_dim=4, conv_dim=4, dora_wd=True, wd_on_output=False),
        "loha_dora": dict(algo="loha", linear_dim=3, conv_dim=3, dora_wd=True),
    }
    for name, settings in flavours.items():
        pipeline = fresh()
        weight = 1.0 if settings.get("dora_wd") else 0.8
        network = lycoris(name, pipeline.unet, layers, weight, **settings)
        keep(name, pipeline, [[name, weight, None]], "lycoris")
        if name == "lokr":
            changes = {lora.lora_name: weight * lora.get_weight(lora.shape) for lora in network.loras}
            pipeline = fresh()
            for layer in layers:
                kept_weight = pipeline.unet.get_submodule(layer).weight
                kept_weight.data += changes["lycoris_" + layer.replace(".", "_")].reshape(kept_weight.shape)
            lay_over(pipeline, tensors, 0.5, 0.5)
            keep("lokr_and_kohya", pipeline, [["lokr", weight, None], ["kohya", 0.5, None]], "lycoris and diffusers")

    xl(kept, cases, generator)
    golden.write("lora", kept, {"timestep": TIMESTEP, "cases": cases})


def xl(kept, cases, generator):
    """Kohya's naming of SDXL: the original layout of the UNet, two text encoders."""
    random = lambda *shape: torch.randn(shape, generator=generator)
    pipeline = models.pipeline("tiny-xl")
    x, context, pooled = random(2, 4, 8, 8), random(2, 77, 48), random(2, 24)
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)
    original = {
        "conv_in": "input_blocks_0_0", "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_3_0_skip_connection",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k": "input_blocks_3_1_transformer_blocks_1_attn2_to_k",
        "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
        "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
        "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2": "output_blocks_1_1_transformer_blocks_0_ff_net_2",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_1_2_conv",
        "add_embedding.linear_1": "label_emb_0_0",
    }  # fmt: skip
    tensors = {}
    for ours, theirs in original.items():
        for key, value in kohya(pipeline.unet, "lora_unet_", [ours], 4, 4).items():
            tensors[f"lora_unet_{theirs}.{key.split('.', 1)[1]}"] = value
    tensors |= kohya(pipeline.text_encoder, "lora_te1_", TEXT[:2], 4, 4)
    tensors |= kohya(pipeline.text_encoder_2, "lora_te2_", TEXT[:2], 4, 4)
    save("kohya_xl", tensors)
    # By hand: diffusers' renaming takes two residual blocks a level for granted. The text encoders by diffusers.
    for ours, theirs in original.items():
        weight = pipeline.unet.get_submodule(ours).weight
        down, up = (tensors[f"lora_unet_{theirs}.lora_{way}.weight"] for way in ("down", "up"))
        weight.data += 0.8 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    for encoder, prefix in ((pipeline.text_encoder, "lora_te1_"), (pipeline.text_encoder_2, "lora_te2_")):
        on_text(encoder, tensors, prefix, TEXT[:2], 4, 0.8)
    added = {"text_embeds": pooled, "time_ids": sizes}
    kept |= {"xl.x": x, "xl.context": context, "xl.pooled": pooled, "xl.sizes": sizes[0]}
    kept["xl.unet"] = pipeline.unet(x, TIMESTEP, context, added_cond_kwargs=added).sample
    ids = kept["ids"]
    first = pipeline.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    second = pipeline.text_encoder_2(ids, output_hidden_states=True)
    kept["xl.text"] = torch.cat([first, second.hidden_states[-2]], -1)
    cases["xl"] = {"adapters": [["kohya_xl", 0.8, None]], "reference": "by hand and diffusers"}


if __name__ == "__main__":
    main()
