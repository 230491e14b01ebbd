//! A part of a picture.

use pentimento_request::{InvalidValue, Size};
use std::{fmt, ops::Range};

/// A rectangle of pixels, counted from the top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Pixels left of it.
    pub x: u32,
    /// Pixels above it.
    pub y: u32,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

impl Rect {
    /// The rectangle's own size, if it lies within `whole` and is not empty.
    pub(crate) fn size_within(self, whole: Size) -> Result<Size, InvalidValue> {
        let fits = |start: u32, length: u32, side: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= side)
        };
        if !fits(self.x, self.width, whole.width()) || !fits(self.y, self.height, whole.height()) {
            return Err(InvalidValue::new(format!("the rectangle {self} does not lie within {whole}")));
        }
        Size::new(self.width, self.height)
    }

    /// For each of the rectangle's rows, where its bytes lie in a raster `width` pixels wide.
    pub(crate) fn rows(self, width: u32, bytes_per_pixel: usize) -> impl Iterator<Item = Range<usize>> {
        let length = self.width as usize * bytes_per_pixel;
        (self.y as usize..self.y as usize + self.height as usize).map(move |row| {
            let start = (row * width as usize + self.x as usize) * bytes_per_pixel;
            start..start + length
        })
    }
}

impl fmt::Display for Rect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x{}+{}+{}", self.width, self.height, self.x, self.y)
    }
}
