"""Write `goldens/unet/<model>.safetensors`: forward passes of `UNet2DConditionModel`, from diffusers.

Models: `tiny-sd15`, `tiny-sd21`, `tiny-bf16-sharded`, `default` (the embedded model).

Tensors, for the n-th of `case["cases"]`: `<n>.sample` [B, 4, H, W], `<n>.timestep` [B], `<n>.context` [B, T, D],
`<n>.output` [B, 4, H, W]. Timesteps may have fractions, as K_* samplers ask for them.
For case 0 of `tiny-sd15` also what lies between: `0.time_embedding` (after the two linear layers), `0.conv_in`,
`0.down.<i>` (a down block's output, behind its downsampler), `0.mid`, `0.up.<i>`, `0.conv_norm_out`.
"""

import torch

import golden
import models

# (batch, height, width of the latent, tokens, timesteps)
TINY_CASES = [
    (1, 8, 8, 77, [500.0]),
    (2, 8, 16, 13, [37.3, 37.3]),
    (2, 24, 8, 7, [0.0, 999.0]),
    (1, 10, 6, 80, [999.0]),
    (1, 2, 2, 1, [0.625]),
]
DEFAULT_CASES = [(2, 16, 16, 20, [999.0, 999.0]), (1, 8, 20, 9, [37.3])]
CASES = {
    "tiny-sd15": TINY_CASES,
    "tiny-sd21": TINY_CASES,
    "tiny-bf16-sharded": TINY_CASES[1:2],
    "default": DEFAULT_CASES,
}


def watch(unet, tensors, prefix):
    """Record what the blocks give during the next forward pass."""
    blocks = {"time_embedding": unet.time_embedding, "conv_in": unet.conv_in, "mid": unet.mid_block}
    blocks |= {f"down.{index}": block for index, block in enumerate(unet.down_blocks)}
    blocks |= {f"up.{index}": block for index, block in enumerate(unet.up_blocks)}
    blocks |= {"conv_norm_out": unet.conv_norm_out}

    def record(name):
        def hook(module, inputs, output):
            tensors[f"{prefix}.{name}"] = output[0] if isinstance(output, tuple) else output

        return hook

    return [block.register_forward_hook(record(name)) for name, block in blocks.items()]


def main():
    arguments = golden.arguments(__doc__.splitlines()[0])
    golden.hold_still()
    for model, cases in CASES.items():
        default = model == "default"
        unet = (models.default_pipeline(arguments.default_model) if default else models.pipeline(model)).unet
        generator, tensors, described = golden.generator(7), {}, []
        for index, (batch, height, width, tokens, timesteps) in enumerate(cases):
            sample = torch.randn(batch, 4, height, width, generator=generator)
            context = torch.randn(batch, tokens, unet.config.cross_attention_dim, generator=generator)
            hooks = watch(unet, tensors, index) if (model, index) == ("tiny-sd15", 0) else []
            output = unet(sample, torch.tensor(timesteps), context).sample
            for hook in hooks:
                hook.remove()
            case = {"sample": sample, "timestep": torch.tensor(timesteps), "context": context, "output": output}
            tensors |= {f"{index}.{name}": value for name, value in case.items()}
            described.append({"sample": list(sample.shape), "context": list(context.shape), "timestep": timesteps})
        golden.write(f"unet/{model}", tensors, {"model": model, "cases": described})


if __name__ == "__main__":
    main()
