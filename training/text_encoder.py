"""Stage 5: the text encoder, which first learns to tell what is in the picture, and is frozen then.

    python training/text_encoder.py [--steps 2500]

From a caption it has to say the things, their colours, the style and the place, through two heads that are thrown away: one on
the end token's state and one on the mean of all. Trained together with the UNet from scratch it lost the words, and the
pictures stayed blobs.
"""

import random
import re

import numpy as np
import torch
from torch.nn import Linear, Module
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from transformers import CLIPTextConfig, CLIPTextModel

from common import MODEL, SEED, Trainer, autocast, begin, parser
from scenes import Library, pools
from tokenizer import Tokenizer
from words import COLOURS, HUES, PLACES, STYLES, THINGS, with_synonyms

WIDTH, LAYERS, HEADS = 256, 3, 4
HELD_OUT = 0.04


class Reader(Module):
    def __init__(self, vocabulary, answers):
        super().__init__()
        ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
        sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, max_position_embeddings=77, projection_dim=WIDTH, **sizes, **ends))
        self.of_end, self.of_mean = Linear(WIDTH, answers), Linear(WIDTH, answers)

    def forward(self, ids):
        end = (ids == self.text.config.eos_token_id).int().argmax(1)
        # What follows the first end token is padding, which causal attention hides from all before.
        ids = ids[:, : int(end.max()) + 1]
        states = self.text(ids).last_hidden_state
        counts = (torch.arange(ids.shape[1])[None] <= end[:, None]).to(states.dtype)[..., None]
        return self.of_end(states[torch.arange(len(ids)), end]), self.of_mean((states * counts).sum(1) / counts.sum(1))


def answers(about, library):
    """What is right for a scene, as zeros and ones."""
    text, names = about["caption"], {library.things[box[0]]["name"] for box in about["things"]}
    coloured = lambda colour: re.search(rf"\b{colour} (?!background|and \w+ gradient)", text) is not None
    behind = lambda colour: f"{colour} background" in text or re.search(rf"{colour}( and \w+)* gradient", text) is not None
    row = [thing in names for thing in THINGS] + [style == about["style"] for style in STYLES]
    row += [coloured(colour) for colour in HUES] + [behind(colour) for colour in COLOURS]
    return row + [re.search(place, text) is not None for place in PLACES]


def main():
    args = parser(__doc__, steps=2500, batch=96, rate=1e-3).parse_args()
    begin(args)
    library, known, tokens = Library(), pools()[1], Tokenizer()
    right = torch.tensor([answers(about, library) for about in known], dtype=torch.float32)
    swaps = random.Random(SEED)
    ids = torch.tensor([tokens(with_synonyms(about["caption"], swaps)) for about in known])
    first_held = len(known) - max(1, int(HELD_OUT * len(known)))
    reader = Reader(len(tokens.ids), right.shape[1])
    rare = ((1 - right.mean(0)) / (right.mean(0) + 1e-4)).clamp(1, 12)

    def loss(random, bf16):
        chosen = random.integers(0, first_held, args.batch)
        with autocast(bf16):
            said = reader(ids[chosen])
        return sum(cross_entropy(one.float(), right[chosen], pos_weight=rare) for one in said)

    @torch.no_grad()
    def report():
        said = torch.cat([trainer.average(ids[first:first + 200])[0] > 0 for first in range(first_held, len(known), 200)])
        truth = right[first_held:] > 0.5
        share = lambda columns: (said[:, columns] == truth[:, columns]).all(1).float().mean().item()
        return f"held-out captions: all things right {share(slice(len(THINGS))):.3f}, everything right {share(slice(None)):.3f}"

    trainer = Trainer("text_encoder", reader, args, decay=1e-2)
    trainer.run(loss, report).text.save_pretrained(MODEL / "text_encoder")


if __name__ == "__main__":
    main()
