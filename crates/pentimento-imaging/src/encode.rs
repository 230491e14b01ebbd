//! Pixels to picture files, with the receipt of their making inside.
//!
//! PNG holds the receipt in text chunks: `pentimento` (its JSON) and `parameters` (A1111's text). JPEG and WebP hold
//! the same two in EXIF, as `MakerNote` and `UserComment`. A JPEG has room for 64 KB of EXIF: a receipt that does not
//! fit is left out, its JSON first.
//!
//! The same picture and receipt give the same bytes: nothing asks for the time or a random number.

use crate::{Format, ImageError, ImageErrorKind, Limits, exif, headers, parameters, sniff, to_json};
use image::{
    ExtendedColorType, ImageDecoder, ImageEncoder,
    codecs::{
        jpeg::{JpegDecoder, JpegEncoder},
        webp::{WebPDecoder, WebPEncoder},
    },
};
use pentimento_request::{Channels, Picture, Receipt};
use serde_json::Value;
use std::{borrow::Cow, fmt, io::Cursor};

/// Quality of JPEGs, of 100: artefacts are invisible, and the file is still a fraction of a PNG.
const JPEG_QUALITY: u8 = 95;

/// Keyword of the text chunk with the receipt's JSON.
const RECEIPT_KEY: &str = "pentimento";

/// Keyword of the text chunk that A1111 and its readers look for.
const PARAMETERS_KEY: &str = "parameters";

/// What an EXIF segment of a JPEG holds: a 16-bit length that counts itself, less `Exif\0\0`.
const JPEG_EXIF_ROOM: usize = 0xffff - 2 - 6;

/// The longest side that libwebp and most readers take (`WEBP_MAX_DIMENSION`); the format itself has one pixel more.
const WEBP_MAX_SIDE: u32 = 16_383;

/// What an EXIF chunk of a WebP holds, with much to spare: the whole file has a 32-bit length.
const WEBP_EXIF_ROOM: usize = 1 << 24;

/// The picture as a file. A JPEG has no alpha channel: transparent parts become white.
///
/// # Errors
/// [`ImageErrorKind::Unencodable`] where the format does not hold the picture.
pub fn encode(picture: &Picture, format: Format, receipt: Option<&Receipt>) -> Result<Vec<u8>, ImageError> {
    let texts = receipt.map(|receipt| Texts {
        json: to_json(receipt).to_string(),
        // Text chunks end at a zero byte.
        parameters: parameters(receipt).replace('\0', "\u{fffd}"),
    });
    with_texts(picture, format, texts)
}

/// A receipt in the two forms that files hold.
pub(crate) struct Texts {
    json: String,
    parameters: String,
}

/// The picture as a file that holds these texts.
pub(crate) fn with_texts(
    picture: &Picture,
    format: Format,
    texts: Option<Texts>,
) -> Result<Vec<u8>, ImageError> {
    match format {
        Format::Png => encode_png(picture, texts).map_err(|error| unencodable(format, error)),
        Format::Jpeg => {
            let exif = texts.and_then(|texts| exif_within(&texts, JPEG_EXIF_ROOM));
            let mut file = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
            write(encoder, &flattened(picture), exif).map_err(|error| unencodable(format, error))?;
            Ok(file)
        }
        Format::WebP => {
            if picture.size().width().max(picture.size().height()) > WEBP_MAX_SIDE {
                return Err(unencodable(format, format_args!("its sides go to {WEBP_MAX_SIDE}")));
            }
            let exif = texts.and_then(|texts| exif_within(&texts, WEBP_EXIF_ROOM));
            let mut file = Vec::new();
            let encoder = WebPEncoder::new_lossless(&mut file);
            write(encoder, picture, exif).map_err(|error| unencodable(format, error))?;
            Ok(file)
        }
    }
}

/// The receipt that [`encode`] put into a file of any format; `None` where there is none.
pub fn read_receipt(file: &[u8]) -> Option<Value> {
    match sniff(file)? {
        Format::Png => read_png_receipt(file),
        Format::Jpeg => read_exif_receipt(JpegDecoder::new(Cursor::new(file)).ok()?),
        Format::WebP => {
            let unlimited = Limits { bytes: usize::MAX, pixels: u64::MAX };
            let file = headers::checked_webp(file, &unlimited).ok()?;
            read_exif_receipt(WebPDecoder::new(Cursor::new(file)).ok()?)
        }
    }
}

fn encode_png(picture: &Picture, texts: Option<Texts>) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, picture.size().width(), picture.size().height());
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_color(match picture.channels() {
        Channels::Rgb => png::ColorType::Rgb,
        Channels::Rgba => png::ColorType::Rgba,
    });
    if let Some(Texts { json, parameters }) = texts {
        encoder.add_itxt_chunk(RECEIPT_KEY.to_owned(), json)?;
        let is_latin1 = parameters.chars().all(|letter| u32::from(letter) < 256);
        let add = if is_latin1 { png::Encoder::add_text_chunk } else { png::Encoder::add_itxt_chunk };
        add(&mut encoder, PARAMETERS_KEY.to_owned(), parameters)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels())?;
    writer.finish()?;
    Ok(file)
}

/// The receipt as EXIF, without its JSON or not at all where that is more than `room`.
fn exif_within(Texts { json, parameters }: &Texts, room: usize) -> Option<Vec<u8>> {
    [json.as_str(), ""]
        .into_iter()
        .map(|json| exif::write(parameters, json))
        .find(|block| block.len() <= room)
}

/// The picture over white, without alpha.
fn flattened(picture: &Picture) -> Cow<'_, Picture> {
    if picture.channels() == Channels::Rgb {
        return Cow::Borrowed(picture);
    }
    let over_white = |pixel: &[u8]| {
        let alpha = u32::from(pixel[3]);
        [pixel[0], pixel[1], pixel[2]]
            .map(|color| ((u32::from(color) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
    };
    let pixels = picture.pixels().chunks_exact(4).flat_map(over_white).collect();
    Cow::Owned(Picture::new(picture.size(), Channels::Rgb, pixels).expect("three bytes for each pixel"))
}

fn write(mut encoder: impl ImageEncoder, picture: &Picture, exif: Option<Vec<u8>>) -> image::ImageResult<()> {
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).map_err(image::ImageError::Unsupported)?;
    }
    let color = match picture.channels() {
        Channels::Rgb => ExtendedColorType::Rgb8,
        Channels::Rgba => ExtendedColorType::Rgba8,
    };
    encoder.write_image(picture.pixels(), picture.size().width(), picture.size().height(), color)
}

fn unencodable(format: Format, problem: impl fmt::Display) -> ImageError {
    ImageError::new(
        ImageErrorKind::Unencodable,
        format_args!("the picture cannot be written as {format}: {problem}"),
    )
}

fn read_png_receipt(file: &[u8]) -> Option<Value> {
    serde_json::from_str(&read_texts(file)?.json).ok()
}

/// The texts in a PNG file; `None` where it holds no receipt.
pub(crate) fn read_texts(file: &[u8]) -> Option<Texts> {
    let reader = png::Decoder::new(Cursor::new(file)).read_info().ok()?;
    let info = reader.info();
    let international = |key: &str| {
        let chunk = info.utf8_text.iter().find(|chunk| chunk.keyword == key)?;
        chunk.get_text().ok()
    };
    let latin1 = |key: &str| {
        let chunk = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == key)?;
        Some(chunk.text.clone())
    };
    Some(Texts {
        json: international(RECEIPT_KEY)?,
        parameters: latin1(PARAMETERS_KEY).or_else(|| international(PARAMETERS_KEY)).unwrap_or_default(),
    })
}

fn read_exif_receipt(mut decoder: impl ImageDecoder) -> Option<Value> {
    let block = decoder.exif_metadata().ok()??;
    let mut values = serde_json::Deserializer::from_slice(exif::find_json(&block)?).into_iter();
    values.next()?.ok()
}
