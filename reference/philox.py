"""Write `goldens/philox.safetensors`: normal noise as `torch.randn` draws it on a CUDA device.

No CUDA device is needed: the generator is written here once more, in numpy and apart from the engine's. It is checked before
anything is written, against
- the known answers for philox4x32 with 10 rounds in `kat_vectors` of the authors' Random123 library;
- the values that AUTOMATIC1111's web UI gives in `rng_philox.py` for seed 0 and shape 3x4, observed on a CUDA device.

Torch gives each value of a draw a thread, whose number is the subsequence, and each draw an offset of 4 words, which is one
step of the counter; of the four normals that a counter makes a thread keeps the first. This holds while a draw has no more
values than the device has threads (221,184 on an A100); a latent of 1024x1024 pixels has 65,536.

Case: as in `noise.py`.
"""

import numpy
import torch

import golden
import noise

SEEDS = (0, 1, 42, 2**32 - 1, 2**32, 2**63 - 1)
SHAPES = [(1,), (5,), (16,), (3, 4), (1, 4, 8, 8)]
KNOWN_WORDS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
KNOWN_NORMALS = [
    [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
    [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
    [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
]


def philox(counter, key):
    """Ten rounds of Salmon et al. 2011, on columns of counters held in 64 bits."""
    counter, key = [numpy.asarray(word, numpy.uint64) for word in counter], [numpy.uint64(word) for word in key]
    low, shift = numpy.uint64(2**32 - 1), numpy.uint64(32)
    for round in range(10):
        first = counter[0] * numpy.uint64(0xD2511F53)
        second = counter[2] * numpy.uint64(0xCD9E8D57)
        counter = [
            (second >> shift) ^ counter[1] ^ key[0],
            second & low,
            (first >> shift) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + numpy.uint64(0x9E3779B9)) & low, (key[1] + numpy.uint64(0xBB67AE85)) & low]
    return counter


class Generator:
    """A CUDA generator of torch."""

    def __init__(self, seed):
        self.key, self.draws = (seed % 2**32, seed // 2**32), 0

    def randn(self, shape):
        index = numpy.arange(numpy.prod(shape), dtype=numpy.uint64)
        zero = numpy.zeros_like(index)
        words = philox([zero + numpy.uint64(self.draws), zero, index, zero], self.key)
        self.draws += 1
        length, angle = ((word.astype(numpy.float64) + 0.5) / 2**32 for word in words[:2])
        normal = numpy.sqrt(-2 * numpy.log(length)) * numpy.sin(2 * numpy.pi * angle)
        return torch.from_numpy(normal.astype(numpy.float32).reshape(shape))


def check():
    for counter, key, expected in KNOWN_WORDS:
        assert tuple(int(word) for word in philox(counter, key)) == expected, (counter, key)
    difference = (Generator(0).randn((3, 4)) - torch.tensor(KNOWN_NORMALS)).abs().max().item()
    assert difference < 1e-6, difference


def main():
    golden.hold_still()
    check()
    tensors, single, sequences = {}, {}, {}
    for seed in SEEDS:
        for shape in SHAPES:
            name = f"seed{seed}.{'x'.join(map(str, shape))}"
            tensors[name], single[name] = Generator(seed).randn(shape), {"seed": str(seed), "shape": shape}
        for name, shapes in noise.SEQUENCES.items() if seed == 42 else ():
            generator, prefix = Generator(seed), f"sequence.seed{seed}.{name}"
            sequences[prefix] = {"seed": str(seed), "shapes": shapes}
            for draw, shape in enumerate(shapes):
                tensors[f"{prefix}.{draw}"] = generator.randn(shape)
    golden.write("philox", tensors, {"single": single, "sequences": sequences})


if __name__ == "__main__":
    main()
