//! Where the steps of a pass start: noise, or a picture with noise, and what is known or shown of a masked one.
//!
//! Shapes: latents `[1, C, h, w]`, pixels `[1, 3, H, W]`. The order of random draws is told in [`super`].

use super::{Input, Pass, Run, Stage, enter, internal};
use crate::{
    hires,
    latent_mask::{KnownLatent, MaskCells},
    noise::Noise,
    pixels,
    vae::{Encoded, Vae},
};
use candle_core::Tensor;
use pentimento_imaging as imaging;
use pentimento_request::{GenerateError, Picture, Texture};
use std::borrow::Cow;

/// Where sampling starts.
pub(super) struct Start {
    pub(super) x: Tensor,
    pub(super) known: Option<KnownLatent>,
    /// What an inpainting network is shown: the mask and the masked picture, `[1, 1 + C, h, w]`.
    pub(super) shown: Option<Tensor>,
}

impl Run<'_> {
    /// Noise alone; of an input, only an inpainting network is shown something.
    pub(super) fn start_from_noise(
        &mut self,
        input: Option<&Input>,
        noise: &mut Noise,
    ) -> Result<Start, GenerateError> {
        let drawn = noise.draw(&self.latent_shape()).map_err(internal)?;
        let x = (drawn * self.plan.initial_deviation).map_err(internal)?;
        Ok(Start { x, known: None, shown: self.shown(input, noise, self.latent_shape())? })
    }

    pub(super) fn start_from(&mut self, input: &Input, noise: &mut Noise) -> Result<Start, GenerateError> {
        enter(self.progress, Stage::Encode)?;
        let inpaints = self.model.networks.inpaints();
        if inpaints && input.starts_from_noise(&self.plan) {
            return self.start_from_noise(Some(input), noise);
        }
        let pixels = pixels::to_tensor(&self.textured(&input.picture)).map_err(internal)?;
        let clean = self.encode(&pixels, noise)?;
        let drawn = noise.draw(&self.latent_shape()).map_err(internal)?;
        let x = self.noised(input, &clean, &drawn).map_err(internal)?;
        if inpaints {
            let shown = self.shown(Some(input), noise, self.latent_shape())?;
            return Ok(Start { x, known: None, shown });
        }
        let known = self.known(input, clean, drawn, noise).map_err(internal)?;
        Ok(Start { x, known, shown: None })
    }

    fn noised(&self, input: &Input, clean: &Tensor, drawn: &Tensor) -> candle_core::Result<Tensor> {
        let level = self.plan.path.level(0);
        match input.starts_from_noise(&self.plan) {
            true => drawn * self.plan.initial_deviation,
            false => (clean * level.signal)? + (drawn * level.noise)?,
        }
    }

    fn known(
        &self,
        input: &Input,
        clean: Tensor,
        drawn: Tensor,
        noise: &mut Noise,
    ) -> candle_core::Result<Option<KnownLatent>> {
        let Some(mask) = &input.mask else { return Ok(None) };
        if self.model.networks.vae.has_posterior() {
            noise.draw(drawn.dims())?;
        }
        KnownLatent::new(mask, clean, drawn).map(Some)
    }

    /// What an inpainting network is shown of the input; without a mask all is to be painted, and nothing is known.
    fn shown(
        &mut self,
        input: Option<&Input>,
        noise: &mut Noise,
        [_, _, height, width]: [usize; 4],
    ) -> Result<Option<Tensor>, GenerateError> {
        if !self.model.networks.inpaints() {
            return Ok(None);
        }
        let cells = match input.and_then(|input| input.mask.as_ref()) {
            Some(mask) => MaskCells::of(mask, height, width),
            None => MaskCells::all_painted(height, width),
        };
        let factor = self.model.limits.factor as usize;
        let known = cells.known_pixels(factor).map_err(internal)?;
        let pixels = match input {
            Some(input) => pixels::to_tensor(&input.picture).and_then(|pixels| pixels.broadcast_mul(&known)),
            None => known.broadcast_as((1, 3, height * factor, width * factor)),
        };
        let masked = self.encode(&pixels.map_err(internal)?, noise)?;
        let painted = cells.painted().map_err(internal)?;
        // [1, 1, h, w] and [1, C, h, w] -> [1, 1 + C, h, w]
        Tensor::cat(&[painted, masked], 1).map(Some).map_err(internal)
    }

    /// Draws the latents of a picture `[1, 3, H, W]` as the network sees them.
    fn encode(&mut self, pixels: &Tensor, noise: &mut Noise) -> Result<Tensor, GenerateError> {
        let draws_so_far = noise.clone();
        let latents = encode_pixels(&self.model.networks.vae, pixels, noise).map_err(internal)?;
        if pixels::is_finite(&latents).map_err(internal)? {
            return Ok(latents);
        }
        *noise = draws_so_far;
        let vae = self.vae_again("the encoding")?;
        encode_pixels(&vae, pixels, noise).map_err(internal)
    }

    /// The first pass's latents, enlarged and noised again; of a masked input, what is known at the larger size.
    pub(super) fn start_again(
        &mut self,
        latents: &Tensor,
        input: Option<&Input>,
        noise: &mut Noise,
        pass: &Pass,
    ) -> Result<Start, GenerateError> {
        let shape @ [_, _, height, width] = self.latent_shape_at(pass.work);
        let masked = input.filter(|input| input.mask.is_some() && !self.model.networks.inpaints());
        let clean = match masked {
            Some(input) => {
                let pixels = pixels::to_tensor(&self.textured(&input.picture)).map_err(internal)?;
                Some(self.encode(&pixels, noise)?)
            }
            None => None,
        };
        let (drawn, level) = (noise.draw(&shape).map_err(internal)?, pass.path.level(0));
        let noised = |latents: Tensor| (latents * level.signal)? + (&drawn * level.noise)?;
        let x = hires::enlarge(latents, height, width).and_then(noised).map_err(internal)?;
        let known = match (masked, clean) {
            (Some(input), Some(clean)) => self.known(input, clean, drawn, noise).map_err(internal)?,
            _ => None,
        };
        Ok(Start { x, known, shown: self.shown(input, noise, shape)? })
    }

    /// The input with its texture as the request wants it.
    fn textured<'b>(&self, picture: &'b Picture) -> Cow<'b, Picture> {
        match self.request.conditioning.texture {
            Texture::Kept => Cow::Borrowed(picture),
            Texture::Smoothed => Cow::Owned(imaging::smooth(picture)),
        }
    }
}

/// Draws the latents of a picture as the network sees them.
fn encode_pixels(vae: &Vae, pixels: &Tensor, noise: &mut Noise) -> candle_core::Result<Tensor> {
    let latents = match vae.encode(pixels)? {
        Encoded::Posterior { mean, log_variance } => {
            let deviation = (log_variance * 0.5)?.exp()?;
            (&mean + (deviation * noise.draw(mean.dims())?)?)?
        }
        Encoded::Latents(latents) => latents,
    };
    vae.scale(&latents)
}
