//! How much memory a picture takes beyond the weights, told from a model's configuration, before anything is loaded.
//!
//! An estimate that is meant to be above the truth, never far: what may not be drawn for want of memory has to be told before
//! it waits for its turn. Units: bytes, of values of four bytes.
//!
//! Two stages can be the largest. A step holds, in each half of the guidance, what the UNet's way down keeps for its way up
//! and what its widest layer, at the finest level, makes of that; a control network keeps as much again. Coding holds a few
//! planes of the autoencoder's finest level at the full size (`vae/planes`).

use crate::{
    canvas::{Frame, Limits},
    config::{UnetConfig, VaeConfig},
};
use pentimento_request::{GenerateError, GenerationRequest, Size};

const BYTES: u64 = 4;

/// Planes of the autoencoder's finest level: the values of two layers, and their sum or norm.
const PLANES: u64 = 3;

/// Maps of the finest level that a layer of the UNet holds beside what is kept: queries, keys, values and their result,
/// and the eightfold width before a gated unit.
const MAPS: u64 = 16;

/// Scratch of the kernels, the texts, the picture itself in its several forms.
const BESIDE: u64 = 64 << 20;

/// What drawing with a model takes.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureMemory {
    native: Size,
    factor: u32,
    /// Of coding, for a pixel.
    coding: u64,
    /// Of a step, for a cell of the latent in one half of the guidance.
    step: u64,
    /// What of `step` is kept for the way up, and by each control network again.
    kept: u64,
}

impl PictureMemory {
    pub(crate) fn new(native: Size, unet: &UnetConfig, vae: &VaeConfig) -> Self {
        let finest = |channels: &[usize]| channels.first().copied().unwrap_or(1) as u64;
        let planes = finest(&vae.block_out_channels)
            .max(finest(&vae.encoder_block_out_channels))
            .max(finest(&vae.decoder_block_out_channels));
        let kept = kept(unet) * BYTES;
        Self {
            native,
            factor: u32::try_from(vae.factor()).unwrap_or(u32::MAX),
            coding: PLANES * planes * BYTES,
            step: kept + MAPS * finest(&unet.block_out_channels) * BYTES,
            kept,
        }
    }

    /// Bytes that drawing this takes at most.
    ///
    /// # Errors
    /// Where the model cannot work at the request's size.
    pub fn of(&self, request: &GenerationRequest, pixel_cap: u64) -> Result<u64, GenerateError> {
        let limits = Limits { native: self.native, factor: self.factor, pixel_cap };
        let work = Frame::of(request, limits)?.work;
        let work = match &request.hires {
            Some(hires) => limits.scaled(work, hires.scale)?,
            None => work,
        };
        let cells = work.pixels() / (u64::from(self.factor) * u64::from(self.factor)).max(1);
        let halves = 2;
        let controls = request.conditioning.controls.len() as u64;
        let step = cells * halves * (self.step + controls * self.kept);
        Ok(BESIDE + step.max(work.pixels() * self.coding))
    }
}

/// Values that the way down keeps for the way up, for a cell of the finest level.
fn kept(unet: &UnetConfig) -> u64 {
    let layers = unet.layers_per_block.levels(unet.block_out_channels.len()).unwrap_or_default();
    let levels = unet.block_out_channels.iter().zip(layers);
    // One more than the layers: what goes down to the next level, or what came in.
    let maps = levels.map(|(channels, layers)| (channels * (layers + 1)) as f64);
    maps.enumerate().map(|(level, maps)| maps / 4f64.powi(level as i32)).sum::<f64>().ceil() as u64
}
