//! Picture files to pixels, under limits that hold before memory is taken.
//!
//! Everything becomes 8-bit RGB, or RGBA where the file has an alpha channel or a transparent colour: palettes and
//! greys are spread out, 16 bits are rounded to 8, CMYK is converted without a profile. The EXIF orientation is
//! applied. Of an animation the first frame is taken.
//!
//! Errors: a file that is cut off is refused, not completed with grey, as a browser would do.

use crate::{Format, ImageError, ImageErrorKind, sniff};
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
    let source = Cursor::new(bytes);
    match format {
        Format::Png => {
            // The PNG decoder makes room for rows when it is constructed, so the size is read beforehand.
            let (width, height) = png_size(bytes).ok_or_else(|| malformed(format, "it has no header"))?;
            limits.check(format, width, height)?;
            read(
                format,
                PngDecoder::with_limits(source, limits.for_codec(bytes.len())).map_err(codec_error)?,
                limits,
            )
        }
        Format::Jpeg => {
            if !jpeg_is_whole(bytes) {
                return Err(malformed(format, "it is cut off"));
            }
            read(format, JpegDecoder::new(source).map_err(codec_error)?, limits)
        }
        Format::WebP => {
            check_webp_chunks(bytes.get(12..).unwrap_or_default(), limits)?;
            read(format, WebPDecoder::new(source).map_err(codec_error)?, limits)
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
    fn check(&self, format: Format, width: u32, height: u32) -> Result<Size, ImageError> {
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

fn malformed(format: Format, problem: impl fmt::Display) -> ImageError {
    ImageError::new(ImageErrorKind::Malformed, format_args!("the {format} file cannot be read: {problem}"))
}

/// Width and height in a PNG's header, which is always its first chunk.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let (signature_and_length, header) = (bytes.get(..12)?, bytes.get(12..24)?);
    let header = header.strip_prefix(b"IHDR").filter(|_| signature_and_length[8..] == [0, 0, 0, 13])?;
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
    Some((number(&header[..4])?, number(&header[4..])?))
}

/// Whether a JPEG's end marker follows its first scan. (The decoder would fill up what is missing with grey.)
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    // The segments before the first scan are skipped by their lengths: a thumbnail in them has an end of its own.
    while let Some(&[marker, kind, high, low]) = bytes.get(at..at + 4) {
        match (marker, kind) {
            (0xff, START_OF_SCAN) => return bytes[at..].windows(2).any(|pair| pair == END_OF_IMAGE),
            // Any number of 0xff may come before a marker.
            (0xff, 0xff) => at += 1,
            (0xff, _) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            // No segment begins here. Let the decoder say what is wrong.
            _ => return true,
        }
    }
    false
}

/// Refuses chunks that reach beyond the file, for which the decoder would take memory, and lossy frames larger than
/// allowed, which it decodes before it compares them with the header.
fn check_webp_chunks(mut chunks: &[u8], limits: &Limits) -> Result<(), ImageError> {
    /// Where the chunks of an animation's frame begin, behind the frame's place and duration.
    const FRAME_HEADER: usize = 16;
    while let Some((head, rest)) = chunks.split_first_chunk::<8>() {
        let [.., a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let body = rest.get(..length).ok_or_else(|| malformed(Format::WebP, "it is cut off"))?;
        match &head[..4] {
            b"ANMF" => check_webp_chunks(body.get(FRAME_HEADER..).unwrap_or_default(), limits)?,
            b"VP8 " => {
                if let Some(&[a, b, c, d]) = body.get(6..10) {
                    // The two upper bits are a scale for showing (RFC 6386, section 9.1).
                    let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff);
                    limits.check(Format::WebP, side([a, b]), side([c, d]))?;
                }
            }
            _ => {}
        }
        // Chunks begin at even places.
        chunks = rest.get(length + length % 2..).unwrap_or_default();
    }
    Ok(())
}
