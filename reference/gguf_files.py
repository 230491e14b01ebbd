"""Write `goldens/gguf/`: files that stable-diffusion.cpp writes, and what their blocks mean.

The tensors are those of the tiny checkpoint `sd1` of `single_files.py`, converted by stable-diffusion.cpp itself (from
`stable-diffusion-cpp-python`, which builds it: CMake and some minutes; only this program needs it).

- `<type>.gguf`: three matrices of the checkpoint in this type; those whose rows are no whole blocks stay f16, as
  stable-diffusion.cpp leaves them.
- `mixed.gguf`: all matrices of its UNet and text encoder, in Q8_0, Q4_0 and Q6_K. What the file lacks, tests take from the formula.
- `renamed.json`: for the tiny checkpoints `sd2` and `sdxl` the names that its option `convert_name` changes, and what to.
- `values.json`: for each file and tensor the shape and the SHA-256 of its f32 values, dequantised by ggml's own Python package `gguf`.
"""

import gzip
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from safetensors.torch import save_file
from stable_diffusion_cpp import stable_diffusion_cpp as sd_cpp

import golden
from single_files import stored, values

FOLDER = golden.GOLDENS / "gguf"
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
WIDE = "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.weight"
FEW = [
    WIDE,
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.weight",
]


def renamed(model):
    """What names become with `convert_name`: tensors are told apart by their values."""
    manifest = json.loads(gzip.decompress((golden.GOLDENS / "single_files" / f"{model}.json.gz").read_bytes()))
    tensors, names = {entry[0]: stored(entry) for entry in manifest["tensors"]}, []
    for convert_name in (False, True):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            convert(tensors, file.name, "F16", convert_name=convert_name)
            hashes = {meant["sha256"]: name for name, meant in meaning(file.name)}
        names.append(hashes)
    before, after = names
    return dict(sorted((before[key], after[key]) for key in before if before[key] != after[key]))


def matrices():
    """The checkpoint's matrices, without the embeddings, which stable-diffusion.cpp leaves as they are."""
    manifest = json.loads(gzip.decompress((golden.GOLDENS / "single_files" / "sd1.json.gz").read_bytes()))
    return {
        name: values(part, names[0], shape)
        for name, part, names, shape, how in manifest["tensors"]
        if how == "whole" and len(shape) == 2 and "embedding" not in name
    }


def convert(tensors, target, kind, rules="", convert_name=True):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source)
        paths = [str(source).encode(), b"", str(target).encode()]
        assert sd_cpp.convert(*paths, GGMLQuantizationType[kind].value, rules.encode(), convert_name), target


def meaning(path):
    for tensor in GGUFReader(path).tensors:
        data = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        shape = [int(length) for length in reversed(tensor.shape)]
        assert list(data.shape) == shape, tensor.name
        yield tensor.name, dict(
            type=tensor.tensor_type.name, shape=shape, sha256=hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()
        )


def main():
    FOLDER.mkdir(exist_ok=True)
    tensors = matrices()
    for kind in TYPES:
        convert({name: tensors[name] for name in FEW}, FOLDER / f"{kind.lower()}.gguf", kind)
    rules = r"^model\.diffusion_model\.input=q4_0,^model\.diffusion_model\.middle_block.*ff\.net\.2\.weight=q6_K"
    convert(tensors, FOLDER / "mixed.gguf", "Q8_0", rules)
    names = {model: renamed(model) for model in ("sd2", "sdxl")}
    (FOLDER / "renamed.json").write_text(json.dumps(names, indent=1) + "\n")
    known = {path.stem: dict(sorted(meaning(path))) for path in sorted(FOLDER.glob("*.gguf"))}
    (FOLDER / "values.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
