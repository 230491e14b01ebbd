//! The file formats, and how they are recognised.

use pentimento_request::UnknownName;
use std::{fmt, path::Path, str::FromStr};

/// A file format that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Portable Network Graphics; lossless.
    Png,
    /// JPEG; lossy, without alpha.
    Jpeg,
    /// WebP; read in all its forms, written lossless.
    WebP,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::WebP];

    /// The name, which is also the usual extension of a file's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// The media type for HTTP.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }

    /// The format of this name in any case; `jpg` is JPEG too.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("jpg") {
            return Some(Self::Jpeg);
        }
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// The format that the extension of a file's name asks for.
    pub fn from_path(path: impl AsRef<Path>) -> Option<Self> {
        Self::from_name(path.as_ref().extension()?.to_str()?)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownName;

    /// Reads a name as [`Format::from_name`] does.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::from_name(given).ok_or_else(|| UnknownName {
            what: "picture format",
            given: given.to_owned(),
            known: Self::ALL.map(Self::name).to_vec(),
        })
    }
}

/// The format that these bytes begin as, whatever their file is called.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        Some(Format::Jpeg)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some(Format::WebP)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_media_types_agree() {
        for format in Format::ALL {
            assert_eq!(format.name().to_uppercase().parse(), Ok(format));
            assert_eq!(Format::from_path(format!("a.b/c.{format}")), Some(format));
            assert_eq!(format.media_type(), format!("image/{format}"));
        }
        assert_eq!(Format::from_path("photo.JPG"), Some(Format::Jpeg));
        assert_eq!(Format::from_path("png"), None);
        let message = "gif".parse::<Format>().expect_err("no such format").to_string();
        assert!(message.contains("'gif'") && message.contains("png, jpeg, webp"), "{message}");
    }

    #[test]
    fn bytes_decide_and_short_ones_decide_nothing() {
        assert_eq!(sniff(b"RIFF\0\0\0\0WEBPVP8L"), Some(Format::WebP));
        assert_eq!(sniff(b"RIFF\0\0\0\0WAVEfmt "), None);
        assert_eq!(sniff(b"GIF89a"), None);
        assert_eq!(sniff(b""), None);
    }
}
