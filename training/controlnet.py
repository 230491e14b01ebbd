"""Stage 10: the control network for edges.

    python training/controlnet.py [--steps 800] [--again]

The UNet stays as it is. Hints are the edges that the server finds: OpenCV's Canny at 100 and 200 on grey, white on black. The
network has the UNet's residual blocks, copied, and cross-attention in its middle only: that fits into the model's 45 MB, and
what edges mean depends little on words. Its outputs begin at zero, so that at first nothing changes.
"""

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel

import unet
from common import CELLS, MODEL, Noising, Trainer, autocast, begin, parser
from latents import Scenes, kept

THRESHOLDS = (100, 200)
NO_WORDS = 0.3  # so that it learns to draw by the edges alone
NO_EDGES = 0.05

cv2.setNumThreads(1)


def edges(picture):
    """`[H, W]` booleans, as `pentimento generate --canny` finds them."""
    return cv2.Canny(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY), *THRESHOLDS) > 0


def hints(packed):
    """Packed edges to hints `[N, 3, H, W]` from 0 to 1."""
    one = torch.from_numpy(np.unpackbits(packed, axis=-1)).float()[:, None]
    return one.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)


def new(base):
    """A control network whose layers are the UNet's where it has the same."""
    same = {name: base.config[name] for name in ("block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim")}
    network = ControlNetModel(
        conditioning_channels=3,
        conditioning_embedding_out_channels=(8, 16, 32, 64),
        down_block_types=("DownBlock2D",) * len(base.config.block_out_channels),
        mid_block_type="UNetMidBlock2DCrossAttn",
        norm_num_groups=base.config.norm_num_groups,
        **same,
    )
    own, theirs = network.state_dict(), base.state_dict()
    own.update({name: theirs[name] for name, value in own.items() if name in theirs and theirs[name].shape == value.shape})
    network.load_state_dict(own)
    network.controlnet_cond_embedding.to(memory_format=torch.channels_last)
    return network


@torch.no_grad()
def awaken(network, shown):
    """Scales the hint's layers so that each passes the edges on with unit spread.

    As they are initialised usually, eight convolutions in a row leave next to nothing of the hint but their biases, and the
    network learns for hundreds of steps without seeing it. The last one, which usually begins at zero, adds half the spread of
    what it is added to; the control network's outputs begin at zero all the same.
    """
    embedding = network.controlnet_cond_embedding
    spread = network.conv_in(torch.randn(16, 4, CELLS, CELLS)).std()
    for layer in [embedding.conv_in, *embedding.blocks, embedding.conv_out]:
        last = layer is embedding.conv_out
        torch.nn.init.kaiming_normal_(layer.weight)
        layer.bias.zero_()
        passed = layer(shown)
        layer.weight /= passed.std() / (0.5 * spread) if last else passed.std((0, 2, 3)).mean()
        layer.bias -= layer(shown).mean((0, 2, 3))
        shown = torch.nn.functional.silu(layer(shown))


def main():
    options = parser(__doc__, steps=800, batch=24, rate=7e-4)
    options.add_argument("--again", action="store_true", help="fit the network that is there to a UNet that was trained further")
    args = options.parse_args()
    begin(args)
    scenes, noising, base = Scenes(), Noising(), unet.load().requires_grad_(False)
    scenes.mostly_few({"same": 0.3, "varied": 0.25, "pairs": 0.1, "moved": 0.15, "all": 0.2})
    packed = kept("edges", lambda: np.stack([np.packbits(edges(picture), axis=-1) for some in scenes.pictures for picture in some]))
    if args.again:
        network = ControlNetModel.from_pretrained(MODEL / "controlnet-canny", torch_dtype=torch.float32)
    else:
        network = new(base)
        awaken(network, hints(packed[:256]))
    trainer = Trainer("controlnet", network, args, memory=0.995)

    def predicted(network, noisy, timesteps, states, shown, bf16):
        with autocast(bf16):
            if network is None:
                return base(noisy, timesteps, states).sample
            down, middle = network(noisy, timesteps, states, shown, return_dict=False)
            return base(noisy, timesteps, states, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample

    def loss(random, bf16):
        chosen = scenes.draw(random, args.batch)
        latents, states = scenes.of(chosen)
        timesteps = noising.timesteps(args.batch)
        noisy, wanted = noising.noisy(latents, timesteps, torch.randn_like(latents))
        shown = hints(packed[chosen]) * (torch.rand(args.batch, 1, 1, 1) >= NO_EDGES)
        states = unet.without_words(states, scenes.empty, NO_WORDS)
        return noising.loss(predicted(trainer.network, noisy, timesteps, states, shown, bf16), wanted, timesteps)

    @torch.no_grad()
    def report():
        """The unexplained part of v without and with the network, for each quarter of the schedule, on held-out scenes."""
        chosen, generator, parts = scenes.held_out(64), torch.Generator().manual_seed(5), []
        latents, states = scenes.of(chosen)
        for quarter in range(4):
            timesteps = torch.randint(250 * quarter, 250 * quarter + 250, (len(chosen),), generator=generator)
            noisy, wanted = noising.noisy(latents, timesteps, torch.randn(latents.shape, generator=generator))
            with_and_without = (predicted(some, noisy, timesteps, states, hints(packed[chosen]), False) for some in (None, trainer.average))
            parts.append(" -> ".join(f"{(said - wanted).pow(2).mean().item():.4f}" for said in with_and_without))
        return "unexplained without -> with, by quarters of the schedule: " + ", ".join(parts)

    trainer.run(loss, report).save_pretrained(MODEL / "controlnet-canny")


if __name__ == "__main__":
    main()
