//! Picture files to pixels, under limits that hold before memory is taken.
//!
//! Everything becomes 8-bit RGB, or RGBA where the file has an alpha channel or a transparent colour: palettes and
//! greys are spread out, 16 bits are rounded to 8, CMYK is converted without a profile. The EXIF orientation is
//! applied. Of an animation the first frame is taken.
//!
//! Errors: a file that is cut off is refused, not completed with grey, as a browser would do.

use crate::{Format, ImageError, ImageErrorKind, error::malformed, headers, sniff};
use image::{
    DynamicImage, ImageDecoder,
    codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use pentimento_request::{Channels, Picture, Size};
use std::{fmt, io::Cursor, panic};

/// How large a file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest length of the file.
    pub bytes: usize,
    /// Largest number of pixels, width times height. No side may be longer than [`Size::MAX_SIDE`] besides.
    pub pixels: u64,
}

/// The picture in a PNG, JPEG or WebP file, recognised by its content.
///
/// # Errors
/// See [`ImageErrorKind`]; sizes are judged by the file's header alone.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    if bytes.len() > limits.bytes {
        return Err(ImageError::new(
            ImageErrorKind::TooManyBytes,
            format_args!("the picture file has {} bytes; at most {} are allowed", bytes.len(), limits.bytes),
        ));
    }
    let format = sniff(bytes).ok_or_else(|| {
        ImageError::new(ImageErrorKind::UnknownFormat, "the bytes are no PNG, JPEG or WebP picture")
    })?;
    // The codecs are fed with strangers' bytes: should one panic, that is this file's failure and nobody else's.
    panic::catch_unwind(|| decode_as(format, bytes, limits))
        .unwrap_or_else(|_| Err(malformed(format, "the decoder gave up")))
}

fn decode_as(format: Format, bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let codec_error = |error| malformed(format, error);
    match format {
        Format::Png => {
            // The PNG decoder makes room for rows when it is constructed, so the size is read beforehand.
            let (width, height) = headers::png_size(bytes)?;
            limits.check(format, width, height)?;
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits.for_codec(bytes.len()));
            read(format, decoder.map_err(codec_error)?, limits)
        }
        Format::Jpeg => {
            headers::check_jpeg_end(bytes)?;
            read(format, JpegDecoder::new(Cursor::new(bytes)).map_err(codec_error)?, limits)
        }
        Format::WebP => {
            let bytes = headers::checked_webp(bytes, limits)?;
            read(format, WebPDecoder::new(Cursor::new(bytes)).map_err(codec_error)?, limits)
        }
    }
}

/// Reads the pixels, once the header's size is within the limits.
fn read(format: Format, mut decoder: impl ImageDecoder, limits: &Limits) -> Result<Picture, ImageError> {
    let (width, height) = decoder.dimensions();
    limits.check(format, width, height)?;
    // Damaged metadata does not make a picture unreadable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| malformed(format, error))?;
    image.apply_orientation(orientation);
    let size = limits.check(format, image.width(), image.height())?;
    let (channels, pixels) = if image.color().has_alpha() {
        (Channels::Rgba, image.into_rgba8().into_raw())
    } else {
        (Channels::Rgb, image.into_rgb8().into_raw())
    };
    Picture::new(size, channels, pixels).map_err(|error| malformed(format, error))
}

impl Limits {
    /// The size, if it is allowed.
    pub(crate) fn check(&self, format: Format, width: u32, height: u32) -> Result<Size, ImageError> {
        if width == 0 || height == 0 {
            return Err(malformed(format, "it has no pixels"));
        }
        let too_many = |limit: &dyn fmt::Display| {
            ImageError::new(
                ImageErrorKind::TooManyPixels,
                format_args!("the picture has {width}x{height} pixels; {limit}"),
            )
        };
        let size = Size::new(width, height)
            .map_err(|_| too_many(&format_args!("no side may be longer than {}", Size::MAX_SIDE)))?;
        if size.pixels() > self.pixels {
            return Err(too_many(&format_args!("at most {} in all are allowed", self.pixels)));
        }
        Ok(size)
    }

    /// What a codec may take for a file of this length: 8 bytes per pixel are 16-bit RGBA, a few rows are buffered,
    /// and metadata may unpack to several times its length.
    fn for_codec(&self, file: usize) -> image::Limits {
        let pixels = self.pixels.min(u64::from(Size::MAX_SIDE).pow(2));
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(pixels * 8 + file as u64 * 4 + (1 << 22));
        limits
    }
}
