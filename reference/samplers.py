"""Write `goldens/samplers/*.safetensors`: schedules and whole trajectories, from diffusers and k-diffusion.

`schedules`: two tables of noise, `sd15` and `zero_snr` (the same, rescaled to zero terminal SNR), four spacings
`leading0`, `leading1` (the number is steps_offset), `linspace`, `trailing`, and n in 1, 2, 5, 10, 20, 30, 50.
- `alphas_cumprod.<table>` [1000], as diffusers' DDIM has it (the last of `zero_snr` is 0; the sigma samplers clamp
  it to 2^-24).
- `ddim.<spacing>.<n>` [n] int64: DDIMScheduler's timesteps.
- `euler.<table>.<spacing>.<n>` [n + 1]: EulerDiscreteScheduler's sigmas, `.timesteps` [n] beside them.
- `k.<table>.<n>` [n + 1]: k-diffusion's `DiscreteSchedule.get_sigmas`, which is what `linspace` means for a K_* sampler.

- `k.<table>.karras.<n>`, `k.<table>.exponential.<n>` [n + 1]: k-diffusion's functions over the table's whole range, in
  float64. `unipc.<table>.<spacing>.<n>` [n + 1]: UniPCMultistepScheduler's sigmas. `lcm.<n>` [n]: LCMScheduler's timesteps,
  for every n from 1 to 50.

`gaussian`: trajectories with the analytic denoiser x·s²/(s²+σ²), s = 0.7. `unet`: trajectories with the UNet of
`tiny-sd15` (epsilon, table sd15) and of `tiny-v` (the same weights read as v-prediction, table zero_snr), no guidance,
context `context.<table>`; timesteps of sigmas are interpolated, not rounded.
`latent` and `noise` [1, 4, 2, 4] are what every case starts from: noise alone at strength 1, else the latent noised.
For each case `<c>` = `<table>.<sampler>.<schedule>.<n>.<strength>`, with a further `.<option>` in `options`: `<c>` [3, …],
the latent after the first, the middle and the last step (fewer where the steps are fewer). Latents of DDIM, DDPM, LCM and
UniPC are variance-preserving. In steps that draw, one [1, 4, 2, 4] a draw comes from the torch generator of `noise_seed`.
The JSON tells `cases`: their names, in `options` with the settings.

K_* samplers are k-diffusion's, with its noise replaced by the generator's. DDIM, DDPM and LCM are diffusers' over whole
timesteps, in float64 around a float32 UNet like the others.
Over sigmas (`karras`, `exponential`), where diffusers has none, DDIM and DDPM are k-diffusion's Euler and ancestral Euler in
variance-preserving units, and LCM is written out here. UniPC is diffusers' everywhere.
"""

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_lcm

import golden
import models

COUNTS = (1, 2, 5, 10, 20, 30, 50)
SPACINGS = {
    "leading0": dict(timestep_spacing="leading", steps_offset=0),
    "leading1": dict(timestep_spacing="leading", steps_offset=1),
    "linspace": dict(timestep_spacing="linspace", steps_offset=0),
    "trailing": dict(timestep_spacing="trailing", steps_offset=0),
}
SCHEDULES = ("linspace", "leading1", "trailing", "karras", "exponential")
OF_SIGMAS = ("karras", "exponential")
BETAS = {key: models.SD15_SCHEDULER[key] for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
TABLES = {"sd15": dict(rescale_betas_zero_snr=False), "zero_snr": dict(rescale_betas_zero_snr=True)}
PREDICTIONS = {"sd15": "epsilon", "zero_snr": "v_prediction"}
SHAPE = (1, 4, 2, 4)
NOISE_SEED = 1234
SCALE = 0.7  # s, the standard deviation of the analytic data
k_sampling, k_external = golden.k_diffusion()
SAMPLERS = {
    "K_EULER": k_sampling.sample_euler,
    "K_EULER_ANCESTRAL": k_sampling.sample_euler_ancestral,
    "K_HEUN": k_sampling.sample_heun,
    "K_DPM_2": k_sampling.sample_dpm_2,
    "K_DPM_2_ANCESTRAL": k_sampling.sample_dpm_2_ancestral,
    "K_LMS": k_sampling.sample_lms,
    "K_DPMPP_2M": k_sampling.sample_dpmpp_2m,
    "K_DPMPP_2S_ANCESTRAL": k_sampling.sample_dpmpp_2s_ancestral,
    "K_DPMPP_SDE": k_sampling.sample_dpmpp_sde,
    "K_DPMPP_2M_SDE": k_sampling.sample_dpmpp_2m_sde,
}


def euler(table, spacing, n, cls=EulerDiscreteScheduler):
    scheduler = cls(**BETAS, **TABLES[table], **SPACINGS[spacing], prediction_type=PREDICTIONS[table])
    scheduler.set_timesteps(n)
    return scheduler


def ddim(table, spacing, n):
    fixed = dict(clip_sample=False, set_alpha_to_one=False, prediction_type=PREDICTIONS[table])
    scheduler = DDIMScheduler(**BETAS, **TABLES[table], **SPACINGS[spacing], **fixed)
    scheduler.set_timesteps(n)
    return scheduler


def discrete(table):
    """k-diffusion's schedule over the clamped table."""
    alphas_cumprod = euler(table, "linspace", 1).alphas_cumprod
    return k_external.DiscreteSchedule(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, quantize=False)


def k_sigmas(table, schedule, n):
    levels = discrete(table)
    if schedule == "linspace":
        return levels.get_sigmas(n)
    if schedule in OF_SIGMAS:
        make = {"karras": k_sampling.get_sigmas_karras, "exponential": k_sampling.get_sigmas_exponential}[schedule]
        torch.set_default_dtype(torch.float64)
        sigmas = make(n, levels.sigma_min.item(), levels.sigma_max.item())
        torch.set_default_dtype(torch.float32)
        return sigmas
    return euler(table, schedule, n).sigmas


def unipc(table, schedule, n):
    spacing = SPACINGS.get(schedule, {}) | {f"use_{schedule}_sigmas": True for _ in [0] if schedule in OF_SIGMAS}
    fixed = dict(prediction_type=PREDICTIONS[table], solver_type="bh2", solver_order=2)
    scheduler = UniPCMultistepScheduler(**BETAS, **TABLES[table], **spacing, **fixed)
    scheduler.set_timesteps(n)
    return scheduler


def lcm(table, schedule, n):
    scheduler = LCMScheduler(**BETAS, **TABLES[table], clip_sample=False, prediction_type=PREDICTIONS[table])
    if schedule == "trailing":
        scheduler.set_timesteps(n)
    else:
        scheduler.set_timesteps(timesteps=ddim(table, schedule, n).timesteps.tolist())
    return scheduler


def ddpm(table, schedule, n):
    fixed = dict(clip_sample=False, prediction_type=PREDICTIONS[table])
    scheduler = DDPMScheduler(**BETAS, **TABLES[table], **SPACINGS[schedule], **fixed)
    scheduler.set_timesteps(n)
    return scheduler


def schedules():
    tensors = {f"alphas_cumprod.{table}": ddim(table, "linspace", 1).alphas_cumprod for table in TABLES}
    for n in COUNTS:
        for spacing in SPACINGS:
            tensors[f"ddim.{spacing}.{n}"] = ddim("sd15", spacing, n).timesteps
            for table in TABLES:
                scheduler = euler(table, spacing, n)
                tensors[f"euler.{table}.{spacing}.{n}"] = scheduler.sigmas
                tensors[f"euler.{table}.{spacing}.{n}.timesteps"] = scheduler.timesteps
                tensors[f"unipc.{table}.{spacing}.{n}"] = unipc(table, spacing, n).sigmas
        for table in TABLES:
            tensors[f"k.{table}.{n}"] = discrete(table).get_sigmas(n)
            for schedule in OF_SIGMAS:
                tensors[f"k.{table}.{schedule}.{n}"] = k_sigmas(table, schedule, n)
    tensors |= {f"lcm.{n}": lcm("sd15", "trailing", n).timesteps for n in range(1, 51)}
    golden.write("samplers/schedules", tensors, {"counts": COUNTS, "spacings": list(SPACINGS), "tables": list(TABLES)})


class Draws:
    """The generator's noise, for every way in which k-diffusion asks for some."""

    def __init__(self):
        self.generator = golden.generator(NOISE_SEED)

    def __call__(self, *_):
        return torch.randn(SHAPE, generator=self.generator).double()


def k_trajectory(sampler, denoise, start, sigmas, **options):
    """The latents after each step. Sigmas and latents are float64, the UNet float32: the reference's own error is nil."""
    if sampler == "K_DPMPP_2M_SDE" and len(sigmas) == 2:
        # k-diffusion's function fails in a single step, whose result is the expected latent whatever the solver.
        return denoise(start.double(), sigmas[:1].double())
    before, draws = [], Draws()
    takes_sampler = any(word in sampler for word in ("ANCESTRAL", "SDE"))
    extra = {"noise_sampler": draws} if takes_sampler else {}
    keep = lambda state: before.append(state["x"])
    churned, k_sampling.torch = k_sampling.torch, Patched(draws)
    final = SAMPLERS[sampler](denoise, start.double(), sigmas.double(), callback=keep, disable=True, **extra, **options)
    k_sampling.torch = churned
    # What the callback sees is the latent before the step, in churning samplers with the noise put back.
    if options.get("s_churn"):
        return final
    return torch.cat(before[1:] + [final])


class Patched:
    """torch, but for `randn_like`."""

    def __init__(self, draws):
        self.randn_like = draws

    def __getattr__(self, name):
        return getattr(torch, name)


def preserving(x, sigmas):
    """Trajectories of exploding latents in variance-preserving units."""
    return x / (1 + sigmas[1:].view(-1, 1, 1, 1) ** 2) ** 0.5


def diffusers_trajectory(scheduler, predict, start, timesteps, **options):
    """The latents after each step of DDIM, DDPM, LCM or UniPC."""
    after, draws = [], golden.generator(NOISE_SEED)
    # As in k_trajectory, the schedule's float32 values in float64: a single step from the last timestep subtracts what float32
    # holds to 1e-4 only.
    x = start.double()
    for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).double())
    if hasattr(scheduler, "set_begin_index") and not isinstance(scheduler, DDIMScheduler):
        scheduler.set_begin_index(len(scheduler.timesteps) - len(timesteps))
    if not isinstance(scheduler, UniPCMultistepScheduler):
        options["generator"] = draws
    for index, timestep in enumerate(timesteps):
        level = scheduler.sigmas[len(scheduler.timesteps) - len(timesteps) + index] if "generator" not in options else None
        x = scheduler.step(predict(x, timestep, level), timestep, x, **options).prev_sample
        after.append(x)
    return torch.cat(after)


def drawn_in_float32(shape, generator=None, dtype=None, **_):
    """Noise of whatever type from the float32 numbers of the generator: torch draws others in float64."""
    return torch.randn(shape, generator=generator).to(dtype)


for module in (scheduling_ddim, scheduling_ddpm, scheduling_lcm):
    module.randn_tensor = drawn_in_float32


def lcm_trajectory(table, denoise, start, sigmas):
    """Consistency sampling over sigmas, in variance-preserving units."""
    x, after, draws, levels = start.double(), [], Draws(), discrete(table)
    sigmas = sigmas.double()
    for sigma, following in zip(sigmas, sigmas[1:]):
        scale = (1 + sigma**2) ** 0.5
        expected = denoise(x * scale, sigma.view(1)).double()
        scaled = levels.sigma_to_t(sigma.float().view(1)).double() * 10
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        x = out * expected + skip * x
        if following > 0:
            x = (x + following * draws()) / (1 + following**2) ** 0.5
        after.append(x)
    return torch.cat(after)


def agree(table, spacing, n, unet, context, start, expected, sampler):
    """Check that diffusers' Euler schedulers go k-diffusion's way, where both take the same timesteps."""
    cls = {"K_EULER": EulerDiscreteScheduler, "K_EULER_ANCESTRAL": EulerAncestralDiscreteScheduler}[sampler]
    scheduler, x, generator = euler(table, spacing, n, cls), start, golden.generator(NOISE_SEED)
    for timestep in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(x, timestep), timestep, context).sample
        x = scheduler.step(output, timestep, x, generator=generator).prev_sample
    error = (x - expected[-1]).abs().max().item()
    assert error < 1e-3 * expected[-1].std(), (table, spacing, sampler, error)


def steps_of(n, strength):
    return min(int(n * strength), n)


class Runner:
    """Every sampler on one kind of denoiser: `denoisers` take (x, sigma), `predictors` (x, timestep, sigma) in
    variance-preserving units, the sigma being UniPC's."""

    def __init__(self, denoisers, predictors, contexts):
        generator = golden.generator(5)
        self.noise, self.latent = (torch.randn(SHAPE, generator=generator) for _ in range(2))
        self.denoisers, self.predictors, self.contexts = denoisers, predictors, contexts
        self.tensors = {f"context.{table}": context for table, context in contexts.items()}
        self.tensors |= {"noise": self.noise, "latent": self.latent}

    def started(self, scheduler, timesteps, strength):
        return scheduler.add_noise(self.latent, self.noise, timesteps[:1]) if strength < 1 else self.noise

    def run(self, table, sampler, schedule, n, strength, **options):
        steps, make = steps_of(n, strength), {"DDIM": ddim, "DDPM": ddpm, "LCM": lcm, "UNIPC": unipc}.get(sampler)
        if make and (sampler == "UNIPC" or schedule not in OF_SIGMAS):
            scheduler = make(table, schedule, n)
            timesteps = scheduler.timesteps[n - steps :]
            if sampler == "UNIPC":
                scheduler.set_begin_index(n - steps)
            start = self.started(scheduler, timesteps, strength)
            return diffusers_trajectory(scheduler, self.predictors[table], start, timesteps, **options)
        sigmas = k_sigmas(table, schedule, n)[n - steps :]
        start = self.noise * sigmas[0] + (self.latent if strength < 1 else 0)
        if sampler == "LCM":
            start = self.noise if strength == 1 else start / (1 + sigmas[0] ** 2) ** 0.5
            return lcm_trajectory(table, self.denoisers[table], start, sigmas)
        if make:
            start = self.noise * (1 + sigmas[0] ** 2) ** 0.5 if strength == 1 else start
            options = {} if sampler == "DDIM" and not options else {"eta": 1.0} | options
            name = "K_EULER_ANCESTRAL" if options else "K_EULER"
            return preserving(k_trajectory(name, self.denoisers[table], start, sigmas, **options), sigmas)
        x = k_trajectory(sampler, self.denoisers[table], start, sigmas, **options)
        spaced = schedule in ("leading1", "trailing") and strength == 1 and not options
        if self.contexts and spaced and sampler in ("K_EULER", "K_EULER_ANCESTRAL"):
            agree(table, schedule, n, self.predictors[table].unet, self.contexts[table], start, x, sampler)
        return x

    def keep(self, name, x):
        self.tensors[name] = x[sorted({0, len(x) // 2, len(x) - 1})]

    def grid(self, counts):
        for table in TABLES:
            for schedule in SCHEDULES:
                for n, strength in counts:
                    for sampler in ("DDIM", "DDPM", "LCM", "UNIPC", *SAMPLERS):
                        x = self.run(table, sampler, schedule, n, strength)
                        self.keep(f"{table}.{sampler}.{schedule}.{n}.{strength}", x)

    def write(self, name, more=()):
        cases = [name for name in self.tensors if name.split(".")[0] in TABLES]
        golden.write(f"samplers/{name}", self.tensors, {"cases": cases, "noise_seed": NOISE_SEED, "scale": SCALE} | dict(more))


# Settings in k-diffusion's names; churn is kept out of the first and the last sigmas.
OPTIONS = {
    "eta_half": dict(eta=0.5),
    "eta_none": dict(eta=0.0),
    "quiet": dict(s_noise=0.9),
    "churn": dict(s_churn=4.0, s_tmin=0.1, s_tmax=9.0, s_noise=1.01),
    "most_churn": dict(s_churn=40.0),
}
TAKEN = {
    "DDIM": ("eta_half", "eta_none"),
    "K_EULER": ("churn", "most_churn"),
    "K_HEUN": ("churn", "most_churn"),
    "K_DPM_2": ("churn", "most_churn"),
    "K_EULER_ANCESTRAL": ("eta_half", "eta_none", "quiet"),
    "K_DPM_2_ANCESTRAL": ("eta_half", "eta_none", "quiet"),
    "K_DPMPP_2S_ANCESTRAL": ("eta_half", "eta_none", "quiet"),
    "K_DPMPP_SDE": ("eta_half", "eta_none", "quiet"),
    "K_DPMPP_2M_SDE": ("eta_half", "eta_none", "quiet"),
}


def options(runner):
    for table in TABLES:
        for schedule in ("trailing", "karras"):
            for sampler, names in TAKEN.items():
                for name in names:
                    x = runner.run(table, sampler, schedule, 10, 0.6, **OPTIONS[name])
                    # A churned latent between two steps is not seen; a file holds the last one for all.
                    runner.keep(f"{table}.{sampler}.{schedule}.10.0.6.{name}", x[-1:])
    runner.write("options", {"options": OPTIONS})


def gaussian_predictor(table):
    """The analytic denoiser as a network's output: x0 = √ā·s²/(ā·s² + 1 − ā) · x, finite at ā = 0 too."""
    alphas_cumprod = ddim(table, "linspace", 1).alphas_cumprod

    def predict(x, timestep, sigma=None):
        alpha = alphas_cumprod[timestep] if sigma is None else 1 / (1 + sigma**2)
        x0 = x * alpha.sqrt() * SCALE**2 / (alpha * SCALE**2 + 1 - alpha)
        epsilon = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return epsilon if PREDICTIONS[table] == "epsilon" else alpha.sqrt() * epsilon - (1 - alpha).sqrt() * x0

    return predict


def unet_predictor(unet, context):
    def predict(x, timestep, sigma=None):
        return unet(x.float(), timestep.float(), context).sample

    predict.unet = unet
    return predict


def main():
    golden.hold_still()
    schedules()

    gaussian = lambda x, sigma: x * SCALE**2 / (SCALE**2 + sigma.view(-1, 1, 1, 1) ** 2)
    analytic = dict.fromkeys(TABLES, gaussian), {table: gaussian_predictor(table) for table in TABLES}, {}
    runner = Runner(*analytic)
    runner.grid([(10, 1.0), (10, 0.6), (10, 0.1), (1, 1.0)])
    runner.write("gaussian")
    options(Runner(*analytic))

    unets = {"sd15": models.pipeline("tiny-sd15").unet, "zero_snr": models.pipeline("tiny-v").unet}
    generator = golden.generator(3)
    contexts = {table: torch.randn(1, 5, 32, generator=generator) for table in TABLES}
    wrappers = {"sd15": k_external.DiscreteEpsDDPMDenoiser, "zero_snr": k_external.DiscreteVDDPMDenoiser}
    predictors = {table: unet_predictor(unets[table], contexts[table]) for table in TABLES}
    denoisers = {
        table: wrappers[table](predictors[table], euler(table, "linspace", 1).alphas_cumprod, quantize=False)
        for table in TABLES
    }
    runner = Runner(denoisers, predictors, contexts)
    runner.grid([(10, 1.0), (10, 0.6), (10, 0.1)])
    runner.write("unet")


if __name__ == "__main__":
    main()
