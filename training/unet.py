"""Stages 7 and 8: the denoising network, first on all things, then on the few that it shall draw best.

    python training/unet.py [--steps 8000]
    python training/unet.py --few [--steps 3000]

v-prediction with a terminal step of pure noise. A tenth of the captions is empty, for guidance.
"""

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from common import CELLS, MODEL, Noising, Trainer, autocast, begin, parser, schedule
from latents import Scenes

CHANNELS = (64, 128, 192)
NO_WORDS = 0.1


def new():
    network = UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=4,
        norm_num_groups=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    # For few and small heads plain matrix products are a fifth faster than torch's fused attention.
    network.set_attn_processor(AttnProcessor())
    return network


def load():
    network = UNet2DConditionModel.from_pretrained(MODEL / "unet", torch_dtype=torch.float32)
    network.set_attn_processor(AttnProcessor())
    return network


def without_words(states, empty, share):
    """The states with some captions made empty."""
    dropped = torch.rand(len(states)) < share
    return torch.where(dropped[:, None, None], empty, states)


def led_astray(noising, latents, timesteps, noise, others, share):
    """Latents with noise that show a share of others, and the v that leads back from there to the right ones.

    So it is inside a mask: what is around it is as it should be in each step, while inside there is what the network itself thought of
    before it could see that.
    """
    noisy, wanted = noising.noisy(latents + share * (others - latents), timesteps, noise)
    kept = noising.kept[timesteps].view(-1, 1, 1, 1)
    return noisy, torch.where(share > 0, (kept.sqrt() * noisy - latents) / (1 - kept).sqrt(), wanted)


def main():
    options = parser(__doc__, steps=8000, batch=32, rate=7e-4)
    options.add_argument("--few", action="store_true")
    args = options.parse_args()
    begin(args)
    scenes, noising = Scenes(), Noising()
    if args.few:
        scenes.mostly_few()
    trainer = Trainer("unet_few" if args.few else "unet", load() if args.few else new(), args, memory=0.99 if args.few else 0.998, decay=1e-2)

    def said_of(network, noisy, timesteps, states, bf16):
        with autocast(bf16):
            return network(noisy, timesteps, states).sample

    def loss(random, bf16):
        chosen, timesteps = scenes.draw(random, args.batch), noising.timesteps(args.batch)
        # Where the caption names one thing of two, the other is given, as in a masked picture: not at the noisiest steps,
        # where a picture's things are decided.
        timesteps = torch.where(scenes.partly[chosen], timesteps * 17 // 20, timesteps)
        latents, states = scenes.of(chosen)
        # Not at the cleaner steps either, where v would have to be huge to find back.
        share = scenes.holes(chosen) * torch.rand(args.batch, 1, 1, 1).mul(1.7).sub(0.4).clamp(min=0)
        share = share * (timesteps >= 400)[:, None, None, None]
        noise, others = torch.randn_like(latents), scenes.expected(chosen, random)
        noisy, wanted = led_astray(noising, latents, timesteps, noise, others, share)
        said = said_of(trainer.network, noisy, timesteps, without_words(states, scenes.empty, NO_WORDS), bf16)
        return noising.loss(said, wanted, timesteps)

    @torch.no_grad()
    def report():
        """The unexplained part of v, for each quarter of the schedule, on held-out scenes."""
        chosen, generator, parts = scenes.held_out(64), torch.Generator().manual_seed(5), []
        latents, states = scenes.of(chosen)
        for quarter in range(4):
            timesteps = torch.randint(250 * quarter, 250 * quarter + 250, (len(chosen),), generator=generator)
            noisy, wanted = noising.noisy(latents, timesteps, torch.randn(latents.shape, generator=generator))
            said = said_of(trainer.average, noisy, timesteps, states, False)
            parts.append((said - wanted).pow(2).mean().item())
        return "unexplained by quarters of the schedule: " + ", ".join(f"{part:.4f}" for part in parts)

    trainer.run(loss, report).save_pretrained(MODEL / "unet")
    schedule().save_pretrained(MODEL / "scheduler")


if __name__ == "__main__":
    main()
