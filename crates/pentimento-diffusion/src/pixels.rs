//! Pictures to tensors and back.
//!
//! Shapes: tensors are `[1, 3, H, W]` with values from -1 to 1; alpha is left behind.

use crate::error::Result;
use candle_core::{Device, Tensor};
use pentimento_request::{Channels, Picture, Size};

/// The picture's colours as the autoencoder takes them.
pub(crate) fn to_tensor(picture: &Picture) -> Result<Tensor> {
    let (width, height) = (picture.size().width() as usize, picture.size().height() as usize);
    let pixels = picture.pixels().chunks_exact(picture.channels().count());
    let mut planes = vec![0f32; 3 * width * height];
    for (index, pixel) in pixels.enumerate() {
        for channel in 0..3 {
            planes[channel * width * height + index] = 2.0 * (f32::from(pixel[channel]) / 255.0) - 1.0;
        }
    }
    Tensor::from_vec(planes, (1, 3, height, width), &Device::Cpu)
}

/// The picture's colours from 0 to 1, as control networks are shown them.
pub(crate) fn to_unit_tensor(picture: &Picture) -> Result<Tensor> {
    let (width, height) = (picture.size().width() as usize, picture.size().height() as usize);
    let count = picture.channels().count();
    let plane = |channel: usize| {
        picture.pixels().chunks_exact(count).map(move |pixel| f32::from(pixel[channel]) / 255.0)
    };
    let planes = (0..3).flat_map(plane).collect();
    Tensor::from_vec(planes, (1, 3, height, width), &Device::Cpu)
}

/// The picture that a decoded tensor shows, clamped and rounded to the nearest byte as numpy rounds (half to
/// even).
pub(crate) fn to_picture(tensor: &Tensor) -> Result<Picture> {
    let (_, _, height, width) = tensor.dims4()?;
    let planes: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    let plane = width * height;
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let pixels = (0..plane).flat_map(|at| [0, 1, 2].map(|channel| byte(planes[channel * plane + at])));
    let pixels = pixels.collect();
    let picture =
        Size::new(width as u32, height as u32).and_then(|size| Picture::new(size, Channels::Rgb, pixels));
    picture.map_err(candle_core::Error::wrap)
}

/// Whether all values are finite.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|value| value.is_finite()))
}
