"""What the stages share: the work folder, the noise schedule, the precision, and the loop of training steps.

A run is a pure function of its settings and its seed: the random numbers of a step come from the step's number, so that a run
that was broken off and goes on gives what it would have given in one piece.
"""

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

# Must be known before torch is loaded. glibc gives freed memory back to the system after each step, and a third of the time
# goes into taking it again: these settings make it keep the memory.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4000000000")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "8000000000")
os.environ.setdefault("MALLOC_TOP_PAD_", "268435456")

import numpy as np
import torch

SEED = 20251
SIDE = 128  # of the pictures
CELLS = SIDE // 8  # of the latents
WORK = Path(os.environ.get("TRAINING_WORK", Path(__file__).parent / "work"))
MODEL = WORK / "model"
LOGS = WORK / "logs"


def parser(description, **numbers):
    """Options with their defaults, and those that every training stage has."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, value in numbers.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--precision", choices=["auto", "f32", "bf16"], default="auto")
    return options


def begin(args):
    """Sets threads and seed."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    for folder in (WORK, MODEL, LOGS):
        folder.mkdir(parents=True, exist_ok=True)


def autocast(bf16):
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def fastest_precision(step, named="auto"):
    """Whether `step(bf16)`, a whole training step, should run under bfloat16: decided by this processor's own speed.

    Processors differ: with AMX or Zen 5's units bfloat16 is half as fast again, on others it is slower than float32.
    """
    if named != "auto":
        return named == "bf16"
    seconds = {}
    for bf16 in (False, True):
        step(bf16)
        seconds[bf16] = min(_seconds_of_cpu(lambda: step(bf16)) for _ in range(3))
    print(f"a step takes {seconds[False]:.2f} s of CPU in float32, {seconds[True]:.2f} s in bfloat16", flush=True)
    return seconds[True] < 0.9 * seconds[False]


def _seconds_of_cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def schedule():
    """The scheduler that the model is delivered with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class Noising:
    """Noisy latents, what the network should say of them, and how much that counts."""

    def __init__(self):
        self.kept = schedule().alphas_cumprod
        ratio = self.kept / (1 - self.kept).clamp(min=1e-9)
        # min-SNR weighting of v-prediction, moved by one so that the last step, where nothing of the picture is left, counts.
        self.weights = torch.minimum(ratio + 1, torch.tensor(5.0)) / (ratio + 1)

    def timesteps(self, count):
        """Spread evenly over the schedule, with as many again over its noisier part, where the words decide."""
        even = count // 2
        low, high = torch.rand(even) + torch.arange(even), torch.rand(count - even) + torch.arange(count - even)
        steps = torch.cat([low / even * 1000, 400 + high / (count - even) * 600]).long().clamp(0, 999)
        return steps[torch.randperm(count)]

    def noisy(self, latents, timesteps, noise):
        """The latents with noise, and v."""
        kept = self.kept[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise, kept.sqrt() * noise - (1 - kept).sqrt() * latents

    def loss(self, predicted, wanted, timesteps):
        return ((predicted.float() - wanted).pow(2).mean((1, 2, 3)) * self.weights[timesteps]).mean()


class Trainer:
    """AdamW with a warm-up and a cosine, an average of the weights, and a state that a run goes on from."""

    def __init__(self, name, network, args, parameters=None, memory=0.998, warm_up=100, decay=1e-3):
        self.name, self.network, self.args, self.memory, self.warm_up = name, network, args, memory, warm_up
        self.parameters = list(parameters if parameters is not None else network.parameters())
        # No average, and no copy of the network, where memory is 0.
        self.average = copy.deepcopy(network).requires_grad_(False) if memory else network
        own = {id(parameter): index for index, parameter in enumerate(network.parameters())}
        averaged = list(self.average.parameters())
        self.averaged = [averaged[own[id(parameter)]] for parameter in self.parameters] if memory else []
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        self.step, self.cpu_minutes = 0, 0.0
        self.state = WORK / f"{name}.state.pt"
        if self.state.exists():
            self._load()

    def run(self, loss, report=None, every=250):
        """`loss(random, bf16)` is that of one batch; `report()` says how it goes, in words, from time to time."""
        seed_of = lambda step: (SEED * 1_000_003 + step) % 2**31

        def measured(bf16):
            loss(np.random.default_rng(seed_of(0)), bf16).backward()
            self.optimizer.zero_grad(set_to_none=True)

        bf16 = self.step < self.args.steps and fastest_precision(measured, self.args.precision)
        running, start = None, time.process_time()
        while self.step < self.args.steps:
            torch.manual_seed(seed_of(self.step))
            for group in self.optimizer.param_groups:
                group["lr"] = self.args.rate * self._share()
            value = loss(np.random.default_rng(seed_of(self.step)), bf16)
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            self._average()
            running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
            if self.step % 50 == 0 or self.step == self.args.steps:
                now = time.process_time()
                self.cpu_minutes, start = self.cpu_minutes + (now - start) / 60, now
                print(f"{self.name} {self.step} of {self.args.steps}, {self.cpu_minutes:.1f} min of CPU, loss {running:.4f}", flush=True)
            if self.step % every == 0 or self.step == self.args.steps:
                self._save()
                self._log(running, report() if report else None)
                start = time.process_time()
        return self.average

    def _share(self):
        """The share of the learning rate at this step."""
        way = self.step / max(1, self.args.steps)
        return min(1, (self.step + 1) / self.warm_up) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * way)))

    @torch.no_grad()
    def _average(self):
        if self.averaged and self.step % 4 == 0:
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - min(self.memory, self.step / (self.step + 100)))

    def _save(self):
        state = {"step": self.step, "cpu_minutes": self.cpu_minutes, "optimizer": self.optimizer.state_dict()}
        state |= {"network": self.network.state_dict(), "average": self.average.state_dict()}
        partial = self.state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state)

    def _load(self):
        state = torch.load(self.state, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group |= {"fused": True, "foreach": None}
        self.step, self.cpu_minutes = state["step"], state["cpu_minutes"]
        print(f"{self.name} goes on at step {self.step}", flush=True)

    def _log(self, running, report):
        line = {"step": self.step, "cpu_minutes": round(self.cpu_minutes, 2), "loss": round(running, 5), "report": report}
        if report:
            print(f"{self.name} {report}", flush=True)
        with open(LOGS / f"{self.name}.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")


def pictures_to_tensor(pictures):
    """`[N, H, W, 3]` bytes to `[N, 3, H, W]` from -1 to 1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def tensor_to_pictures(tensor):
    return ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def sheet(rows, path, scale=1):
    """Writes rows of pictures of one size as one PNG."""
    from PIL import Image

    whole = Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.resize((whole.width * scale, whole.height * scale), Image.NEAREST).save(path)
