//! The last step before a picture is sent: a visible mark, a label in the file's metadata, a file format.
//!
//! Drawn pictures are kept as PNG with their receipt. What a caller wants of them beyond that may differ from one time it
//! asks to the next, so it is done to the file when it is asked for.

use crate::{Format, ImageError, Label, Limits, Mark, decode, encode};
use std::borrow::Cow;

/// What becomes of a drawn picture before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// The file's format.
    pub format: Format,
    /// Text that is seen in the picture.
    pub mark: Option<Mark>,
    /// What the file's metadata say of its making. In PNG and JPEG only.
    pub label: Option<Label>,
}

impl Finish {
    /// The PNG file as it was drawn.
    pub const fn none() -> Self {
        Self { format: Format::Png, mark: None, label: None }
    }

    /// Finishes a drawn picture's PNG file. Its receipt stays in it, in the form that the new format has for it.
    ///
    /// # Errors
    /// When the file is no whole PNG, or the format does not hold the picture or the label.
    pub fn apply<'a>(&self, drawn: &'a [u8]) -> Result<Cow<'a, [u8]>, ImageError> {
        let Self { format, mark, label } = self;
        let mut file = Cow::Borrowed(drawn);
        if mark.is_some() || *format != Format::Png {
            // It is the server's own file: what it drew it can hold.
            let mut picture = decode(drawn, &Limits { bytes: usize::MAX, pixels: u64::MAX })?;
            if let Some(mark) = mark {
                mark.draw(&mut picture);
            }
            file = Cow::Owned(encode::with_texts(&picture, *format, encode::read_texts(drawn))?);
        }
        if let Some(label) = label {
            file = Cow::Owned(label.put_into(&file, *format)?);
        }
        Ok(file)
    }
}
