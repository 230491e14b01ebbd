//! What files say about themselves, read before a codec is let loose on them.
//!
//! Only as much as the codecs leave open: sizes that they would take memory for, and ends that they would not miss.
//! Source: PNG (ISO/IEC 15948) section 11.2.2; JPEG (ITU-T T.81) annex B; WebP (RFC 9649) section 2; VP8 (RFC 6386)
//! section 9.1.

use crate::{Format, ImageError, Limits, error::malformed};

/// Width and height in a PNG's header, which is always its first chunk.
pub(crate) fn png_size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let no_header = || malformed(Format::Png, "it has no header");
    let rest = bytes.get(8..).and_then(|rest| rest.strip_prefix(b"\0\0\0\x0dIHDR")).ok_or_else(no_header)?;
    let (sides, _) = rest.split_first_chunk::<8>().ok_or_else(no_header)?;
    let [a, b, c, d, e, f, g, h] = *sides;
    Ok((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
}

/// Refuses a JPEG without an end marker behind its first scan: the decoder would fill up what is missing with grey.
pub(crate) fn check_jpeg_end(bytes: &[u8]) -> Result<(), ImageError> {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    // The segments before the first scan are skipped by their lengths: a thumbnail in them has an end of its own.
    while let Some(&[marker, kind, high, low]) = bytes.get(at..at + 4) {
        match (marker, kind) {
            (0xff, START_OF_SCAN) if bytes[at..].windows(2).any(|pair| pair == END_OF_IMAGE) => return Ok(()),
            (0xff, START_OF_SCAN) => break,
            // Any number of 0xff may come before a marker.
            (0xff, 0xff) => at += 1,
            (0xff, _) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            // No segment begins here. The decoder says what is wrong.
            _ => return Ok(()),
        }
    }
    Err(malformed(Format::Jpeg, "it is cut off"))
}

/// The file without what lies behind its end, once its chunks lie within it (the decoder takes memory for what they
/// claim) and its lossy frames within the limits (the decoder reads a frame before it compares it with the canvas).
pub(crate) fn checked_webp<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a [u8], ImageError> {
    /// Where the chunks of an animation's frame begin, behind the frame's place and duration.
    const FRAME_HEADER: usize = 16;
    let mut rest = bytes;
    let riff = next_webp_chunk(&mut rest)?.map_or(&[][..], |chunk| chunk.body);
    let mut chunks = riff.get(4..).unwrap_or_default();
    while let Some(chunk) = next_webp_chunk(&mut chunks)? {
        if chunk.name != b"ANMF" {
            check_webp_frame(&chunk, limits)?;
            continue;
        }
        let mut chunks = chunk.body.get(FRAME_HEADER..).unwrap_or_default();
        while let Some(chunk) = next_webp_chunk(&mut chunks)? {
            check_webp_frame(&chunk, limits)?;
        }
    }
    Ok(&bytes[..8 + riff.len()])
}

/// A part of a WebP file.
struct WebPChunk<'a> {
    name: &'a [u8],
    body: &'a [u8],
}

/// Takes a chunk off the front. `None` where too little is left for one.
fn next_webp_chunk<'a>(chunks: &mut &'a [u8]) -> Result<Option<WebPChunk<'a>>, ImageError> {
    let Some((head, rest)) = chunks.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let [name @ .., a, b, c, d] = head;
    let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
    let body = rest.get(..length).ok_or_else(|| malformed(Format::WebP, "it is cut off"))?;
    // Chunks begin at even places.
    *chunks = rest.get(length + length % 2..).unwrap_or_default();
    Ok(Some(WebPChunk { name, body }))
}

/// Refuses a lossy frame larger than allowed. What is too short to have a size is left to the decoder.
fn check_webp_frame(chunk: &WebPChunk<'_>, limits: &Limits) -> Result<(), ImageError> {
    let Some(&[a, b, c, d]) = chunk.body.get(6..10).filter(|_| chunk.name == b"VP8 ") else {
        return Ok(());
    };
    // The two upper bits are a scale for showing.
    let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff);
    limits.check(Format::WebP, side([a, b]), side([c, d])).map(|_| ())
}
