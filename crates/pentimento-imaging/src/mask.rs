//! Masks made of pictures, and cut and resized with them.
//!
//! Values: 255 is replaced, 0 is kept. The functions share their names with those for pictures, so call them with
//! the module's name: `mask::crop(…)`.
//! Source of the luma: ITU-R 601-2 in the fixed-point form of Pillow's `convert("L")`, so that a mask means the same
//! here as in a Python program.

use crate::{
    Rect,
    resample::{Filter, resample},
};
use pentimento_request::{Channels, InvalidValue, Mask, Picture, Size, UnknownName};
use std::{fmt, str::FromStr};

/// Which part of a mask picture is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskSource {
    /// White is replaced, black is kept.
    White,
    /// Black is replaced, white is kept.
    Black,
    /// What is transparent is replaced, what is opaque is kept.
    Alpha,
}

impl MaskSource {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::White, Self::Black, Self::Alpha];

    /// The name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Black => "black",
            Self::Alpha => "alpha",
        }
    }
}

impl fmt::Display for MaskSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for MaskSource {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|source| source.name().eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "mask source",
                given: given.to_owned(),
                known: Self::ALL.map(Self::name).to_vec(),
            }
        })
    }
}

/// The mask that a picture stands for. `White` and `Black` read the colours and ignore the alpha channel, `Alpha`
/// reads the alpha channel and ignores the colours.
///
/// # Errors
/// When `source` is `Alpha` and the picture has no alpha channel.
pub fn from_picture(picture: &Picture, source: MaskSource) -> Result<Mask, InvalidValue> {
    let pixels = picture.pixels().chunks_exact(picture.channels().count());
    let values = match (source, picture.channels()) {
        (MaskSource::White, _) => pixels.map(luma).collect(),
        (MaskSource::Black, _) => pixels.map(|pixel| 255 - luma(pixel)).collect(),
        (MaskSource::Alpha, Channels::Rgba) => pixels.map(|pixel| 255 - pixel[3]).collect(),
        (MaskSource::Alpha, Channels::Rgb) => {
            return Err(InvalidValue::new(
                "the mask is to be read from the alpha channel, but the picture has none",
            ));
        }
    };
    Mask::new(picture.size(), values)
}

/// The smallest rectangle that holds every pixel above 0; `None` where all are 0.
pub fn bounding_box(mask: &Mask) -> Option<Rect> {
    let width = mask.size().width() as usize;
    let painted = |row: &[u8]| row.iter().any(|&value| value != 0);
    let rows: Vec<&[u8]> = mask.values().chunks_exact(width).collect();
    let top = rows.iter().position(|row| painted(row))?;
    let bottom = rows.iter().rposition(|row| painted(row))?;
    let left = rows.iter().filter_map(|row| row.iter().position(|&value| value != 0)).min()?;
    let right = rows.iter().filter_map(|row| row.iter().rposition(|&value| value != 0)).max()?;
    Some(Rect {
        x: left as u32,
        y: top as u32,
        width: (right - left + 1) as u32,
        height: (bottom - top + 1) as u32,
    })
}

/// The part of the mask within the rectangle.
///
/// # Errors
/// When the rectangle is empty or does not lie within the mask.
pub fn crop(mask: &Mask, rect: Rect) -> Result<Mask, InvalidValue> {
    let size = rect.size_within(mask.size())?;
    let rows = rect.rows(mask.size().width(), 1);
    Mask::new(size, rows.flat_map(|row| &mask.values()[row]).copied().collect())
}

/// The mask at another size, by a triangle filter over the whole area that a pixel stands for (Pillow's `BILINEAR`).
///
/// Values stay within the range of their surroundings; edges become soft. A painted spot much smaller than a pixel
/// of the result is averaged with what lies around it and may round to 0: where nothing painted may vanish (the
/// latent grid, say), take the largest value of each cell instead.
pub fn resize(mask: &Mask, size: Size) -> Mask {
    let values = resample::<1>(mask.values(), mask.size(), size, Filter::Triangle);
    Mask::new(size, values).expect("resample answers one byte per pixel")
}

/// Brightness of a pixel by ITU-R 601-2, as Pillow rounds it; a fourth byte is ignored.
fn luma(pixel: &[u8]) -> u8 {
    // 0.299, 0.587 and 0.114 in units of 1/65536, which sum to 1 exactly (Pillow, Convert.c, L24).
    let sum = u32::from(pixel[0]) * 19_595 + u32::from(pixel[1]) * 38_470 + u32::from(pixel[2]) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).expect("a valid size")
    }

    #[test]
    fn names_are_unique_and_read_back_in_any_case() {
        for source in MaskSource::ALL {
            assert_eq!(source.name().to_uppercase().parse(), Ok(source));
        }
        let message = "red".parse::<MaskSource>().expect_err("no such source").to_string();
        assert!(message.contains("'red'") && message.contains("white, black, alpha"), "{message}");
    }

    #[test]
    fn each_source_reads_its_part_of_the_picture() {
        let pixels = vec![255, 255, 255, 10, 0, 0, 0, 255, 255, 0, 0, 0];
        let picture = Picture::new(size(3, 1), Channels::Rgba, pixels).expect("three pixels");
        let values = |source| from_picture(&picture, source).expect("it has alpha").values().to_vec();
        assert_eq!(values(MaskSource::White), [255, 0, 76]);
        assert_eq!(values(MaskSource::Black), [0, 255, 179]);
        assert_eq!(values(MaskSource::Alpha), [245, 0, 255]);
    }

    #[test]
    fn an_alpha_mask_wants_an_alpha_channel() {
        let picture = Picture::new(size(1, 1), Channels::Rgb, vec![0; 3]).expect("one pixel");
        let message = from_picture(&picture, MaskSource::Alpha).expect_err("no alpha").to_string();
        assert!(message.contains("alpha channel"), "{message}");
    }

    #[test]
    fn greys_keep_their_value_and_luma_never_overflows() {
        for value in 0..=255 {
            assert_eq!(luma(&[value; 3]), value);
        }
    }

    #[test]
    fn the_box_holds_the_faintest_pixel_and_nothing_is_no_box() {
        let mut values = vec![0; 20];
        assert_eq!(bounding_box(&Mask::new(size(5, 4), values.clone()).expect("20 values")), None);
        values[5 + 3] = 1;
        values[2 * 5 + 1] = 255;
        let mask = Mask::new(size(5, 4), values).expect("20 values");
        let found = bounding_box(&mask).expect("two painted pixels");
        assert_eq!(found, Rect { x: 1, y: 1, width: 3, height: 2 });
        assert_eq!(crop(&mask, found).expect("within").values(), [0, 0, 1, 255, 0, 0]);
    }

    #[test]
    fn resizing_keeps_an_even_mask_even() {
        for value in [0, 1, 127, 255] {
            let mask = Mask::new(size(13, 7), vec![value; 91]).expect("91 values");
            for (width, height) in [(3, 2), (40, 50), (13, 1), (1, 1)] {
                assert!(resize(&mask, size(width, height)).values().iter().all(|&got| got == value));
            }
        }
    }
}
