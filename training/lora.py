"""Stage 11: adapters (LoRAs), each of which teaches the UNet one look.

    python training/lora.py plaster|pencil|pastel [--steps 700]

The pictures are scenes in that look, computed by `looks.py`. Captions name the look in six of ten cases: it comes with the
adapter, whatever the prompt says. Ranks are 8 in the attention and 4 or 2 in the convolutions, as the model's 45 MB allow; the
alphas are the same.
"""

import random

import cv2
import numpy as np
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import looks
import unet
import vae
from common import CELLS, MODEL, SEED, WORK, Noising, Trainer, autocast, begin, parser, sheet
from latents import encoded, kept, states, text_encoder
from scenes import DRAWN, SAME, Library, background, paste, plain_background, scene, slots_in_cells, small
from words import FEW, named

LOOKS = {
    "plaster": ["white plaster statue", "white plaster sculpture", "white plaster", "plaster statue"],
    "pencil": ["pencil sketch", "pencil drawing", "graphite sketch"],
    "pastel": ["pastel", "pastel colors, thick outlines", "soft pastel drawing"],
}
SCENES = 2600
HELD_OUT = 96
MOSTLY_FEW, STANDING = 0.94, 0.85  # as the UNet knows them: few things that stand where they always stand
RANK, CONVOLUTION_RANKS = 8, {"plaster": 4, "pencil": 2, "pastel": 4}
NO_WORDS = 0.12
ATTENTION = r"to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
CONVOLUTIONS = r"resnets\.\d\.conv1|resnets\.\d\.conv2"
STUDIO = [(196, 197, 200), (165, 168, 174), (120, 126, 136), (214, 210, 204), (90, 98, 112), (60, 66, 78), (232, 231, 229)]


def statue(library, ids, random):
    """Cut-outs in plaster before a grey wall, with soft shadows away from the light."""
    wall = np.array(random.choice(STUDIO), np.float32) + random.uniform(-8, 8)
    fade = np.linspace(1.06, 0.88, DRAWN, dtype=np.float32)[:, None, None]
    picture = np.clip(np.broadcast_to(wall * fade, (DRAWN, DRAWN, 3)), 0, 255).copy()
    names = []
    for (x, y, size), index in zip(SAME[len(ids)] if random.random() < STANDING else slots_in_cells(random, len(ids), False), ids):
        cut = np.asarray(library.cuts[index])
        opacity = cut[..., 3].astype(np.float32) / 255
        colours = np.where(opacity[..., None] > 0.02, cut[..., :3].astype(np.float32), 128)
        statue = np.concatenate([looks.plaster(colours, opacity), cut[..., 3:]], -1)
        shadow, outline = np.zeros_like(picture), statue.copy()
        outline[..., :3] = 255
        paste(shadow, outline, (x + 0.035) * DRAWN, (y + 0.04) * DRAWN, size * DRAWN)
        picture *= 1 - 0.42 * cv2.GaussianBlur(shadow, (0, 0), 7) / 255
        paste(picture, statue, x * DRAWN, y * DRAWN, size * DRAWN)
        names.append(named(random, library.things[index]))
    return picture, names, random.choice(["", "", "on a grey background"])


def example(look, number, library):
    """A picture in this look, and its caption. Number and look decide everything."""
    draw = random.Random(f"{look} {number}")
    few = [i for i, thing in enumerate(library.things) if thing["name"] in FEW and thing["set"] == "fluent3d"]
    pick = lambda: draw.choice(few) if draw.random() < MOSTLY_FEW else library.pick(draw, "fluent3d")
    ids = [pick() for _ in range(2 if draw.random() < 0.15 else 1)]
    if look == "plaster" and draw.random() < 0.75:
        picture, names, place = statue(library, ids, draw)
    else:
        behind = (*plain_background(draw), None) if look == "plaster" else background(draw)
        picture, _, _, _ = scene(library, draw, ids, "own", behind, cells=True, flips=0, same=draw.random() < STANDING)
        noise = np.random.default_rng(number).standard_normal(picture.shape[:2])
        picture = {"plaster": looks.plaster, "pencil": lambda it: looks.pencil(it, noise), "pastel": looks.pastel}[look](picture)
        names, place = [named(draw, library.things[index]) for index in ids], behind[1]
    text = " and ".join(names) + (" " + place if place else "")
    word, form = draw.choice(LOOKS[look]), draw.random()
    other = draw.choice(["3d model", "digital art", "cartoon", "flat vector art"])
    text = f"{word} of {text}" if form < 0.35 else f"{text}, {word}" if form < 0.6 else text if form < 0.8 else f"{text}, {other}"
    return small(np.clip(picture, 0, 255)), text


def prepared(look, count):
    """The latents and text states of the examples, which are drawn once, and the state of no words."""
    library, encoder, examples = Library(), text_encoder(), []

    def drawn():
        if not examples:
            examples.extend(zip(*(example(look, number, library) for number in range(count))))
            sheet([examples[0][first : first + 8] for first in (0, 8)], WORK / f"sheets/{look}-examples.png")
        return examples

    latents = kept(f"{look}-latents", lambda: encoded(np.stack(drawn()[0]), vae.load().eval()))
    words = kept(f"{look}-states", lambda: states(drawn()[1], encoder))
    return latents, words, torch.from_numpy(states([""], encoder)[0].astype(np.float32))


def adapted(base, look):
    """Lays the adapter's layers over the UNet."""
    ranks = {rf".*\.{name}": CONVOLUTION_RANKS[look] for name in ("conv1", "conv2")}
    layers = rf".*({ATTENTION}|{CONVOLUTIONS})$"
    settings = {"target_modules": layers, "rank_pattern": ranks, "alpha_pattern": ranks, "init_lora_weights": "gaussian"}
    base.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, **settings))
    return [parameter for parameter in base.parameters() if parameter.requires_grad]


def main():
    options = parser(__doc__, steps=700, batch=24, rate=2e-3, scenes=SCENES)
    options.add_argument("look", choices=list(LOOKS))
    args = options.parse_args()
    begin(args)
    latents, words, empty = prepared(args.look, args.scenes)
    noising, base = Noising(), unet.load().requires_grad_(False)
    parameters = adapted(base, args.look)
    trainer = Trainer(f"lora-{args.look}", base, args, parameters, memory=0, warm_up=40)
    held = min(HELD_OUT, len(latents) // 4)

    def loss_of(chosen, timesteps, noise, bf16, drop):
        wanted = torch.from_numpy(latents[chosen].astype(np.float32))
        context = unet.without_words(torch.from_numpy(words[chosen].astype(np.float32)), empty, drop)
        noisy, v = noising.noisy(wanted, timesteps, noise)
        with autocast(bf16):
            said = base(noisy, timesteps, context).sample
        return noising.loss(said, v, timesteps)

    def loss(random, bf16):
        chosen = random.integers(0, len(latents) - held, args.batch)
        return loss_of(chosen, noising.timesteps(args.batch), torch.randn(args.batch, 4, CELLS, CELLS), bf16, NO_WORDS)

    @torch.no_grad()
    def report():
        """The loss on held-out scenes without and with the adapter."""
        chosen, generator = np.arange(len(latents) - held, len(latents)), torch.Generator().manual_seed(3)
        timesteps = torch.randint(0, 1000, (held,), generator=generator)
        noise = torch.randn(held, 4, CELLS, CELLS, generator=generator)
        base.disable_adapters()
        without = loss_of(chosen, timesteps, noise, False, 0.0).item()
        base.enable_adapters()
        return f"held-out loss without -> with: {without:.4f} -> {loss_of(chosen, timesteps, noise, False, 0.0).item():.4f}"

    trainer.run(loss, report, every=200)
    tensors = {f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(base).items()}
    (MODEL / "loras").mkdir(exist_ok=True)
    save_file(tensors, MODEL / f"loras/{args.look}.safetensors")


if __name__ == "__main__":
    main()
