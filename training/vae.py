"""Stages 6 and 9: the autoencoder, and at the end its decoder alone.

    python training/vae.py [--steps 6000]
    python training/vae.py --decoder [--steps 1400] [--error 0.1] [--share 0.5]

The first run also learns with noise on the latents, which makes them smoother to learn for the UNet, and ends by giving each
latent channel mean 0 and deviation 1 through the convolutions next to them, exactly. The second leaves the encoder and so the
latents as they are and trains the decoder on latents with errors of the UNet's kind: noise that hangs together, and what the UNet
itself draws when it begins at a scene with noise. That decoder is smooth, and blurred where it cannot know better: its weights go only a
share of the way from those of the first.
"""

import copy
import shutil

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d, interpolate

from common import MODEL, WORK, Noising, Trainer, autocast, begin, parser, pictures_to_tensor, sheet, tensor_to_pictures
from scenes import pools

HELD_OUT = 64


def new():
    levels = 4
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
    )


def load(folder=MODEL / "vae"):
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)


def difference(drawn, wanted):
    """Colours and slopes at four sizes; opposing colours apart, without which the red-green axis is lost."""
    slopes = lambda x: (x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1])
    apart = drawn - wanted
    opposing = torch.stack([apart[:, 0] - apart[:, 1], apart[:, 2] - (apart[:, 0] + apart[:, 1]) / 2], 1)
    loss = apart.abs().mean() + 2 * apart.pow(2).mean()
    for cells in (4, 8):
        blocks = avg_pool2d(opposing, cells)
        loss = loss + 0.5 * blocks.abs().mean() + 3 * blocks.pow(2).mean() + 3 * avg_pool2d(apart, cells).pow(2).mean()
    for scale in (1, 2, 4):
        if scale > 1:
            drawn, wanted = avg_pool2d(drawn, 2), avg_pool2d(wanted, 2)
            loss = loss + 0.5 * (drawn - wanted).abs().mean()
        loss = loss + 0.5 * sum((one - other).abs().mean() for one, other in zip(slopes(drawn), slopes(wanted)))
    return loss


def errors(latents, size):
    """Noise as the UNet's mistakes are: half of it from cell to cell, half in patches; of another strength for each picture."""
    count, channels, height, width = latents.shape
    fine = torch.randn_like(latents)
    coarse = interpolate(torch.randn(count, channels, height // 4 or 1, width // 4 or 1), (height, width), mode="bilinear")
    return latents + size * torch.rand(count, 1, 1, 1) * (fine + coarse)


class Guesses:
    """Scenes of the few things, and what the UNet draws when it begins at their latents with noise: the scene, in its own hand.

    It draws in steps and with guidance, as users have it draw, since the errors of its steps add up.
    """

    STARTS = (249, 349, 449, 549, 649)  # where it begins; below lies less noise
    STRIDE = 100
    MOST_GUIDANCE = 7.0

    def __init__(self, count):
        import unet
        from latents import Scenes

        scenes, network, random = Scenes(), unet.load().eval(), np.random.default_rng(11)
        scenes.mostly_few()
        chosen, torch_random = np.sort(scenes.draw(random, count)), torch.Generator().manual_seed(11)
        first_of = np.cumsum([0, *(len(some) for some in scenes.pictures)])
        pool = np.searchsorted(first_of, chosen, "right") - 1
        self.pictures = np.stack([scenes.pictures[at][one - first_of[at]] for one, at in zip(chosen, pool)])
        with torch.no_grad(), autocast(True):
            parts = np.array_split(chosen, max(1, count // 64))
            self.latents = torch.cat([self._drawn(scenes, network, some, number, torch_random) for number, some in enumerate(parts)])

    def _drawn(self, scenes, network, chosen, number, torch_random):
        latents, states = scenes.of(chosen)
        both, noising = torch.cat([scenes.empty.expand_as(states), states]), Noising()
        guidance = 1 + (self.MOST_GUIDANCE - 1) * torch.rand(len(chosen), 1, 1, 1, generator=torch_random)
        times = range(self.STARTS[number % len(self.STARTS)], 0, -self.STRIDE)
        noisy, _ = noising.noisy(latents, torch.full((len(chosen),), times[0]), torch.randn(latents.shape, generator=torch_random))
        for time in times:
            plain, told = network(noisy.repeat(2, 1, 1, 1), torch.full((2 * len(chosen),), time), both).sample.float().chunk(2)
            v, kept = plain + guidance * (told - plain), noising.kept[time]
            clean, left = kept.sqrt() * noisy - (1 - kept).sqrt() * v, kept.sqrt() * v + (1 - kept).sqrt() * noisy
            kept = noising.kept[time - self.STRIDE] if time > self.STRIDE else torch.tensor(1.0)
            noisy = kept.sqrt() * clean + (1 - kept).sqrt() * left
        return noisy

    def batch(self, random, count):
        chosen = random.integers(0, len(self.pictures), count)
        return pictures_to_tensor(self.pictures[chosen]), self.latents[chosen]


class Pictures:
    """Scenes and their mirror images."""

    def __init__(self):
        pictures, known = pools()
        # Held out are scenes of all things, whatever else is there.
        firsts = np.cumsum([0, *map(len, pictures)])
        last = max(number for number in range(len(pictures)) if "few" not in known[firsts[number]])
        self.held_out = pictures_to_tensor(pictures[last][-HELD_OUT:])
        self.pictures = [some[:-HELD_OUT] if number == last else some for number, some in enumerate(pictures)]
        self.shares = np.array([len(some) for some in self.pictures]) / sum(len(some) for some in self.pictures)

    def batch(self, random, count, window=128):
        out = np.empty((count, window, window, 3), np.uint8)
        for place in out:
            some = self.pictures[random.choice(len(self.pictures), p=self.shares)]
            y, x = random.integers(0, 128 - window + 1, 2)
            part = some[random.integers(len(some)), y : y + window, x : x + window]
            place[:] = part[:, ::-1] if random.random() < 0.5 else part
        return pictures_to_tensor(out)


@torch.no_grad()
def through(vae, pictures):
    """The pictures as they come back, and the peak signal to noise ratio in dB."""
    back = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return back, (-10 * torch.log10(((pictures - back) / 2).pow(2).mean((1, 2, 3)))).mean().item()


@torch.no_grad()
def whiten(vae, pictures):
    """Gives each latent channel mean 0 and deviation 1; the pictures stay the same."""
    latents = torch.cat([vae.encode(some).latent_dist.mode() for some in pictures.split(32)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before, after, count = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.weight[:count] /= deviation.view(-1, 1, 1, 1)
    before.bias[:count] = (before.bias[:count] - mean) / deviation
    before.bias[count:] -= 2 * deviation.log()  # the second half are logarithms of variances
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation.view(1, -1, 1, 1)


def main():
    options = parser(__doc__, steps=6000, batch=16, rate=8e-4, divergence=4e-4, noise=0.1, error=0.1, guesses=3000, share=0.5)
    options.add_argument("--decoder", action="store_true")
    args = options.parse_args()
    begin(args)
    pictures = Pictures()
    first = WORK / "vae-first"
    if args.decoder and not first.exists():
        shutil.copytree(MODEL / "vae", first)
    vae = load(first) if args.decoder else new()
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if args.decoder else None
    guesses = Guesses(args.guesses) if args.decoder else None
    trainer = Trainer("decoder" if args.decoder else "vae", vae, args, trained)

    def loss_of_decoder(random, bf16):
        wanted = pictures.batch(random, args.batch // 2)
        with autocast(bf16):
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mode().float()
            guessed_from, guessed = guesses.batch(random, args.batch - len(wanted))
            drawn = vae.decode(torch.cat([errors(latents, args.error), guessed])).sample
        return difference(drawn.float(), torch.cat([wanted, guessed_from]))

    def loss_of_both(random, bf16):
        # Windows at first: four times the pictures for the same arithmetic.
        early = trainer.step < 0.7 * args.steps
        wanted = pictures.batch(random, 2 * args.batch if early else args.batch, 64 if early else 128)
        with autocast(bf16):
            found = vae.encode(wanted).latent_dist
            latents = found.mean + found.std * torch.randn_like(found.mean)
            latents = latents + args.noise * found.mean.detach().std() * torch.rand(len(wanted), 1, 1, 1) * torch.randn_like(latents)
            drawn = vae.decode(latents).sample
        divergence = 0.5 * (found.mean.float().pow(2) + found.var.float() - 1 - found.logvar.float()).mean()
        return difference(drawn.float(), wanted) + args.divergence * divergence

    def report():
        return f"held-out pictures come back with {through(trainer.average, pictures.held_out)[1]:.2f} dB"

    best = copy.deepcopy(trainer.run(loss_of_decoder if args.decoder else loss_of_both, report))
    if args.decoder:
        torch._foreach_lerp_(list(best.parameters()), list(load(first).requires_grad_(False).parameters()), 1 - args.share)
    else:
        whiten(best, pictures.batch(np.random.default_rng(0), 512))
    back, decibels = through(best, pictures.held_out)
    rows = [tensor_to_pictures(part[:8]) for part in (pictures.held_out, back)]
    sheet(rows, WORK / "sheets/vae.png")
    print(f"{decibels:.2f} dB")
    best.save_pretrained(MODEL / "vae")


if __name__ == "__main__":
    main()
