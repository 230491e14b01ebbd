"""What every program here shares: where the goldens lie, how they are written, and how torch is held still.

A golden file is a safetensors file of named float32 or int64 tensors. Its header holds one string of metadata, `case`:
JSON with whatever a reader needs to know besides the tensors. (One string and not several, since the order of several
is left to chance and the files would differ from run to run.)
"""

import argparse
import importlib.machinery
import json
import sys
import types
import warnings
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file

REFERENCE = Path(__file__).resolve().parent
GOLDENS = REFERENCE / "goldens"
MODELS = GOLDENS / "models"
DEFAULT_MODEL = REFERENCE.parent / "models" / "default"


def hold_still(threads=2):
    """CPU, float32, deterministic algorithms, no gradients; and quiet libraries."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)


def arguments(description):
    """The command line of the programs that use the embedded model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--default-model", type=Path, default=DEFAULT_MODEL, help="the embedded model's folder")
    return parser.parse_args()


def write(name, tensors, case):
    """Write `goldens/<name>.safetensors`."""
    path = GOLDENS / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {}
    for key, value in tensors.items():
        value = torch.as_tensor(value)
        kept[key] = value.to(torch.float32 if value.is_floating_point() else torch.int64).contiguous().clone()
    save_file(kept, path, metadata={"case": json.dumps(case, ensure_ascii=True, sort_keys=True)})
    print(f"{path.relative_to(REFERENCE)}  {path.stat().st_size} bytes")


def generator(seed):
    """Torch's CPU generator, the one random source of every golden."""
    return torch.Generator("cpu").manual_seed(seed)


def k_diffusion():
    """k-diffusion's `sampling` and `external`, without the rest of the package, which would import CLIP and wandb."""
    if "k_diffusion" not in sys.modules:
        spec = importlib.machinery.PathFinder.find_spec("k_diffusion")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["k_diffusion"] = package
    import k_diffusion.external
    import k_diffusion.sampling

    return k_diffusion.sampling, k_diffusion.external
