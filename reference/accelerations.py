"""Write `goldens/accelerations/`: pictures that are drawn faster, from loops by hand around diffusers' UNet.

`cases.json` and `latents.safetensors` are as those of `pipelines/`, whose inputs the cases name. A case has one field more for each
acceleration:
- `guidance_interval` (`START:END`): both halves are computed in the steps in which diffusers' `ClassifierFreeGuidance` with these
  `start` and `stop` computes them, of the steps that are run; in the others the positive half is the prediction.
- `step_cache` (`N:BRANCH`): the UNet is run by the `DeepCacheSDHelper` of the DeepCache authors' package (`DeepCache`), told the steps
  from here. Beyond it: a step for which a half is missing is whole, a step that needs the positive half alone takes that of
  both, and control networks are run whole in every step (the residuals of what is not run change nothing).
- `token_merging` (a ratio): the blocks of the finest level that attends to itself merge tokens with the matching of the ToMe authors'
  package (`tomesd`), on what comes into the block, and merge what the self-attention sees. The package draws with torch; here the
  token of each cell of 2x2 that takes others in is the upper two bits of the first word of Philox 4x32-10: key the request's
  seed, counter the cell (row by row), the layer (transformer blocks in the order down, middle, up), the step, 0.

Steps of samplers that call the network twice count once. `control` names a network of `controls/`, which is shown the input
`hint` in every step.
"""

import functools
import json
import shutil
import types
import unittest.mock

import numpy
import tomesd
import torch
from DeepCache import DeepCacheSDHelper
from diffusers import ControlNetModel
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

import golden
import philox
import pipeline_cases
import pipelines
import samplers

FOLDER = golden.GOLDENS / "accelerations"


OWN = dict(guidance_interval=None, step_cache=None, token_merging=None, control=None, hint=None)


def case(name, sampler, steps, model="tiny-sd15", **fields):
    own = {field: fields.pop(field) for field in OWN if field in fields}
    return pipeline_cases.case(name, model, sampler, steps, **fields) | OWN | own


CONTROL = dict(control="canny", hint="init_64x64")
CASES = [
    case("interval_ddim_10", "DDIM", 10, guidance_interval="0.2:0.8"),
    case("interval_ddim_10_late", "DDIM", 10, guidance_interval="0.5:1", cfg=4.0),
    case("interval_euler_7", "K_EULER", 7, guidance_interval="0.3:0.7"),
    case("interval_none_of_4", "DDIM", 4, guidance_interval="0.3:0.4"),
    case("interval_heun_6", "K_HEUN", 6, guidance_interval="0.2:0.7", spacing="linspace"),
    case("interval_image_10", "DDIM", 10, guidance_interval="0.2:0.6", strength=0.6, **pipeline_cases.INIT),
    case("interval_masked_10", "K_EULER", 10, guidance_interval="0:0.5", strength=0.8, **pipeline_cases.LOOSE),
    case("cache_ddim_10", "DDIM", 10, step_cache="3:0"),
    case("cache_ddim_10_branch_1", "DDIM", 10, step_cache="3:1"),
    case("cache_ddim_10_branch_2", "DDIM", 10, step_cache="4:2"),
    case("cache_ddim_8_all_but_the_middle", "DDIM", 8, step_cache="2:3"),
    case("cache_euler_a_9", "K_EULER_ANCESTRAL", 9, step_cache="2:0", cfg=1.0),
    case("cache_heun_7", "K_HEUN", 7, step_cache="3:1", spacing="linspace"),
    case("cache_image_10", "DDIM", 10, step_cache="3:0", strength=0.6, **pipeline_cases.INIT),
    case("cache_masked_10", "K_EULER", 10, step_cache="2:1", strength=0.8, **pipeline_cases.LOOSE),
    case("cache_control_8", "DDIM", 8, step_cache="3:1", **CONTROL),
    case("cache_interval_10", "DDIM", 10, step_cache="4:0", guidance_interval="0.2:0.7"),
    case("cache_default_10", "DDIM", 10, model="default", step_cache="3:0", prompts=pipeline_cases.STRAWBERRY, cfg=4.0),
    case("merging_ddim_8", "DDIM", 8, token_merging=0.5),
    case("merging_ddim_8_most", "DDIM", 8, token_merging=0.75, seed=2**40 + 5, **pipeline_cases.WIDE),
    case("merging_euler_a_6_odd", "K_EULER_ANCESTRAL", 6, token_merging=0.3, width=72, height=88, cfg=1.0),
    case("merging_heun_5", "K_HEUN", 5, token_merging=0.4, spacing="linspace"),
    case("merging_masked_10", "K_EULER", 10, token_merging=0.5, strength=0.8, **pipeline_cases.LOOSE),
    case("merging_control_8", "DDIM", 8, token_merging=0.5, **CONTROL),
    case("merging_default_10", "DDIM", 10, model="default", token_merging=0.5, prompts=pipeline_cases.STRAWBERRY, cfg=4.0),
    case("all_three_12", "DDIM", 12, token_merging=0.5, step_cache="3:1", guidance_interval="0.2:0.7"),
    case("interval_control_8", "DDIM", 8, guidance_interval="0.25:0.75", **CONTROL),
]


class DeepCache(DeepCacheSDHelper):
    """The authors' helper, which is told the steps, and keeps to the halves that there are."""

    def __init__(self, unet, interval, branch):
        super().__init__(types.SimpleNamespace(unet=unet))
        self.enable()
        # The helper counts three layers a block, as they are in the models of true size.
        layers = unet.config.layers_per_block + 1
        self.params = dict(
            cache_interval=interval, cache_layer_id=branch % layers, cache_block_id=branch // layers, skip_mode="uniform"
        )
        self.start_timestep, self.items, self.forced = 0, 0, None

    def wrap_unet_forward(self):
        self.function_dict["unet_forward"] = self.pipe.unet.forward

    def is_skip_step(self, *arguments, **named):
        return self.forced != self.cur_timestep and super().is_skip_step(*arguments, **named)

    def begin(self, step, items):
        """Before each call."""
        self.cur_timestep = step
        if items > self.items:
            self.forced = step
        if items < self.items:
            self.cached_output = {key: last_of(value, items) for key, value in self.cached_output.items()}
        if step % self.params["cache_interval"] == 0 or items != self.items:
            self.items = items


def last_of(value, items):
    return value[-items:] if torch.is_tensor(value) else tuple(last_of(part, items) for part in value)


class Merging:
    """Processors in the blocks of the finest level that attends to itself."""

    def __init__(self, unet, ratio, seed):
        self.unet, self.ratio, self.seed, self.step, self.size = unet, ratio, seed, 0, None
        down, up = enumerate(unet.down_blocks), zip(reversed(range(len(unet.up_blocks))), unet.up_blocks)
        layers = [
            (level, block)
            for level, blocks in [*down, (None, unet.mid_block), *up]
            for attention in getattr(blocks, "attentions", [])
            for block in attention.transformer_blocks
        ]
        self.level = finest = layers[0][0]
        self.hooks = []
        for index, (level, block) in enumerate(layers):
            if level == finest:
                self.hooks.append(block.register_forward_pre_hook(functools.partial(self.enter, index), with_kwargs=True))
                block.attn1.set_processor(self)

    def enter(self, index, block, arguments, named):
        x = arguments[0] if arguments else named["hidden_states"]
        height, width = self.size
        cells = numpy.arange((height // 2) * (width // 2))
        key = (self.seed % 2**32, self.seed // 2**32)
        words = philox.philox([cells, *(numpy.full_like(cells, part) for part in (index, self.step, 0))], key)
        drawn = torch.from_numpy((words[0] >> numpy.uint64(30)).astype(numpy.int64)).reshape(height // 2, width // 2, 1)
        with unittest.mock.patch.object(torch, "randint", return_value=drawn):
            self.merge, self.spread = tomesd.merge.bipartite_soft_matching_random2d(
                x, width, height, 2, 2, int(x.shape[1] * self.ratio), generator=golden.generator(0)
            )

    def __call__(self, attention, hidden_states, **named):
        return self.spread(AttnProcessor2_0()(attention, self.merge(hidden_states), **named))

    def begin(self, step, x):
        """Before each call."""
        self.step, self.size = step, tuple(-(-side // 2**self.level) for side in x.shape[-2:])

    def disable(self):
        for hook in self.hooks:
            hook.remove()
        self.unet.set_attn_processor(AttnProcessor2_0())


class Network:
    """The UNet of a case, which knows the step that it is called in."""

    def __init__(self, pipeline, case, steps):
        self.unet, self.steps = pipeline.unet, steps
        self.positive, self.negative = pipelines.embeddings(pipeline, case)
        start, stop = (float(share) for share in (case["guidance_interval"] or "0:1").split(":"))
        self.cache = DeepCache(self.unet, *map(int, case["step_cache"].split(":"))) if case["step_cache"] else None
        self.merging = Merging(self.unet, case["token_merging"], case["seed"]) if case["token_merging"] else None
        self.control = self.hint = None
        if case["control"]:
            self.control = ControlNetModel.from_pretrained(golden.GOLDENS / "controls" / case["control"])
            hint = Image.open(pipelines.FOLDER / "inputs" / f"{case['hint']}.png")
            self.hint = VaeImageProcessor(do_convert_rgb=True, do_normalize=False).preprocess(hint)
        self.guider = ClassifierFreeGuidance(case["cfg"], start=start, stop=stop)

    def __call__(self, x, timestep, step):
        timestep = timestep.float().reshape(-1)[:1]
        self.guider.set_state(step, self.steps, timestep)
        if self.guider.num_conditions == 1:
            return self.guider.forward(self.call(x, timestep, self.positive, step)).pred
        both = self.call(torch.cat([x, x]), timestep, torch.cat([self.negative, self.positive]), step)
        without, with_text = both.chunk(2)
        return self.guider.forward(with_text, without).pred

    def call(self, x, timestep, context, step):
        if self.cache:
            self.cache.begin(step, len(x))
        if self.merging:
            self.merging.begin(step, x)
        added = {}
        if self.control:
            hint = self.hint.expand(len(x), -1, -1, -1)
            down, middle = self.control(x, timestep, context, controlnet_cond=hint, return_dict=False)
            added = dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)
        return self.unet(x, timestep, context, **added).sample


def by_steps(pipeline, case, network, init, mask):
    """diffusers' loops: one call a step, what is known put back between."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(case["steps"])
    generator, known, noise = pipelines.draw(pipeline, case, init, mask)
    timesteps = scheduler.timesteps[case["steps"] - network.steps :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(case["steps"] - network.steps)
    full = init is None or (mask is not None and case["strength"] == 1)
    x = noise * scheduler.init_noise_sigma if full else scheduler.add_noise(known, noise, timesteps[:1])
    draws = {} if case["sampler"] == "DDIM" else {"generator": generator}
    for step, timestep in enumerate(timesteps):
        output = network(scheduler.scale_model_input(x, timestep), timestep, step)
        x = scheduler.step(output, timestep, x, **draws).prev_sample
        if mask is not None:
            last = step + 1 == network.steps
            level = known if last else scheduler.add_noise(known, noise, timesteps[step + 1 : step + 2])
            x = torch.where(pipelines.cells(mask) >= 0.5, x, level)
    return x


def by_heun(pipeline, case, network):
    """k-diffusion's sampler, which calls the network twice a step but in the last one."""
    scheduler = pipeline.scheduler
    schedule = samplers.k_external.DiscreteSchedule(
        ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5, False
    )
    sigmas = schedule.get_sigmas(case["steps"])
    calls = iter(range(2 * case["steps"]))
    predict = lambda x, timestep: network(x, timestep, next(calls) // 2)
    denoise = samplers.k_external.DiscreteEpsDDPMDenoiser(predict, scheduler.alphas_cumprod, quantize=False)
    _, _, noise = pipelines.draw(pipeline, case, None, None)
    return samplers.SAMPLERS[case["sampler"]](denoise, noise * sigmas[0], sigmas, disable=True)


def run(case):
    pipeline = pipelines.prepare(case, golden.DEFAULT_MODEL)
    opened = lambda name: Image.open(pipelines.FOLDER / "inputs" / name) if name else None
    init, mask = opened(case["init"]), opened(case["mask"])
    network = Network(pipeline, case, case["steps_run"])
    if case["sampler"] == "K_HEUN":
        latent = by_heun(pipeline, case, network)
    else:
        latent = by_steps(pipeline, case, network, init, mask)
    for part in (network.cache, network.merging):
        if part:
            part.disable()
    return latent


def main():
    golden.hold_still()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    cases = [case | dict(steps_run=samplers.steps_of(case["steps"], case["strength"] or 1)) for case in CASES]
    golden.write("accelerations/latents", {case["name"]: run(case) for case in cases}, {"cases": "cases.json"})
    (FOLDER / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
