"""Write `goldens/text.safetensors`: token ids and text encoder states, from transformers.

Case: `texts`: a list of `{"text", "ids"}`: the embedded model's ids, markers included, cut to 77, not padded;
`padded`: `{model: {text: ids}}`, filled up to 77 as diffusers asks for it (`tiny-sd21` pads with `!`);
`long`: texts and ids like `texts`, but not cut; `words`: the same by the tokenizer of `tiny-words`; `encoded`: the texts of the states; `positions`: which were kept.

Tensors: `states.<model>` [texts, positions, D]: `CLIPTextModel`'s last hidden states, after the final norm, for
`tiny-sd15`, `tiny-sd21` (gelu) and `default`.
"""

import torch
from transformers import CLIPTokenizer

import golden
import models

TEXTS = [
    "", " ", "a", "a cat", "A Cat", "a strawberry on a white background, 3d model", "a  cat\t\tand\na \r\n dog   ",
    "an orange cat, red   flowers;blue sky!!!", "it's a dog's life, they're we've I'm she'll he'd don't", "IT'S THEY'RE",
    "12345 and 3.14159 or 1,000,000", "x2 4k 8K 3d model", "under_score-hyphen/slash\\back", "(masterpiece:1.3), [x], ((y))",
    "naïve café über façade", "nai\u0308ve cafe\u0301", "Ångström ÇA ÖL", "İstanbul ıI ẞß ſ", "ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ",
    "Привет мир", "日本語の文字", "中文字符 一只猫", "한국어", "ﾊﾝｶｸ Ｆｕｌｌ ｗｉｄｔｈ", "हिन्दी नमस्ते", "עברית العربية",
    "😀 cat 🐱‍👤 👨‍👩‍👧", "🇩🇪 flag ❤️", "\u200bzero\u200dwidth\ufeff", "non\u00a0breaking\u2003em\u3000ideographic",
    "null\x00char", "\x01\x02 control\x1f \x7f\x85nel", "line\u2028sep\u2029para\x0b\x0c", "&amp; &lt;b&gt; &#39; &eacute;", "<b>html</b>",
    "<|endoftext|>", "<|startoftext|> a cat <|endoftext|>", "a<|endoftext|>b", "<|ENDOFTEXT|>", "<| endoftext |>", "<|endoftext", "a cat <|endoftext|> <|endoftext|>",
    "...", "!!!???", "a,b.c;d:e", "'s 't 're", "''''", "a's'll'dx", "“quotes” ‘single’ – — …", "½ ² ₃ Ⅷ ① ٣ ४", "€ £ ¥ © ™ °",
    "\U0001d54fmath \U00020000 \U0010ffff", "e\u0301\u0301\u0323 a\u030a", "\ufb01ligature \u212b \u2126", "ǅ ǆ ŉ ﬀ",
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "a cat " * 60, "dog, " * 37 + "dog", "1" * 80, "é" * 100, "word " * 74 + "last", "word " * 75 + "cut", "word " * 76,
    " leading", "trailing ", "\n", "\ttab", "-", "_", "\u0301", "a\u0000", "ﷺ", "\ud7a3\u1100\u1161\u11a8", "neon  punk,,  pixel art . line art",
]  # fmt: skip
LONG = ["a cat " * 60, "1" * 80, "é" * 100, "word " * 76, "a cat, a dog, " * 30]
ADDED = ["a <statue> of plasterwork", "Plasterwork <STATUE><statue>x plasterworks", "<statue>, <|endoftext|>plasterwork!"]
ENCODED = ["", "a cat", "a strawberry on a white background, 3d model", "<|startoftext|> a cat <|endoftext|>", "a cat " * 60]
POSITIONS = [0, 1, 2, 5, 9, 40, 76]


def padded(tokenizer, text):
    """As diffusers' pipelines ask for ids."""
    return tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def main():
    arguments = golden.arguments(__doc__.splitlines()[0])
    golden.hold_still()
    pipelines = {name: models.pipeline(name) for name in ("tiny-sd15", "tiny-sd21")}
    pipelines["default"] = models.default_pipeline(arguments.default_model)

    tokenizer = pipelines["default"].tokenizer
    words = CLIPTokenizer.from_pretrained(golden.MODELS / "tiny-words" / "tokenizer")
    case = {
        "texts": [{"text": text, "ids": tokenizer(text, max_length=77, truncation=True).input_ids} for text in TEXTS],
        "long": [{"text": text, "ids": tokenizer(text).input_ids} for text in LONG],
        "words": [{"text": text, "ids": words(text).input_ids} for text in TEXTS + ADDED],
        "padded": {},
        "encoded": ENCODED,
        "positions": POSITIONS,
    }
    tensors = {}
    for name, pipeline in pipelines.items():
        ids = [padded(pipeline.tokenizer, text) for text in ENCODED]
        case["padded"][name] = {text: row[0].tolist() for text, row in zip(ENCODED[:3], ids)}
        # One text at a time, so that no batched kernel can mix in.
        states = [pipeline.text_encoder(row)[0] for row in ids]
        tensors[f"states.{name}"] = torch.cat(states)[:, POSITIONS]
    golden.write("text", tensors, case)


if __name__ == "__main__":
    main()
