"""One UNet step of SDXL by PyTorch at 1024×1024, both halves of the guidance, beside `pentimento bench --random sdxl`.

    python sdxl.py PENTIMENTO [--dtype bf16] [--rounds 1]

Each program makes up weights of its own. PyTorch's figure is its second step, channels last. Needs 12 GB of memory at a time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

THREADS, SIZE = 2, 1024


def torch_step(dtype):
    """Seconds of PyTorch's second step, in this process."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(THREADS)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8,
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    unet = unet.to(kind).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1 << 24, generator=generator)
    for name, parameter in unet.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        spread = parameter[0].numel() ** -0.5
        flat = parameter.data.view(-1)
        for piece in flat.split(len(noise)):
            piece.copy_(noise[: len(piece)] * spread)
    unet = unet.to(memory_format=torch.channels_last)
    sample = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=generator).to(kind).to(memory_format=torch.channels_last)
    context = torch.randn(2, 77, 2048, generator=generator).to(kind)
    added = {
        "text_embeds": torch.randn(2, 1280, generator=generator).to(kind),
        "time_ids": torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2, dtype=kind),
    }
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            out = unet(sample, torch.tensor([500.0]), context, added_cond_kwargs=added).sample
            took = time.perf_counter() - start
    if not out.float().isfinite().all():
        sys.exit("PyTorch's step is not finite")
    return took


def told_by(command):
    """The JSON that a program prints."""
    return json.loads(subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pentimento", help="the release build; `torch` runs PyTorch's step alone")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--rounds", type=int, default=1)
    typed = parser.parse_args()
    if typed.pentimento == "torch":
        took = torch_step(typed.dtype)
        print(json.dumps({"seconds": took, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    for _ in range(typed.rounds):
        bench = [typed.pentimento, "bench", "--random", "sdxl", "--dtype", typed.dtype, "--threads", THREADS, "--json"]
        ours = told_by([*bench, "--stages", "unet_step", "--runs", "1", "--size", f"{SIZE}x{SIZE}"])
        peer = told_by([sys.executable, __file__, "torch", "--dtype", typed.dtype])
        step = ours["stages"]["unet_step"]
        print(
            f"pentimento-{typed.dtype}: {step['median_s']:.2f} s ({step['gflops']:.0f} GFLOP/s), peak memory "
            f"{ours['peak_rss_bytes'] / 2**30:.2f} GiB\ntorch-{typed.dtype}: {peer['seconds']:.2f} s, ratio "
            f"{peer['seconds'] / step['median_s']:.2f}, peak memory {peer['peak_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
