"""The evaluation: a table, and sheets to look at.

    python training/evaluate.py classifier [--steps 1500]
    python training/evaluate.py table DIR [--seeds 2]

Measured with the model in DIR (by default models/default), guidance 4, 20 steps of DDIM:

- vae: peak signal to noise ratio of held-out scenes that went through the autoencoder
- recognised: `a THING on a white background, 3d model` for the 48 things that it draws best, judged among all 162 by a
  classifier that was trained on other renderings: how often the thing comes first, and among the first five
- mask: a thing of a scene replaced by one of the 48, recognised inside its box, and how visible the seam is: how much larger steps
  of brightness are across it than beside it, in grey levels of 255; about 0 where nothing shows. Once where the training's pairs
  stand (`--few pairs`), and once where sizes and places vary
- style: scenes drawn again at strength 0.6 in other styles; how far they are from the original and from what the style's
  program makes of it, in mean difference per pixel
- canny: the agreement (F1, a pixel's tolerance) of the picture's edges with the hint's, by weight
- loras: mean difference to the picture without, and to the examples' mean colour and spread

The classifier has to say how good it is itself on held-out renderings; read the table by that.
"""

import argparse
import json
import random
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

import looks
import vae
from common import SEED, WORK, Trainer, autocast, begin, parser, pictures_to_tensor, sheet
from controlnet import edges
from sampling import Sampler
from scenes import Library, pools, scene, small
from words import FEW, THINGS, with_article

LOOKED_AT = 48  # pixels of what the classifier sees


class Classifier(nn.Module):
    """A small convolutional network: `[N, 3, 48, 48]` to a score for each thing."""

    def __init__(self, width=48):
        super().__init__()
        layers, inputs = [], 3
        for outputs, stride in ((width, 2), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1), (4 * width, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(inputs, len(THINGS)))

    def forward(self, pictures):
        return self.layers(pictures)


def cut_out(picture, box):
    """What lies in a box of shares, as the classifier sees it."""
    x0, y0, x1, y1 = (int(round(share * len(picture))) for share in box)
    return cv2.resize(np.ascontiguousarray(picture[y0:y1, x0:x1]), (LOOKED_AT, LOOKED_AT), interpolation=cv2.INTER_AREA)


def renderings(library):
    """Crops of the scenes with the numbers of their things."""
    pictures, known = pools()
    crops, names, at = [], [], 0
    for some in pictures:
        for picture in some:
            for index, *box in known[at]["things"]:
                if min(box[2] - box[0], box[3] - box[1]) > 0.23:
                    crops.append(cut_out(picture, box))
                    names.append(THINGS.index(library.things[index]["name"]))
            at += 1
    return np.stack(crops), np.array(names)


def train_classifier(args):
    crops, names = renderings(Library())
    order = np.random.default_rng(SEED).permutation(len(crops))
    held, taught = order[: min(3000, len(order) // 8)], order[min(3000, len(order) // 8) :]
    network = Classifier()
    trainer = Trainer("classifier", network, args, memory=0, decay=0.02)

    def loss(draw, bf16):
        chosen = draw.choice(taught, args.batch)
        seen = pictures_to_tensor(crops[chosen])
        # Moved, scaled and blurred, since drawn things are not where and as sharp as composed ones.
        seen = torch.roll(seen, tuple(int(by) for by in draw.integers(-4, 5, 2)), (2, 3))
        side = int(LOOKED_AT * draw.uniform(0.8, 1.1)) // 4 * 4
        seen = nn.functional.interpolate(seen, (side, side), mode="bilinear")
        seen = nn.functional.avg_pool2d(seen, 3, 1, 1) if draw.random() < 0.3 else seen
        network.train()
        with autocast(bf16):
            scores = network(seen)
        return nn.functional.cross_entropy(scores.float(), torch.from_numpy(names[chosen]), label_smoothing=0.05)

    def report():
        first, five = ranks(network, crops[held], names[held])
        return f"held-out renderings: first {first:.3f}, among five {five:.3f}"

    trainer.run(loss, report)
    forget_shares(network, names[taught])
    first, five = ranks(network, crops[held], names[held])
    torch.save({"network": network.state_dict(), "first": first, "five": five}, WORK / "classifier.pt")


@torch.no_grad()
def forget_shares(network, names):
    """Takes out of the scores how often each thing was shown: the few things are in most scenes, and shall not be guessed for that."""
    counts = np.bincount(names, minlength=len(THINGS)).clip(1)
    network.layers[-1].bias -= torch.from_numpy(np.log(counts / counts.sum())).float()


@torch.no_grad()
def ranks(network, crops, names):
    """How often the right thing comes first, and among the first five."""
    network.eval()
    best = torch.cat([network(pictures_to_tensor(crops[i : i + 250])).topk(5).indices for i in range(0, len(crops), 250)])
    right = best == torch.from_numpy(np.asarray(names))[:, None]
    return right[:, 0].float().mean().item(), right.any(1).float().mean().item()


def found_box(picture):
    """The box of what differs from the corners, or the middle where nothing does."""
    border = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3)])
    ys, xs = np.where(np.abs(picture.astype(int) - np.median(border, 0)).sum(-1) > 60)
    if len(xs) < 50:
        return [0.08, 0.08, 0.92, 0.92]
    (x0, x1), (y0, y1) = np.percentile(xs, [1, 99]), np.percentile(ys, [1, 99])
    half, x, y = max(x1 - x0, y1 - y0) / 2 + 2, (x0 + x1) / 2, (y0 + y1) / 2
    return [float(np.clip(at / len(picture), 0, 1)) for at in (x - half, y - half, x + half, y + half)]


def agreement(hint, drawn):
    """F1 of two maps of edges; a pixel next to an edge counts as on it."""
    near = lambda one: cv2.dilate(one.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    hit, found = (hint & near(drawn)).sum() / max(1, hint.sum()), (drawn & near(hint)).sum() / max(1, drawn.sum())
    return 2 * hit * found / max(1e-9, hit + found)


def seam(picture, mask):
    """Steps of brightness across the mask's edge beyond those beside it, in grey levels."""
    grey = picture.astype(np.float32).mean(-1)
    across = np.abs(np.diff(grey, axis=1))
    border = mask[:, 1:] != mask[:, :-1]
    beside = (np.roll(border, 2, 1) | np.roll(border, -2, 1)) & ~border
    return float(across[border].mean() - across[beside].mean())


class Evaluation:
    def __init__(self, folder, seeds, steps, guidance):
        self.sampler, self.seeds, self.library = Sampler(folder, steps, guidance), seeds, Library()
        self.rows = {}

    @cached_property
    def classifier(self):
        """Read where something has to be recognised: the other lines can be measured without it."""
        network, state = Classifier(), torch.load(WORK / "classifier.pt", weights_only=True)
        network.load_state_dict(state["network"])
        self.note("classifier itself, first / five", state["first"], state["five"])
        return network

    def note(self, name, *values):
        self.rows[name] = [round(float(value), 3) for value in values]
        print(f"{name}: " + " / ".join(f"{value:.3f}" for value in values), flush=True)

    def cut(self, name, of="fluent3d"):
        return next(i for i, thing in enumerate(self.library.things) if thing["name"] == name and thing["set"] == of)

    def alone(self, name, of):
        """A thing before grey, `[256, 256, 3]`."""
        plain = (np.full((256, 256, 3), 235, np.float32), "", None)
        return scene(self.library, random.Random(name), [self.cut(name, of)], "own", plain)[0]

    def scenes(self, count, same=False):
        """Scenes of two things that nothing was trained on; with `same` the things stand where the training's pairs stand."""
        out, number = [], 0
        while len(out) < count:
            number += 1
            draw = random.Random(f"evaluation {number}")
            picture, _, _, boxes = scene(self.library, draw, [self.cut(name) for name in draw.sample(FEW, 2)], "own", cells=same, same=same)
            out.append((small(picture), boxes))
        return out

    def vae(self):
        held_out = vae.Pictures().held_out
        self.note("vae, dB", vae.through(self.sampler.vae, held_out)[1])

    def recognised(self):
        every, names = [], []
        for seed in range(self.seeds):
            drawn = self.sampler.draw([f"{with_article(name)} on a white background, 3d model" for name in FEW], seed)
            every += list(drawn)
            names += [THINGS.index(name) for name in FEW]
            if seed == 0:
                sheet([drawn[i : i + 8] for i in range(0, len(FEW), 8)], WORK / "sheets/things.png")
        crops = np.stack([cut_out(picture, found_box(picture)) for picture in every])
        self.note("recognised on white, first / five", *ranks(self.classifier, crops, names))

    def masked(self):
        self.masks("where pairs stand", True)
        self.masks("anywhere", False)

    def masks(self, where, same, count=64):
        scenes, draw = self.scenes(count, same), random.Random("masks")
        targets = [draw.choice(FEW) for _ in scenes]
        init, mask = np.stack([picture for picture, _ in scenes]), np.zeros((count, 128, 128), bool)
        for one, (_, boxes) in zip(mask, scenes):
            x0, y0, x1, y1 = (int(round(share * 128)) for share in boxes[0][1:])
            one[max(0, y0 - 3) : y1 + 4, max(0, x0 - 3) : x1 + 4] = True
        drawn = self.sampler.draw([f"{with_article(name)}, 3d model" for name in targets], 3, init=init, mask=mask)
        crops = np.stack([cut_out(picture, boxes[0][1:]) for picture, (_, boxes) in zip(drawn, scenes)])
        self.note(f"inside a mask {where}, first / five", *ranks(self.classifier, crops, [THINGS.index(name) for name in targets]))
        self.note(f"seam {where}, drawn / original", *(np.mean([seam(*pair) for pair in zip(some, mask)]) for some in (drawn, init)))
        sheet([init[:8], drawn[:8], init[8:16], drawn[8:16]], WORK / f"sheets/masked-{where.replace(' ', '-')}.png")

    def styles(self, count=8):
        names = FEW[:count]
        whole = [self.alone(name, "fluent3d") for name in names]
        init, rows = np.stack([small(picture) for picture in whole]), []
        for style, program in looks.STYLES.items():
            drawn = self.sampler.draw([f"{with_article(name)}, {style}" for name in names], 6, init=init, strength=0.6)
            wanted = np.stack([small(np.clip(program(picture.copy(), random.Random(1)), 0, 255)) for picture in whole])
            apart = lambda other: np.abs(drawn.astype(int) - other.astype(int)).mean()
            self.note(f"to {style} at 0.6, from the original / from its program's", apart(init), apart(wanted))
            rows.append(drawn)
        sheet([init, *rows], WORK / "sheets/styles.png")

    def canny(self, count=24):
        if self.sampler.control is None:
            return
        hints, names, rows = [], [], []
        for name in FEW[:count]:
            hints.append(small(self.alone(name, "noto")))
            names.append(name)
        hints, wanted = np.stack(hints), [edges(hint) for hint in hints]
        for weight in (0.0, 0.5, 0.8, 1.0):
            drawn = self.sampler.draw([f"{with_article(name)}, 3d model" for name in names], 5, hint=hints, weight=weight)
            self.note(f"canny {weight}, edges' F1", np.mean([agreement(one, edges(other)) for one, other in zip(wanted, drawn)]))
            rows.append(drawn[:8])
        shown = np.repeat(np.stack(wanted)[:8, ..., None], 3, -1).astype(np.uint8) * 255
        sheet([hints[:8], shown, *rows], WORK / "sheets/canny.png")

    def loras(self, count=16):
        prompts, rows = [f"{with_article(name)} on a white background, 3d model" for name in FEW[:count]], []
        without = self.sampler.draw(prompts, 7)
        colour = lambda some: cv2.cvtColor(some.reshape(-1, 128, 3), cv2.COLOR_RGB2HSV)[..., 1].mean() / 255
        for name in self.sampler.loras:
            self.sampler.wear(name)
            drawn = self.sampler.draw(prompts, 7)
            self.sampler.wear(None)
            apart = np.abs(drawn.astype(int) - without.astype(int)).mean()
            self.note(f"lora {name}: difference / saturation before / after", apart, colour(without), colour(drawn))
            rows.append(drawn[:8])
        sheet([without[:8], *rows], WORK / "sheets/loras.png")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = options.add_subparsers(dest="what", required=True)
    learn = parser(__doc__, steps=1500, batch=128, rate=3e-3)
    parts.add_parser("classifier", parents=[learn], add_help=False)
    table = parts.add_parser("table")
    table.add_argument("folder", nargs="?", type=Path, default=Path("models/default"))
    table.add_argument("--seeds", type=int, default=2)
    table.add_argument("--steps", type=int, default=20)
    table.add_argument("--guidance", type=float, default=4.0)
    table.add_argument("--threads", type=int, default=2)
    table.add_argument("--only", nargs="*", default=["vae", "recognised", "masked", "styles", "canny", "loras"])
    args = options.parse_args()
    begin(args)
    if args.what == "classifier":
        return train_classifier(args)
    evaluation = Evaluation(args.folder, args.seeds, args.steps, args.guidance)
    for part in args.only:
        getattr(evaluation, part)()
    (WORK / "evaluation.json").write_text(json.dumps(evaluation.rows, indent=1))


if __name__ == "__main__":
    main()
