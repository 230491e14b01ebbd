"""Pictures from a model in diffusers' layout, many at once: DDIM from noise, from a picture, inside a mask, with a control network
or an adapter. For the evaluation; the program itself draws one at a time and is compared with diffusers elsewhere.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from torch.nn.functional import max_pool2d
from transformers import CLIPTextModel

from common import pictures_to_tensor, schedule, tensor_to_pictures
from controlnet import edges
from tokenizer import Tokenizer

AT_ONCE = 16


class Sampler:
    def __init__(self, folder, steps=20, guidance=4.0):
        self.steps, self.guidance = steps, guidance
        load = lambda kind, part: kind.from_pretrained(folder / part, torch_dtype=torch.float32).eval().requires_grad_(False)
        self.unet, self.vae = load(UNet2DConditionModel, "unet"), load(AutoencoderKL, "vae")
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
        self.control = load(ControlNetModel, "controlnet-canny") if (folder / "controlnet-canny").exists() else None
        self.loras = {file.stem: file for file in sorted((folder / "loras").glob("*.safetensors"))}
        self.kept, self.tokens = schedule().alphas_cumprod, Tokenizer(folder / "tokenizer")

    def wear(self, name, weight=1.0):
        """Lays an adapter over the UNet; `None` takes it off."""
        if getattr(self.unet, "peft_config", None):
            self.unet.delete_adapters(list(self.unet.peft_config))
        if name:
            self.unet.load_lora_adapter(load_file(self.loras[name]), prefix="unet", adapter_name=name)
            self.unet.set_adapters([name], [weight])

    def states(self, texts):
        return self.text(torch.tensor([self.tokens(text) for text in texts])).last_hidden_state

    def draw(self, prompts, seed=0, **options):
        """`[N, 128, 128, 3]`; each picture has a seed of its own, `seed` and the number of the prompt."""
        parts = []
        for first in range(0, len(prompts), AT_ONCE):
            some = {key: value[first : first + AT_ONCE] if isinstance(value, np.ndarray) else value for key, value in options.items()}
            parts.append(self._draw(prompts[first : first + AT_ONCE], seed * 100_000 + first, **some))
        return np.concatenate(parts)

    @torch.no_grad()
    def _draw(self, prompts, seed, init=None, mask=None, strength=1.0, hint=None, weight=1.0):
        """`init` pictures and `mask` (true where it is drawn anew) `[N, H, W]`; `hint` pictures whose edges are shown."""
        noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(prompts))])
        context = torch.cat([self.states([""] * len(prompts)), self.states(prompts)])
        times = np.round(np.arange(1000, 0, -1000 / self.steps)).astype(int) - 1
        latents, original = noise, None
        if init is not None:
            original = self.vae.encode(pictures_to_tensor(init)).latent_dist.mode()
            times = times[len(times) - max(1, round(self.steps * strength)) :]
            kept = self.kept[times[0]]
            latents = kept.sqrt() * original + (1 - kept).sqrt() * noise
        if mask is not None:
            inside = max_pool2d(torch.from_numpy(mask).float()[:, None], 8)
        if hint is not None:
            shown = torch.from_numpy(np.stack([edges(picture) for picture in hint])).float()[:, None].repeat(2, 3, 1, 1)
        for index, time in enumerate(times):
            both, now = torch.cat([latents, latents]), torch.full((2 * len(prompts),), int(time))
            residuals = {}
            if hint is not None and weight > 0:
                down, middle = self.control(both, now, context, shown, conditioning_scale=weight, return_dict=False)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            plain, told = self.unet(both, now, context, **residuals).sample.chunk(2)
            v, kept = plain + self.guidance * (told - plain), self.kept[time]
            clean, left = kept.sqrt() * latents - (1 - kept).sqrt() * v, kept.sqrt() * v + (1 - kept).sqrt() * latents
            if mask is not None:
                clean = inside * clean + (1 - inside) * original
            following = self.kept[times[index + 1]] if index + 1 < len(times) else torch.tensor(1.0)
            latents = following.sqrt() * clean + (1 - following).sqrt() * left
            if mask is not None:
                latents = inside * latents + (1 - inside) * (following.sqrt() * original + (1 - following).sqrt() * noise)
        out = tensor_to_pictures(self.vae.decode(latents).sample)
        return out if mask is None else np.where(mask[..., None], out, init)
