//! Cheap previews: one pixel per latent cell, by a linear map from latents to colours.
//!
//! The map is measured on the model's own decoder, so it fits every autoencoder: the colour that a flat latent of
//! plus and minus one gives, channel by channel.

use crate::error::Result;
use crate::vae::Vae;
use candle_core::{Device, Tensor};
use pentimento_request::{Channels, Picture, Size};

/// Colours per latent channel, and the colour of a latent of zeros; values from -1 to 1.
pub(crate) struct LatentColours {
    slopes: Vec<[f32; 3]>,
    base: [f32; 3],
}

/// Cells per side of the flat latents that are decoded: few, since the map forgets where they are.
const CELLS: usize = 4;

impl LatentColours {
    /// Decodes `2·channels + 1` tiny latents.
    pub(crate) fn measure(vae: &Vae) -> Result<Self> {
        let channels = vae.latent_channels();
        let base = mean_colour(vae, channels, None)?;
        let mut slopes = Vec::with_capacity(channels);
        for channel in 0..channels {
            let above = mean_colour(vae, channels, Some((channel, 1.0)))?;
            let below = mean_colour(vae, channels, Some((channel, -1.0)))?;
            slopes.push([0, 1, 2].map(|colour| (above[colour] - below[colour]) / 2.0));
        }
        Ok(Self { slopes, base })
    }

    /// `[1, C, h, w]` -> a picture of `w × h`.
    pub(crate) fn draw(&self, latents: &Tensor) -> Result<Picture> {
        let (_, channels, height, width) = latents.dims4()?;
        let planes: Vec<f32> = latents.flatten_all()?.to_vec1()?;
        let cells = height * width;
        let mut pixels = Vec::with_capacity(3 * cells);
        for cell in 0..cells {
            for colour in 0..3 {
                let sum: f32 = (0..channels)
                    .map(|channel| planes[channel * cells + cell] * self.slopes[channel][colour])
                    .sum();
                let value = (self.base[colour] + sum) / 2.0 + 0.5;
                pixels.push((value.clamp(0.0, 1.0) * 255.0).round() as u8);
            }
        }
        let picture =
            Size::new(width as u32, height as u32).and_then(|size| Picture::new(size, Channels::Rgb, pixels));
        picture.map_err(candle_core::Error::wrap)
    }
}

/// The mean colour of the picture of a flat latent, one channel set to a value.
fn mean_colour(vae: &Vae, channels: usize, set: Option<(usize, f32)>) -> Result<[f32; 3]> {
    let mut values = vec![0f32; channels * CELLS * CELLS];
    if let Some((channel, value)) = set {
        values[channel * CELLS * CELLS..][..CELLS * CELLS].fill(value);
    }
    let latents = Tensor::from_vec(values, (1, channels, CELLS, CELLS), &Device::Cpu)?;
    let pixels: Vec<f32> = vae.decode(&latents)?.flatten_all()?.to_vec1()?;
    let plane = pixels.len() / 3;
    Ok([0, 1, 2].map(|colour| pixels[colour * plane..][..plane].iter().sum::<f32>() / plane as f32))
}
