"""Pentimento and its peers on the same random weights, in turns, in one run; prints seconds and ratios.

    python compare.py FOLDER PENTIMENTO [--peers openvino-bf16,…] [--dtypes f32,bf16] [--stages unet_step,…] [--rounds N]
                      [--json FILE]

FOLDER comes from make.py, PENTIMENTO is the program's release build. A ratio is the peer's median over Pentimento's, so
above 1 Pentimento is faster. Errors are those of one UNet call, root mean square relative to PyTorch in f32.
FILE gets every figure of the run; draw.py makes the plot and the tables of it.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from safetensors.torch import load_file


class Peer:
    """A resident program."""

    def __init__(self, folder, name):
        self.name = name
        here = pathlib.Path(__file__).parent
        command = [sys.executable, here / "peer.py", folder, *name.split("-")]
        if name == "candle-f32":
            command = [here / "candle/target/release/pentimento-peer-candle", folder]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} ended at {line}")
        return float(answer)


class Pentimento:
    """Started anew for each measurement: its cold start is part of what is told."""

    def __init__(self, folder, program, dtype):
        self.name, self.folder, self.program, self.dtype = f"pentimento-{dtype}", folder, program, dtype
        self.last, self.cold_starts = {}, []

    def run(self, *options):
        common = [self.program, "bench", "--model", self.folder / "model", "--dtype", self.dtype]
        return subprocess.run([*common, *options], check=True, capture_output=True, text=True).stdout

    def ask(self, line):
        if line == "memory":
            return self.last["peak_rss_bytes"]
        if line == "out":
            goal = self.folder / f"{self.name}.safetensors"
            goal.unlink(missing_ok=True)
            self.run("--unet-io", self.folder / "inputs.safetensors", goal)
            return 0
        self.last = json.loads(self.run("--stages", line, "--runs", "3", "--json"))
        if line == "unet_step":
            self.cold_starts.append(self.last["cold_start_s"])
        return self.last["stages"][line]["median_s"]


def error(folder, name):
    expected = load_file(folder / "expected.safetensors")["out"]
    got = load_file(folder / f"{name}.safetensors")["out"]
    return ((got - expected).square().mean().sqrt() / expected.square().mean().sqrt()).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("pentimento", type=pathlib.Path)
    parser.add_argument("--peers", default="openvino-bf16,openvino-f32")
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--stages", default="unet_step,vae_decode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--errors", action="store_true", help="also the error of one UNet call")
    parser.add_argument("--json", type=pathlib.Path, help="also write every figure to this file")
    typed = parser.parse_args()
    ours = [Pentimento(typed.folder, typed.pentimento, dtype) for dtype in typed.dtypes.split(",")]
    peers = [Peer(typed.folder, name) for name in typed.peers.split(",") if name]
    figures = {"stages": {}, "peak_bytes": {}, "errors": {}}
    for stage in typed.stages.split(","):
        seconds = {one.name: [] for one in ours + peers}
        for _ in range(typed.rounds):
            for one in ours + peers:
                seconds[one.name].append(one.ask(stage))
        figures["stages"][stage] = seconds
        print(f"\n{stage:<12} median       " + "".join(f"over {one.name:<20}" for one in ours))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, median in medians.items():
            ratios = "".join(f"{median / medians[one.name]:<25.2f}" for one in ours)
            print(f"{name:<24} {median:8.3f} s   {ratios}", flush=True)
    for one in ours + peers:
        figures["peak_bytes"][one.name] = one.ask("memory")
        line = f"{one.name:<24} peak memory {figures['peak_bytes'][one.name] / 2**30:.2f} GiB"
        if typed.errors:
            one.ask("out")
            figures["errors"][one.name] = error(typed.folder, one.name)
            line += f", error {figures['errors'][one.name]:.1e}"
        if getattr(one, "cold_starts", None):
            line += f", cold start {statistics.median(one.cold_starts):.2f} s"
        print(line)
    if typed.json:
        typed.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
