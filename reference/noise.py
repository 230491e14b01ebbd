"""Write `goldens/noise.safetensors`: normal noise as `torch.Generator("cpu")` draws it.

Torch has two algorithms: below 16 values a pair of normals at a time, whose second one stays in the generator for the
next small draw; from 16 values on a block-wise one. Each single case draws once from a fresh generator; each sequence
draws several times from one, small and large mixed.

Case: `{"single": {tensor: {"seed", "shape"}}, "sequences": {prefix: {"seed", "shapes"}}}`; the n-th draw of a sequence
is the tensor `<prefix>.<n>`. Seeds are strings, since 2^63-1 does not fit a JSON number everywhere.
"""

import torch

import golden

SEEDS = (0, 1, 42, 2**32 - 1, 2**32, 2**63 - 1)
SHAPES = [(1,), (2,), (5,), (15,), (16,), (17,), (31,), (32,), (1, 3, 5, 7), (1, 4, 8, 8), (1, 4, 16, 16)]
SEQUENCES = {
    "small": [(1,), (1,), (5,), (2,), (15,), (3,)],
    "odd_then_large": [(5,), (16,), (1,), (17,), (2,), (1, 4, 8, 8), (3,)],
    "large_then_small": [(31,), (7,), (24,), (1,), (1,)],
    "image_to_image": [(1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8)],
}


def main():
    golden.hold_still()
    tensors, single, sequences = {}, {}, {}
    for seed in SEEDS:
        # The two long shapes for one seed only: the algorithm is the same.
        for shape in SHAPES if seed == 42 else SHAPES[:-2]:
            name = f"seed{seed}.{'x'.join(map(str, shape))}"
            tensors[name] = torch.randn(shape, generator=golden.generator(seed))
            single[name] = {"seed": str(seed), "shape": shape}
    for seed in (0, 42):
        for name, shapes in SEQUENCES.items():
            generator, prefix = golden.generator(seed), f"sequence.seed{seed}.{name}"
            sequences[prefix] = {"seed": str(seed), "shapes": shapes}
            for draw, shape in enumerate(shapes):
                tensors[f"{prefix}.{draw}"] = torch.randn(shape, generator=generator)
    golden.write("noise", tensors, {"single": single, "sequences": sequences})


if __name__ == "__main__":
    main()
