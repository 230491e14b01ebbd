"""How a UNet step's cost grows with the picture and falls with the threads: a Markdown table on the standard output.

    python sizes.py PENTIMENTO [--random sd15] [--dtype bf16] [--sizes 256,384,512,768,1024] [--threads 1,2] [--runs 2]

Needs Python's standard library alone. Every figure is a median of `pentimento bench`, each size and number of threads in a
process of its own.
"""

import argparse
import json
import subprocess


def measure(typed, size, threads):
    command = [typed.pentimento, "bench", "--random", typed.random, "--dtype", typed.dtype, "--json"]
    command += ["--stages", "unet_step", "--size", f"{size}x{size}", "--threads", threads, "--runs", typed.runs]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told["stages"]["unet_step"], told["peak_rss_bytes"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pentimento")
    parser.add_argument("--random", default="sd15")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--sizes", default="256,384,512,768,1024")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--runs", default="2")
    typed = parser.parse_args()
    threads = typed.threads.split(",")
    print("| size | GFLOP | " + " | ".join(f"threads: {count} | GFLOP/s" for count in threads) + " | peak memory |")
    print("|---" * (3 + 2 * len(threads)) + "|")
    for size in typed.sizes.split(","):
        cells = []
        for count in threads:
            stage, peak = measure(typed, size, count)
            cells.append(f"{stage['median_s']:.2f} s | {stage['gflops']:.0f}")
        print(f"| {size}×{size} | {stage['gflop']:.0f} | " + " | ".join(cells) + f" | {peak / 2**30:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
