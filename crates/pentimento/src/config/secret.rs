//! Secrets in the configuration: as they are, in a file, or in the environment.

use serde::{Deserialize, Deserializer, de};
use std::{cell::RefCell, fmt, fs, path::PathBuf};

/// A text that never shows itself in messages and logs. Written as it is, as `{ file = "PATH" }` or as
/// `{ variable = "NAME" }` of the environment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(SecretVisitor)
    }
}

/// Reads any form of a [`Secret`]. A relative path is taken from the folder of the file that is read.
struct SecretVisitor;

impl<'de> de::Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text, { file = \"PATH\" } or { variable = \"NAME\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Elsewhere {
            File(PathBuf),
            Variable(String),
        }
        let text = match Elsewhere::deserialize(de::value::MapAccessDeserializer::new(map))? {
            Elsewhere::File(path) => FOLDER.with_borrow(|folder| {
                let path = folder.join(path);
                fs::read_to_string(&path)
                    .map_err(|error| de::Error::custom(format!("cannot read {}: {error}", path.display())))
            })?,
            Elsewhere::Variable(name) => std::env::var(&name)
                .map_err(|_| de::Error::custom(format!("the environment has no variable {name}")))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(de::Error::custom("the secret is empty"));
        }
        Ok(Secret::new(text))
    }
}

thread_local! {
    /// The folder of the file that is being read.
    pub(super) static FOLDER: RefCell<PathBuf> = const { RefCell::new(PathBuf::new()) };
}

impl Secret {
    /// A secret of this text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for those who check it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}
