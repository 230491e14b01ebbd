//! Room for pictures: whether the memory that drawing one takes is there, told before it waits for its turn.

use crate::memory;
use pentimento_request::{ErrorKind, GenerateError};

/// How much memory drawing one picture may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PictureRoom {
    /// Nobody counts.
    Any,
    /// So many bytes beside the model.
    Bytes(u64),
    /// So many bytes together with its model.
    WithModel(u64),
}

impl PictureRoom {
    /// What a configuration says: bytes, 0 for no limit; without it, what the machine has.
    pub(crate) fn configured(bytes: Option<u64>) -> Self {
        match bytes {
            Some(0) => Self::Any,
            Some(bytes) => Self::Bytes(bytes),
            None => memory::whole().map_or(Self::Any, Self::WithModel),
        }
    }

    /// Refuses a picture of so many bytes of a model of so many.
    ///
    /// # Errors
    /// Of kind `Unsupported`: trying again would not help.
    pub(crate) fn check(self, model: u64, picture: u64) -> Result<(), GenerateError> {
        let left = match self {
            Self::Any => return Ok(()),
            Self::Bytes(bytes) => bytes,
            Self::WithModel(whole) => whole.saturating_sub(model),
        };
        if picture <= left {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes >> 20;
        let message = format!(
            "size: drawing this would take about {} MiB of memory, more than the {} MiB that there are for a picture",
            mebibytes(picture),
            mebibytes(left)
        );
        Err(GenerateError::new(ErrorKind::Unsupported, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let mebibyte = 1 << 20;
        assert!(PictureRoom::configured(Some(0)).check(u64::MAX, u64::MAX).is_ok());
        assert!(PictureRoom::Bytes(5).check(100, 5).is_ok());
        assert!(PictureRoom::WithModel(100).check(60, 40).is_ok());
        assert!(PictureRoom::WithModel(100).check(200, 1).is_err());
        let error = PictureRoom::Bytes(300 * mebibyte).check(0, 700 * mebibyte).expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("700 MiB") && error.message().contains("300 MiB"), "{error}");
    }
}
