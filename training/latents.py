"""The scenes as the UNet sees them: latents and text states, computed once and kept in memory."""

import json
import random

import numpy as np
import torch
from transformers import CLIPTextModel

import vae
from common import CELLS, MODEL, SEED, WORK, autocast, pictures_to_tensor
from scenes import pools
from tokenizer import Tokenizer
from words import with_synonyms


def text_encoder():
    return CLIPTextModel.from_pretrained(MODEL / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)


@torch.no_grad()
def encoded(pictures, autoencoder, bf16=True):
    """`[N, 128, 128, 3]` bytes to latents `[N, 4, 16, 16]` in f16."""
    out = np.empty((len(pictures), 4, CELLS, CELLS), np.float16)
    for first in range(0, len(pictures), 64):
        some = pictures_to_tensor(pictures[first : first + 64])
        with autocast(bf16):
            found = autoencoder.encode(some).latent_dist.mode()
        out[first : first + 64] = found.float() * autoencoder.config.scaling_factor
    return out


@torch.no_grad()
def states(texts, encoder, bf16=True):
    """Texts to states `[N, 77, 256]` in f16."""
    tokens, out = Tokenizer(), np.empty((len(texts), 77, encoder.config.hidden_size), np.float16)
    for first in range(0, len(texts), 256):
        ids = torch.tensor([tokens(text) for text in texts[first : first + 256]])
        with autocast(bf16):
            out[first : first + 256] = encoder(ids).last_hidden_state.float()
    return out


def kept(name, compute):
    """An array that is computed once and lies in the work folder from then on."""
    file = WORK / f"{name}.npy"
    if not file.exists():
        np.save(file.with_suffix(".partial.npy"), compute())
        file.with_suffix(".partial.npy").rename(file)
    return np.load(file)


# What the last part of the training draws from: scenes of the few things that do not vary, alone and in pairs, pairs in other places,
# scenes that vary in every way, and the scenes of all things, so that these are not forgotten.
MOSTLY_FEW = {"same": 0.36, "pairs": 0.26, "moved": 0.27, "varied": 0.06, "all": 0.05}


class Scenes:
    """Latents and text states of all scenes, and what is known of them."""

    def __init__(self, held_out=1024):
        encoder, autoencoder = text_encoder(), vae.load().eval()
        pictures, self.known = pools()
        swaps = random.Random(SEED)
        texts = [with_synonyms(about["caption"], swaps) for about in self.known]
        self.latents = kept("latents", lambda: np.concatenate([encoded(some, autoencoder) for some in pictures]))
        self.states = kept("states", lambda: states(texts, encoder))
        self.empty = torch.from_numpy(states([""], encoder)[0].astype(np.float32))
        self.pictures = pictures
        # The last ones of each seed are held out.
        ends, each = np.cumsum([len(some) for some in pictures]), [min(held_out, len(some)) // 8 for some in pictures]
        self.held = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, each)])
        # A scene of one thing teaches most.
        self.weights = np.array([1.0 if len(about["things"]) == 1 else 0.6 for about in self.known])
        self.weights[self.held] = 0
        # Scenes that show nothing but this thing, where it always stands.
        self.alone = {}
        for index, about in enumerate(self.known):
            if about.get("few") == "same":
                self.alone.setdefault(about["things"][0][0], []).append(index)
        self.partly = torch.tensor([about.get("only") is not None for about in self.known])

    def mostly_few(self, shares=MOSTLY_FEW):
        """Draws these shares from the kinds of scenes, and nothing from kinds that are not named."""
        kinds = np.array([about.get("few", "all") for about in self.known])
        for kind in np.unique(kinds):
            chosen = kinds == kind
            self.weights[chosen] *= shares.get(kind, 0) / max(1e-9, self.weights[chosen].sum())

    def draw(self, random, count):
        return np.searchsorted(np.cumsum(self.weights) / self.weights.sum(), random.random(count))

    def of(self, chosen):
        latents = torch.from_numpy(self.latents[chosen].astype(np.float32))
        return latents, torch.from_numpy(self.states[chosen].astype(np.float32))

    def holes(self, chosen):
        """`[N, 1, 16, 16]`, 1 where the only one of two things that the caption names is, and a cell around it."""
        holes = torch.zeros(len(chosen), 1, CELLS, CELLS)
        for hole, about in zip(holes, (self.known[index] for index in chosen)):
            if about.get("only") is not None:
                x0, y0, x1, y1 = (round(share * CELLS) for share in about["things"][about["only"]][1:])
                hole[:, max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = 1
        return holes

    def expected(self, chosen, random):
        """What the captions alone let expect: the only thing that they name alone. Of scenes whose captions name all, the scenes."""
        instead = [index for index in chosen]
        for number, about in enumerate(self.known[index] for index in chosen):
            if about.get("only") is not None:
                alone = self.alone.get(about["things"][about["only"]][0])
                instead[number] = random.choice(alone) if alone else instead[number]
        return torch.from_numpy(self.latents[instead].astype(np.float32))

    def held_out(self, count):
        """Of each seed's last ones, spread evenly."""
        return self.held[np.linspace(0, len(self.held) - 1, min(count, len(self.held))).astype(int)]
