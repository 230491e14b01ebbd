//! Values that carry their own rule.

use std::{fmt, str::FromStr};

/// A value outside its range; the message names the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue(String);

impl InvalidValue {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for InvalidValue {}

/// Width and height in pixels, each from 1 to [`Size::MAX_SIDE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// The longest side that any picture may have.
    pub const MAX_SIDE: u32 = 16_384;

    /// A size of these sides.
    ///
    /// # Errors
    /// When a side is 0 or longer than [`Size::MAX_SIDE`].
    pub fn new(width: u32, height: u32) -> Result<Self, InvalidValue> {
        let sides = 1..=Self::MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(InvalidValue::new(format!(
                "a size of {width}x{height} is not possible: sides go from 1 to {}",
                Self::MAX_SIDE
            )));
        }
        Ok(Self { width, height })
    }

    /// Pixels from left to right.
    pub const fn width(self) -> u32 {
        self.width
    }

    /// Pixels from top to bottom.
    pub const fn height(self) -> u32 {
        self.height
    }

    /// Width times height.
    pub const fn pixels(self) -> u64 {
        self.width as u64 * self.height as u64
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = InvalidValue;

    /// Reads `WIDTHxHEIGHT`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let malformed =
            || InvalidValue::new(format!("'{text}' is not a size: write WIDTHxHEIGHT, as 128x128"));
        let (width, height) = text.split_once(['x', 'X', '×']).ok_or_else(malformed)?;
        Self::new(width.parse().map_err(|_| malformed())?, height.parse().map_err(|_| malformed())?)
    }
}

/// Share of the schedule that an image-to-image run walks: 0 keeps the picture, 1 starts from (almost) pure noise.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Strength(f64);

impl Strength {
    /// The whole schedule.
    pub const FULL: Self = Self(1.0);

    /// A strength of this share.
    ///
    /// # Errors
    /// Outside 0 to 1, or not a number.
    pub fn new(share: f64) -> Result<Self, InvalidValue> {
        if !(0.0..=1.0).contains(&share) {
            return Err(InvalidValue::new(format!(
                "a strength of {share} is not possible: it goes from 0 to 1"
            )));
        }
        Ok(Self(share))
    }

    /// The share.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// Which part of the schedule is run: its last `strength` share, less the `skipped_end` share of final steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Share of the schedule from its start point to its end.
    pub strength: Strength,
    /// Share of the schedule whose final steps are left out, the last one run then going straight to zero noise.
    pub skipped_end: Strength,
}

impl Span {
    /// The last `strength` share of the schedule, to its very end.
    pub const fn of(strength: Strength) -> Self {
        Self { strength, skipped_end: Strength(0.0) }
    }
}

/// Which layer of the text encoder is read: 1 is the last, 2 the last but one, up to [`ClipSkip::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClipSkip(usize);

impl ClipSkip {
    /// The last layer.
    pub const LAST: Self = Self(1);

    /// Layers of the text encoder of Stable Diffusion 1.x.
    pub const MAX: usize = 12;

    /// The layer of this number from the end.
    ///
    /// # Errors
    /// Outside 1 to [`ClipSkip::MAX`].
    pub fn new(layer: usize) -> Result<Self, InvalidValue> {
        if !(1..=Self::MAX).contains(&layer) {
            return Err(InvalidValue::new(format!(
                "a clip skip of {layer} is not possible: it goes from 1 (the last layer) to {}",
                Self::MAX
            )));
        }
        Ok(Self(layer))
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

/// Number of steps of the whole schedule, from 1 to [`Steps::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steps(usize);

impl Steps {
    /// As many steps as models have timesteps.
    pub const MAX: usize = 1000;

    /// So many steps.
    ///
    /// # Errors
    /// Outside 1 to [`Steps::MAX`].
    pub fn new(count: usize) -> Result<Self, InvalidValue> {
        if !(1..=Self::MAX).contains(&count) {
            return Err(InvalidValue::new(format!(
                "{count} steps are not possible: they go from 1 to {}",
                Self::MAX
            )));
        }
        Ok(Self(count))
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

/// Scale of classifier-free guidance, from 0 to [`GuidanceScale::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct GuidanceScale(f32);

impl GuidanceScale {
    /// The largest scale that Stability's interfaces allow.
    pub const MAX: f32 = 35.0;

    /// A scale of this value.
    ///
    /// # Errors
    /// Outside 0 to [`GuidanceScale::MAX`], or not a number.
    pub fn new(scale: f32) -> Result<Self, InvalidValue> {
        if !(0.0..=Self::MAX).contains(&scale) {
            return Err(InvalidValue::new(format!(
                "a guidance scale of {scale} is not possible: it goes from 0 to {}",
                Self::MAX
            )));
        }
        Ok(Self(scale))
    }

    /// The scale.
    pub const fn get(self) -> f32 {
        self.0
    }

    /// Whether the negative half is computed at all.
    pub fn guides(self) -> bool {
        self.0 > 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!("640x480".parse::<Size>().map(|size| size.to_string()), Ok("640x480".to_owned()));
        for wrong in ["", "640", "640x", "x480", "0x1", "640x99999", "-1x5", "1x2x3", "6 4x1"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_and_scales_refuse_what_is_no_number() {
        assert!(Strength::new(f64::NAN).is_err());
        assert!(GuidanceScale::new(f32::NAN).is_err());
        assert!(Strength::new(1.0).is_ok() && Strength::new(-0.01).is_err() && Strength::new(1.01).is_err());
        assert!(GuidanceScale::new(35.0).is_ok() && GuidanceScale::new(35.1).is_err());
        assert!(Steps::new(0).is_err() && Steps::new(1000).is_ok() && Steps::new(1001).is_err());
    }
}
