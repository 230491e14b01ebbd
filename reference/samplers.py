"""Write `goldens/samplers/*.safetensors`: schedules and whole trajectories, from diffusers and k-diffusion.

`schedules`: two tables of noise, `sd15` and `zero_snr` (the same, rescaled to zero terminal SNR), four spacings
`leading0`, `leading1` (the number is steps_offset), `linspace`, `trailing`, and n in 1, 2, 5, 10, 20, 30, 50.
- `alphas_cumprod.<table>` [1000], as diffusers' DDIM has it (the last of `zero_snr` is 0; the sigma samplers clamp
  it to 2^-24).
- `ddim.<spacing>.<n>` [n] int64: DDIMScheduler's timesteps.
- `euler.<table>.<spacing>.<n>` [n + 1]: EulerDiscreteScheduler's sigmas, `.timesteps` [n] beside them.
- `k.<table>.<n>` [n + 1]: k-diffusion's `DiscreteSchedule.get_sigmas`, which is what `linspace` means for a K_* sampler.

`gaussian`: trajectories with the analytic denoiser x·s²/(s²+σ²), s = 0.7. `unet`: trajectories with the UNet of
`tiny-sd15` (epsilon, table sd15) and of `tiny-v` (the same weights read as v-prediction, table zero_snr), no guidance,
context `context.<table>`; timesteps of sigmas are interpolated, not rounded.
For each case `<c>`: `<c>.start`, the latent that the sampler is handed; `<c>.sigmas` [m + 1] (K_*) or `<c>.timesteps`
[m] int64 (DDIM; its start is in variance-preserving units); `<c>.x` [m, …], the latent after each step, the last one
being the result. The JSON tells table, sampler, spacing, n and strength of each case, and the seed of the torch
generator from which the ancestral sampler's noise is drawn, one [1, 4, 2, 4] a step.
"""

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

import golden
import models

COUNTS = (1, 2, 5, 10, 20, 30, 50)
SPACINGS = {
    "leading0": dict(timestep_spacing="leading", steps_offset=0),
    "leading1": dict(timestep_spacing="leading", steps_offset=1),
    "linspace": dict(timestep_spacing="linspace", steps_offset=0),
    "trailing": dict(timestep_spacing="trailing", steps_offset=0),
}
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
    "K_DPMPP_2M": k_sampling.sample_dpmpp_2m,
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


def k_sigmas(table, spacing, n):
    return discrete(table).get_sigmas(n) if spacing == "linspace" else euler(table, spacing, n).sigmas


def schedules():
    tensors = {f"alphas_cumprod.{table}": ddim(table, "linspace", 1).alphas_cumprod for table in TABLES}
    for n in COUNTS:
        for spacing in SPACINGS:
            tensors[f"ddim.{spacing}.{n}"] = ddim("sd15", spacing, n).timesteps
            for table in TABLES:
                scheduler = euler(table, spacing, n)
                tensors[f"euler.{table}.{spacing}.{n}"] = scheduler.sigmas
                tensors[f"euler.{table}.{spacing}.{n}.timesteps"] = scheduler.timesteps
        for table in TABLES:
            tensors[f"k.{table}.{n}"] = discrete(table).get_sigmas(n)
    golden.write("samplers/schedules", tensors, {"counts": COUNTS, "spacings": list(SPACINGS), "tables": list(TABLES)})


def k_trajectory(sampler, denoise, start, sigmas):
    """The latents after each step. Sigmas and latents are float64, the UNet float32: the reference's own error is nil."""
    before = []
    generator = golden.generator(NOISE_SEED)
    extra = {"noise_sampler": lambda *_: torch.randn(SHAPE, generator=generator).double()} if "ANCESTRAL" in sampler else {}
    keep = lambda state: before.append(state["x"])
    final = SAMPLERS[sampler](denoise, start.double(), sigmas.double(), callback=keep, disable=True, **extra)
    return torch.cat(before[1:] + [final])


def ddim_trajectory(scheduler, predict, start, timesteps):
    x, after = start, []
    for timestep in timesteps:
        x = scheduler.step(predict(x, timestep), timestep, x).prev_sample
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


def trajectories(name, denoisers, predictors, contexts, cases):
    """Run every case of every sampler. A denoiser takes (x, sigma), a predictor (variance-preserving x, timestep)."""
    tensors, described = {f"context.{table}": context for table, context in contexts.items()}, {}
    generator = golden.generator(5)
    for table, spacing, n, strength in cases:
        steps = steps_of(n, strength)
        noise, latent = (torch.randn(SHAPE, generator=generator) for _ in range(2))
        for sampler in SAMPLERS:
            case = f"{table}.{sampler}.{spacing}.{n}.{strength}"
            sigmas = k_sigmas(table, spacing, n)[n - steps :]
            start = noise * sigmas[0] + (latent if strength < 1 else 0)
            x = k_trajectory(sampler, denoisers[table], start, sigmas)
            tensors |= {f"{case}.start": start, f"{case}.sigmas": sigmas, f"{case}.x": x}
            described[case] = dict(table=table, sampler=sampler, spacing=spacing, n=n, strength=strength)
            if contexts and strength == 1 and spacing != "linspace" and sampler != "K_DPMPP_2M":
                agree(table, spacing, n, predictors[table].unet, contexts[table], start, x, sampler)
        scheduler = ddim(table, spacing, n)
        timesteps = scheduler.timesteps[n - steps :]
        start = scheduler.add_noise(latent, noise, timesteps[:1]) if strength < 1 else noise
        case = f"{table}.DDIM.{spacing}.{n}.{strength}"
        tensors |= {f"{case}.start": start, f"{case}.timesteps": timesteps}
        tensors[f"{case}.x"] = ddim_trajectory(scheduler, predictors[table], start, timesteps)
        described[case] = dict(table=table, sampler="DDIM", spacing=spacing, n=n, strength=strength)
    golden.write(f"samplers/{name}", tensors, {"cases": described, "noise_seed": NOISE_SEED, "scale": SCALE})


def gaussian_predictor(table):
    """The analytic denoiser as a network's output: x0 = √ā·s²/(ā·s² + 1 − ā) · x, finite at ā = 0 too."""
    alphas_cumprod = ddim(table, "linspace", 1).alphas_cumprod

    def predict(x, timestep):
        alpha = alphas_cumprod[timestep]
        x0 = x * alpha.sqrt() * SCALE**2 / (alpha * SCALE**2 + 1 - alpha)
        epsilon = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        return epsilon if PREDICTIONS[table] == "epsilon" else alpha.sqrt() * epsilon - (1 - alpha).sqrt() * x0

    return predict


def unet_predictor(unet, context):
    def predict(x, timestep):
        return unet(x.float(), timestep.float(), context).sample

    predict.unet = unet
    return predict


def main():
    golden.hold_still()
    schedules()

    gaussian = lambda x, sigma: x * SCALE**2 / (SCALE**2 + sigma.view(-1, 1, 1, 1) ** 2)
    grid = [(table, spacing, n, 1.0) for table in TABLES for spacing in ("linspace", "trailing") for n in (1, 10)]
    grid += [(table, "linspace", 20, 0.6) for table in TABLES] + [("sd15", "linspace", 40, 1.0)]
    trajectories("gaussian", dict.fromkeys(TABLES, gaussian), {t: gaussian_predictor(t) for t in TABLES}, {}, grid)

    unets = {"sd15": models.pipeline("tiny-sd15").unet, "zero_snr": models.pipeline("tiny-v").unet}
    generator = golden.generator(3)
    contexts = {table: torch.randn(1, 5, 32, generator=generator) for table in TABLES}
    wrappers = {"sd15": k_external.DiscreteEpsDDPMDenoiser, "zero_snr": k_external.DiscreteVDDPMDenoiser}
    predictors = {table: unet_predictor(unets[table], contexts[table]) for table in TABLES}
    denoisers = {
        table: wrappers[table](predictors[table], euler(table, "linspace", 1).alphas_cumprod, quantize=False)
        for table in TABLES
    }
    grid = [
        (table, spacing, n, strength)
        for table in TABLES
        for spacing in ("linspace", "leading1", "trailing")
        for n, strength in ((10, 1.0), (10, 0.6), (10, 0.1), (4, 1.0))
    ]
    trajectories("unet", denoisers, predictors, contexts, grid)


if __name__ == "__main__":
    main()
