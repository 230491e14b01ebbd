//! What becomes of pictures that a content filter objects to.

use crate::UnknownName;
use std::{fmt, str::FromStr};

/// What is done with a picture that the model's checker objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterMode {
    /// No picture is looked at.
    Off,
    /// The picture stays as it is, and the verdict says so.
    Flag,
    /// The picture is blurred past recognition.
    Blur,
    /// The picture is replaced by black.
    Block,
}

impl FilterMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Off, Self::Flag, Self::Blur, Self::Block];

    /// The name in options and configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Flag => "flag",
            Self::Blur => "blur",
            Self::Block => "block",
        }
    }
}

impl fmt::Display for FilterMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for FilterMode {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "filter mode",
                given: given.to_owned(),
                known: Self::ALL.map(Self::name).to_vec(),
            }
        })
    }
}

/// What the content filter said of a picture, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nobody looked at it.
    Unchecked,
    /// It was looked at, and nothing was found.
    Clean,
    /// Something was found; the picture is as it was drawn.
    Flagged,
    /// Something was found, and the picture is blurred past recognition.
    Blurred,
    /// Something was found, and the picture is black.
    Blocked,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] = [Self::Unchecked, Self::Clean, Self::Flagged, Self::Blurred, Self::Blocked];

    /// The name in receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Clean => "clean",
            Self::Flagged => "flagged",
            Self::Blurred => "blurred",
            Self::Blocked => "blocked",
        }
    }

    /// Whether the picture is another one than was drawn.
    pub const fn is_withheld(self) -> bool {
        matches!(self, Self::Blurred | Self::Blocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_back_in_any_case() {
        for mode in FilterMode::ALL {
            assert_eq!(mode.name().to_uppercase().parse(), Ok(mode));
        }
        assert!("on".parse::<FilterMode>().is_err());
    }
}
