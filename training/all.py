"""All stages in order. What is finished is not done again; what was broken off goes on.

    python training/all.py            many hours on two cores
    python training/all.py --smoke    every stage once, in a few minutes; the pictures are worth nothing

A stage that is done leaves a mark in work/done.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

# Program, its options, and those of a smoke run.
STAGES = [
    ("sources", "fetch", "fetch"),
    ("sprites", "", "--limit 48"),
    ("scenes", "--count 12000 --seed 1", "--count 160 --seed 1"),
    ("scenes", "--count 12000 --seed 2", "--count 160 --seed 2"),
    ("scenes", "--count 12000 --seed 3 --few varied", "--count 160 --seed 3 --few varied"),
    ("scenes", "--count 6000 --seed 4 --few same", "--count 160 --seed 4 --few same"),
    ("scenes", "--count 9000 --seed 5 --few pairs", "--count 160 --seed 5 --few pairs"),
    ("scenes", "--count 9000 --seed 6 --few moved", "--count 160 --seed 6 --few moved"),
    ("tokenizer", "", "--size 640"),
    ("text_encoder", "", "--steps 8"),
    ("vae", "", "--steps 6"),
    ("unet", "", "--steps 6"),
    ("unet", "--few", "--few --steps 4"),
    ("vae", "--decoder --steps 1400", "--decoder --steps 4 --guesses 64"),
    ("controlnet", "", "--steps 4"),
    ("lora", "plaster", "plaster --steps 4 --scenes 64"),
    ("lora", "pencil", "pencil --steps 4 --scenes 64"),
    ("lora", "pastel", "pastel --steps 4 --scenes 64"),
    ("export", "{work}/exported", "{work}/exported"),
    ("evaluate", "classifier", "classifier --steps 8"),
    ("evaluate", "table {work}/exported", "table {work}/exported --seeds 1 --steps 2"),
]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--smoke", action="store_true")
    args = options.parse_args()
    work = Path(os.environ.get("TRAINING_WORK", HERE / ("work-smoke" if args.smoke else "work")))
    (work / "done").mkdir(parents=True, exist_ok=True)
    for number, (program, full, smoke) in enumerate(STAGES, 1):
        mark = work / "done" / f"{number:02}-{program}"
        words = (smoke if args.smoke else full).format(work=work).split()
        if mark.exists():
            print(f"== {program} {' '.join(words)}: done", flush=True)
            continue
        print(f"== {program} {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, HERE / f"{program}.py", *words], check=True, env=os.environ | {"TRAINING_WORK": str(work)})
        mark.touch()


if __name__ == "__main__":
    main()
