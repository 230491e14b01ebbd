//! What can be wrong with a picture file, by what its sender can do about it.

use crate::Format;
use std::{error::Error, fmt};

/// What the sender of a file can do about an error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageErrorKind {
    /// The file is larger than allowed: compress or shrink it.
    TooManyBytes,
    /// The picture has more pixels, or a longer side, than allowed: shrink it.
    TooManyPixels,
    /// The bytes are of no format that is read: convert them.
    UnknownFormat,
    /// The format is known, but the file is damaged, cut off, or uses a rare feature that is not read.
    Malformed,
    /// The picture does not fit the format that it should be written in: choose another format.
    Unencodable,
}

/// An error of reading or writing a picture file. Its message is one line and names the limit that was passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    kind: ImageErrorKind,
    message: String,
}

impl ImageError {
    /// An error of this kind. Codecs' messages may come in several lines; they are joined to one.
    pub(crate) fn new(kind: ImageErrorKind, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, message }
    }

    /// What the sender of the file can do.
    pub fn kind(&self) -> ImageErrorKind {
        self.kind
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl Error for ImageError {}

/// An error about a file of this format that cannot be read.
pub(crate) fn malformed(format: Format, problem: impl fmt::Display) -> ImageError {
    ImageError::new(ImageErrorKind::Malformed, format_args!("the {format} file cannot be read: {problem}"))
}
