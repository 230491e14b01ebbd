//! Pictures and masks as plain 8-bit rasters.
//!
//! Shapes: row-major, `height × width × channels`, no padding. Values: sRGB bytes, alpha not premultiplied.

use crate::values::{InvalidValue, Size};

/// How many bytes a pixel has, and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, opacity.
    Rgba,
}

impl Channels {
    /// Bytes per pixel.
    pub const fn count(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// An 8-bit picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    size: Size,
    channels: Channels,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of these bytes.
    ///
    /// # Errors
    /// When `pixels` does not hold exactly `width · height · channels` bytes.
    pub fn new(size: Size, channels: Channels, pixels: Vec<u8>) -> Result<Self, InvalidValue> {
        let expected = size.pixels() as usize * channels.count();
        if pixels.len() != expected {
            return Err(InvalidValue::new(format!(
                "a {size} picture of {} channels holds {expected} bytes, not {}",
                channels.count(),
                pixels.len()
            )));
        }
        Ok(Self { size, channels, pixels })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Meaning of a pixel's bytes.
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// All bytes, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// All bytes, row by row, to be changed in place.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Gives the bytes away.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Picture({} {:?})", self.size, self.channels)
    }
}

/// An 8-bit mask: 255 is repainted, 0 is kept, between them is a share of the steps.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    size: Size,
    values: Vec<u8>,
}

impl Mask {
    /// A mask of these bytes.
    ///
    /// # Errors
    /// When `values` does not hold exactly `width · height` bytes.
    pub fn new(size: Size, values: Vec<u8>) -> Result<Self, InvalidValue> {
        if values.len() as u64 != size.pixels() {
            return Err(InvalidValue::new(format!(
                "a {size} mask holds {} bytes, not {}",
                size.pixels(),
                values.len()
            )));
        }
        Ok(Self { size, values })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// All values, row by row.
    pub fn values(&self) -> &[u8] {
        &self.values
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Mask({})", self.size)
    }
}
