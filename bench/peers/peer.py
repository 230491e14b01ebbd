"""One peer, resident: runs a stage whenever a line asks for it, and answers with the seconds it took.

    python peer.py FOLDER {openvino,torch} {f32,bf16}

Lines are names of stages (`unet_step`, `vae_decode`, `vae_encode`, `text`), or `out` for the prediction that belongs to
FOLDER/inputs.safetensors, which is written to FOLDER/PROGRAM-PRECISION.safetensors; the answer to that is 0.
`memory` answers the process's peak in bytes.
"""

import multiprocessing
import pathlib
import resource
import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

THREADS = 2


class Unet(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep, context):
        return self.unet(sample, timestep, context, return_dict=False)[0]


class Decoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents):
        return self.vae.decode(latents, return_dict=False)[0]


class Encoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, pixels):
        return self.vae.quant_conv(self.vae.encoder(pixels))


class Text(torch.nn.Module):
    def __init__(self, text):
        super().__init__()
        self.text = text

    def forward(self, ids):
        return self.text(ids)[0]


def inputs_of(name, folder):
    """What a stage is called with."""
    generator = torch.Generator().manual_seed(1)
    if name == "unet_step":
        inputs = load_file(folder / "inputs.safetensors")
        return inputs["sample"], inputs["timestep"], inputs["context"]
    if name == "text":
        return (torch.randint(0, 49000, (2, 77), generator=generator),)
    shapes = {"vae_decode": (1, 4, 64, 64), "vae_encode": (1, 3, 512, 512)}
    return (torch.randn(*shapes[name], generator=generator),)


def network_of(name, model):
    """A stage's network, read in f32."""
    if name == "unet_step":
        return Unet(UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)).eval()
    if name == "text":
        return Text(CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)).eval()
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()
    return Decoder(vae) if name == "vae_decode" else Encoder(vae)


def convert(folder, name):
    """Writes a stage in OpenVINO's own form, with weights in f16 as they were stored."""
    import openvino

    network, example = network_of(name, folder / "model"), inputs_of(name, folder)
    converted = openvino.convert_model(network, example_input=example)
    converted.reshape({port: list(tensor.shape) for port, tensor in zip(converted.inputs, example)})
    openvino.save_model(converted, folder / "openvino" / f"{name}.xml", compress_to_fp16=True)


def with_openvino(folder, name, example, precision):
    import openvino

    path = folder / "openvino" / f"{name}.xml"
    if not path.exists():
        # In a process of its own, whose memory goes with it.
        child = multiprocessing.Process(target=convert, args=(folder, name))
        child.start()
        child.join()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    arrays = [tensor.numpy() for tensor in example]
    return lambda: torch.from_numpy(compiled(arrays)[0].copy())


def with_torch(folder, name, example, precision):
    network = network_of(name, folder / "model")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network = network.to(dtype=dtype, memory_format=torch.channels_last)

    def prepared(tensor):
        if not tensor.is_floating_point():
            return tensor
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        return tensor.to(dtype=dtype, memory_format=layout)

    arguments = [prepared(tensor) for tensor in example]
    return lambda: network(*arguments).float()


@torch.no_grad()
def main(folder, program, precision):
    torch.set_num_threads(THREADS)
    prepare = {"openvino": with_openvino, "torch": with_torch}[program]
    ready = {}
    for line in sys.stdin:
        asked = line.strip()
        if asked == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
            continue
        name = "unet_step" if asked == "out" else asked
        if name not in ready:
            ready[name] = prepare(folder, name, inputs_of(name, folder), precision)
            ready[name]()
        start = time.perf_counter()
        result = ready[name]()
        took = time.perf_counter() - start
        if asked == "out":
            save_file({"out": result.contiguous()}, str(folder / f"{program}-{precision}.safetensors"))
            took = 0
        print(took, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3])
