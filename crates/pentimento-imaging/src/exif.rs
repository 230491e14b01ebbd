//! The receipt in EXIF, for the formats that have no text chunks.
//!
//! Two fields: `UserComment` holds the parameters where A1111 and its readers look for them, `MakerNote` the whole
//! receipt as JSON behind [`NOTE_PREFIX`].
//! Source: Exif 2.32, sections 4.6.2 (structure) and 4.6.5 (`MakerNote`, `UserComment`).

/// What tells our note from a camera's.
const NOTE_PREFIX: &[u8] = b"pentimento\0";

/// Eight bytes that name the encoding of a `UserComment`: UTF-16 in the file's byte order.
const COMMENT_PREFIX: &[u8] = b"UNICODE\0";

const TAG_EXIF_DIRECTORY: u16 = 0x8769;
const TAG_MAKER_NOTE: u16 = 0x927c;
const TAG_USER_COMMENT: u16 = 0x9286;
const TYPE_LONG: u16 = 4;
const TYPE_UNDEFINED: u16 = 7;

/// Length of a directory's entry.
const ENTRY: usize = 12;

/// An EXIF block, without the `Exif\0\0` that comes before it in a JPEG. `json` may be empty.
pub(crate) fn write(parameters: &str, json: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    if !json.is_empty() {
        fields.push((TAG_MAKER_NOTE, [NOTE_PREFIX, json.as_bytes()].concat()));
    }
    let comment: Vec<u8> = parameters.encode_utf16().flat_map(u16::to_be_bytes).collect();
    fields.push((TAG_USER_COMMENT, [COMMENT_PREFIX, &comment].concat()));

    // Big-endian, the first directory at 8: one entry, which leads to the second directory behind it.
    let mut block = b"MM\0\x2a\0\0\0\x08".to_vec();
    let second = block.len() + 2 + ENTRY + 4;
    block.extend(1_u16.to_be_bytes());
    push_entry(&mut block, TAG_EXIF_DIRECTORY, TYPE_LONG, 1, second);
    block.extend(0_u32.to_be_bytes());

    block.extend((fields.len() as u16).to_be_bytes());
    let mut data = second + 2 + fields.len() * ENTRY + 4;
    for (tag, value) in &fields {
        push_entry(&mut block, *tag, TYPE_UNDEFINED, value.len(), data);
        data += value.len();
    }
    block.extend(0_u32.to_be_bytes());
    block.extend(fields.into_iter().flat_map(|(_, value)| value));
    block
}

/// The JSON text that [`write`] put into an EXIF block, with whatever bytes follow it.
pub(crate) fn find_json(block: &[u8]) -> Option<&[u8]> {
    let start = block.windows(NOTE_PREFIX.len()).position(|window| window == NOTE_PREFIX)?;
    block.get(start + NOTE_PREFIX.len()..)
}

/// Appends a directory's entry. Blocks are small: counts and places fit 32 bits.
fn push_entry(block: &mut Vec<u8>, tag: u16, kind: u16, count: usize, value: usize) {
    block.extend(tag.to_be_bytes());
    block.extend(kind.to_be_bytes());
    block.extend((count as u32).to_be_bytes());
    block.extend((value as u32).to_be_bytes());
}
