//! The last step before a picture is sent: a visible mark, a label in the file's metadata, a file format.
//!
//! Drawn pictures are kept as PNG with their receipt. What a caller wants of them beyond that may differ from one time it
//! asks to the next, so it is done to the file when it is asked for.

use crate::Format;

/// What becomes of a drawn picture before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// The file's format.
    pub format: Format,
}

impl Finish {
    /// The PNG file as it was drawn.
    pub const fn none() -> Self {
        Self { format: Format::Png }
    }
}
