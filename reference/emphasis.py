"""Write `goldens/emphasis.safetensors`: prompts with emphasis, read and encoded.

AUTOMATIC1111's documented rules, written here once more, apart from the engine's and on top of transformers: brackets are
found with a recursive reading of the text, the tokens are transformers', the weights multiply torch tensors.

Case: `read`: a list of `{"text", "chunks"}`, a chunk being a list of `[id, weight]` without start and end; `encoded`:
`{tensor: {"text", "clip_skip"}}`; `positions`: which tokens of each chunk were kept.

Tensors: [chunks · positions, D] with the text encoder of `tiny-sd15`; clip skip n is transformers' `hidden_states[-n]`, through
the final norm.
"""

import re

import torch

import golden
import models

CHUNK = 75
POSITIONS = [0, 1, 2, 5, 9, 40, 76]
NESTED = "(" * 40 + "a cat" + ")" * 40 + ","
HOSTILE = [
    "((((a castle)))),", "(((a cat, (a dog:1.3), [fog])))", NESTED, "(" * 300, ")" * 300, "[" * 50 + "a" + "]" * 20, "]]((a", "(a (b [c (d",
    "(一只猫:1.2), 中文字符", "(😀 cat 🐱‍👤:0.8) 👨‍👩‍👧 [🇩🇪]", "(\x00\x01 control\x1f:1.4) \x7f", "(naïve café:1.1), nai\u0308ve", "\u200b(zero\u200dwidth)\ufeff",
    "(a" * 600 + ")" * 300, "word, (heavy:1.2) " * 111, "é" * 2000, "(" + "中" * 1990 + ":1.2)", "\\(" * 1000, "a:b:c (d:e)", "(a:)", "(:1.3)", "()", "[]",
    "(a:1.2.3)", "(a: 1.5 )", "(a:+2)", "(a:-1)", "(a:0)", "a:1.5)", "x \\(film\\) \\[y\\] \\\\ \\z", "(a\\)b:1.3)", "\\", "(\\:1.2)", "<lora:x:1>", "[a:b:0.5]",
    "a BREAK b", "BREAK a", "a BREAK", "a BREAK BREAK b", "BREAKFAST, break", "(a BREAK b:1.3)", "a\nBREAK\nb", "a cat " * 40 + "BREAK a dog", "(a cat) " * 80,
]  # fmt: skip
ENCODED = [
    ("a (red:1.3) cat", 1), ("a (red:1.3) cat", 2), ("((a strawberry)) on a [white] background, 3d model", 1), ("(a cat:0.2)", 3), ("a (dog:-0.5)", 1),
    ("a cat", 1), ("a cat", 2), ("a cat", 3), ("(a cat) " * 40 + "BREAK [a dog]", 1), ("(a BREAK b:1.5), c", 2), ("plain, " * 50, 1),
]  # fmt: skip


def read(text):
    """Pieces `[text, weight]`, and None for a break."""
    # (sign, factors of the brackets around it), with a weight that closes a bracket as one sign.
    weight = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
    signs, opened, at = [], {"(": [], "[": []}, 0

    def close(sign, factor):
        start = opened[sign].pop()
        for entry in signs[start:]:
            entry[1] *= factor

    while at < len(text):
        sign, closing = text[at], weight.match(text, at)
        if sign == "\\":
            escaped = text[at + 1 : at + 2]
            if escaped and escaped in "()[]\\":
                signs.append(["literal " + escaped, 1.0])
                at += 1
            else:
                signs.append(["edge", 1.0])
            at += 1
        elif sign in opened:
            opened[sign].append(len(signs))
            signs.append(["edge", 1.0])
            at += 1
        elif closing and closing[1].count(".") < 2 and any(digit.isdigit() for digit in closing[1]):
            if opened["("]:
                close("(", float(closing[1]))
                signs.append(["edge", 1.0])
            else:
                signs.append(["literal " + closing[0], 1.0])
            at = closing.end()
        elif sign in ")]" and opened["(" if sign == ")" else "["]:
            close("(" if sign == ")" else "[", 1.1 if sign == ")" else 1 / 1.1)
            signs.append(["edge", 1.0])
            at += 1
        else:
            signs.append([sign if sign not in ")]:" else "literal " + sign, 1.0])
            at += 1
    for sign, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[sign]:
            close(sign, factor)
    return pieces(signs)


def pieces(signs):
    """Signs of one weight become texts; in what is no bracket the word BREAK stands for itself."""
    runs, run = [], ""
    for sign, weight in signs + [["edge", 1.0]]:
        if len(sign) == 1:
            run += sign
            current = weight
            continue
        if run:
            parts = re.split(r"\s*\bBREAK\b\s*", run)
            for index, part in enumerate(parts):
                runs += ([None] if index else []) + [[part, current]]
            run = ""
        if sign != "edge":
            runs.append([sign.removeprefix("literal "), weight])
    joined = []
    for run in runs:
        if run and joined and joined[-1] and abs(joined[-1][1] - run[1]) < 1e-12:
            joined[-1][0] += run[0]
        else:
            joined.append(run and list(run))
    return joined


def chunks(tokenizer, text):
    """Lists of `(id, weight)`, at most 75 in each."""
    cut = [[]]
    fresh = False
    for piece in read(text):
        if piece is None:
            cut.append([])
            fresh = True
            continue
        for token in tokenizer(piece[0], add_special_tokens=False).input_ids:
            if len(cut[-1]) == CHUNK:
                cut.append([])
            cut[-1].append((token, piece[1]))
            fresh = False
    if fresh and len(cut) > 1 and not cut[-1]:
        cut.pop()
    return cut


def encode(pipeline, text, clip_skip):
    start, end = pipeline.tokenizer.bos_token_id, pipeline.tokenizer.eos_token_id
    kept = []
    for chunk in chunks(pipeline.tokenizer, text):
        filling = CHUNK - len(chunk)
        ids = [start] + [token for token, _ in chunk] + [end] + [pipeline.tokenizer.pad_token_id] * filling
        weights = torch.tensor([1.0] + [weight for _, weight in chunk] + [1.0] * (filling + 1))
        states = pipeline.text_encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[-clip_skip]
        states = models.final_norm(pipeline.text_encoder)(states)
        mean = states.mean()
        states = states * weights[None, :, None]
        states = states * (mean / states.mean())
        kept.append(states[0, POSITIONS])
    return torch.cat(kept)


def main():
    golden.hold_still()
    pipeline = models.pipeline("tiny-sd15")
    case = {"read": [], "encoded": {}, "positions": POSITIONS}
    for text in HOSTILE:
        case["read"].append({"text": text, "chunks": chunks(pipeline.tokenizer, text)})
    tensors = {}
    for index, (text, clip_skip) in enumerate(ENCODED):
        tensors[str(index)] = encode(pipeline, text, clip_skip)
        case["encoded"][str(index)] = {"text": text, "clip_skip": clip_skip}
    golden.write("emphasis", tensors, case)


if __name__ == "__main__":
    main()
