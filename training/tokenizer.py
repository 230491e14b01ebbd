"""Stage 4: the tokenizer, in the file format of CLIP's (`vocab.json`, `merges.txt`), with the captions' own words.

    python training/tokenizer.py [--size 4096]

Byte-level pair encoding: 256 bytes, the same ending a word, the merges, and the two marks of start and end.
"""

import json
import re
from collections import Counter, defaultdict

from common import MODEL, WORK, begin, parser
from scenes import pools
from words import SYNONYMS

START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", re.I)
# Words that prompts use and these captions do not; each gets merges as if it stood in 40 of them.
EXTRA = """analog film anime cinematic comic book digital art enhance fantasy isometric line low poly modeling compound neon punk origami
photographic pixel tile texture white plaster statue sculpture marble pencil pastel sketch drawing portrait landscape man woman boy girl
person people water fire light dark big small little old new red green blue not no blurry bad ugly low quality worst watermark text logo
signature deformed a an the of on in at with and to from"""


def _visible():
    """CLIP's table of bytes as printable characters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    table |= {byte: chr(256 + place) for place, byte in enumerate(byte for byte in range(256) if byte not in table)}
    # CLIP numbers them in this order.
    return {byte: table[byte] for byte in [*plain, *(byte for byte in range(256) if byte not in plain)]}


VISIBLE = _visible()


def split(text):
    return ["".join(VISIBLE[byte] for byte in piece.encode()) for piece in PIECES.findall(text.lower())]


def counted():
    counts = Counter()
    for about in pools()[1]:
        counts.update(split(about["caption"]))
    weighted = [(" ".join([thing["name"], *thing["words"]]), 20) for thing in json.loads((WORK / "sprites.json").read_text())]
    weighted += [(EXTRA, 40), *((name, 200) for names in SYNONYMS.values() for name in names)]
    for text, weight in weighted:
        for word in split(text):
            counts[word] += weight
    return counts


def merges_of(counts, wanted):
    """The pairs to merge, the most frequent first; of equally frequent ones the last in the alphabet."""
    parts = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    pairs, places = Counter(), defaultdict(set)
    for word, symbols in parts.items():
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += counts[word]
            places[pair].add(word)
    merges = []
    while len(merges) < wanted:
        best, frequency = max(pairs.items(), key=lambda item: (item[1], item[0]), default=(None, 0))
        if frequency <= 0:
            break
        merges.append(best)
        for word in places[best]:
            old = parts[word]
            new = merged(old, best)
            for pair in zip(old, old[1:]):
                pairs[pair] -= counts[word]
            for pair in zip(new, new[1:]):
                pairs[pair] += counts[word]
                if pair != best:
                    places[pair].add(word)
            parts[word] = new
        del pairs[best], places[best]
    return merges


def merged(symbols, pair):
    out, at = [], 0
    while at < len(symbols):
        here = symbols[at : at + 2] == pair
        out.append(symbols[at] + symbols[at + 1] if here else symbols[at])
        at += 2 if here else 1
    return tuple(out)


class Tokenizer:
    """Text to 77 ids, as `CLIPTokenizer` gives them for these files."""

    def __init__(self, folder=MODEL / "tokenizer"):
        self.ids = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text(encoding="utf8").splitlines()[1:]
        self.ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
        self.end, self.known = self.ids[END], {}

    def word(self, word):
        if word not in self.known:
            symbols = (*word[:-1], word[-1] + "</w>")
            while len(symbols) > 1:
                best = min(zip(symbols, symbols[1:]), key=lambda pair: self.ranks.get(pair, 1 << 30))
                if best not in self.ranks:
                    break
                symbols = merged(symbols, best)
            self.known[word] = [self.ids[symbol] for symbol in symbols]
        return self.known[word]

    def __call__(self, text, length=77):
        ids = [id for word in split(text) for id in self.word(word)][: length - 2]
        ids = [self.ids[START], *ids, self.end]
        return ids + [self.end] * (length - len(ids))


def main():
    args = parser(__doc__, size=4096).parse_args()
    begin(args)
    counts = counted()
    merges = merges_of(counts, args.size - 2 * 256 - 2)
    symbols = [*VISIBLE.values(), *(character + "</w>" for character in VISIBLE.values()), *(one + other for one, other in merges)]
    # Two pairs can give the same word; its later number would leave a gap.
    vocabulary = {symbol: id for id, symbol in enumerate(dict.fromkeys([*symbols, START, END]))}
    folder = MODEL / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in merges), encoding="utf8")
    marks = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | marks, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    print(f"{len(counts)} words, {len(vocabulary)} tokens")


if __name__ == "__main__":
    main()
