//! `[models]`: which model answers a name, and what goes with it.

use super::{ConfiguredDtype, ConfiguredFilter};
use pentimento_request::{Accelerations, GuidanceInterval, TokenMerging};
use serde::{Deserialize, Deserializer, de};
use std::{fmt, path::PathBuf, str::FromStr};

/// A value of `[models]`: a folder or name, or a table of it and its options.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// Folder, file or name.
    pub(crate) model: String,
    /// A file with another VAE.
    pub(crate) vae: Option<PathBuf>,
    /// Precision of the arithmetic; the file's `dtype` where it is absent.
    pub(crate) dtype: Option<ConfiguredDtype>,
    /// Largest picture, in pixels, that it works at; the file's `limits.pixels` where it is absent.
    pub(crate) pixels: Option<u64>,
    /// Guidance rescale, which the protocol has no field for.
    pub(crate) guidance_rescale: f32,
    /// What makes it draw faster, which the protocol has no field for either.
    pub(crate) accelerations: Accelerations,
    /// What is done with pictures that its checker objects to; the file's `filter.mode` where it is absent.
    pub(crate) filter: Option<ConfiguredFilter>,
    /// What goes with it, by names in the folders of control networks and picture adapters.
    pub(crate) companions: CompanionNames,
}

/// What goes with a model, by its name in the folders.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CompanionNames {
    /// The control network for edges, instead of the one in the model's folder.
    pub(crate) canny: Option<String>,
    /// The control network for texture, instead of the one in the model's folder.
    pub(crate) tile: Option<String>,
    /// The adapter for faces, instead of the first one that fits.
    pub(crate) face: Option<String>,
}

impl ModelConfig {
    /// A model without options.
    pub(crate) fn named(model: String) -> Self {
        let companions = CompanionNames::default();
        Self {
            model,
            vae: None,
            dtype: None,
            pixels: None,
            guidance_rescale: 0.0,
            accelerations: Accelerations::NONE,
            filter: None,
            companions,
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ModelVisitor)
    }
}

/// Reads either form of a [`ModelConfig`], so that a mistake in the table is named as such.
struct ModelVisitor;

impl<'de> de::Visitor<'de> for ModelVisitor {
    type Value = ModelConfig;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a model's folder or name, or a table with `model`")
    }

    fn visit_str<E: de::Error>(self, model: &str) -> Result<ModelConfig, E> {
        Ok(ModelConfig::named(model.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ModelConfig, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            model: String,
            vae: Option<PathBuf>,
            dtype: Option<ConfiguredDtype>,
            pixels: Option<u64>,
            #[serde(default)]
            guidance_rescale: f32,
            guidance_interval: Option<String>,
            step_cache: Option<String>,
            #[serde(default)]
            token_merging: f64,
            filter: Option<ConfiguredFilter>,
            canny: Option<String>,
            tile: Option<String>,
            face: Option<String>,
        }
        let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let Table {
            model,
            vae,
            dtype,
            pixels,
            guidance_rescale,
            guidance_interval,
            step_cache,
            token_merging,
            filter,
            canny,
            tile,
            face,
        } = table;
        if !(0.0..=1.0).contains(&guidance_rescale) {
            return Err(de::Error::custom("guidance_rescale goes from 0 to 1"));
        }
        let guidance_interval = match guidance_interval {
            Some(text) => typed("guidance_interval", &text)?,
            None => GuidanceInterval::WHOLE,
        };
        let step_cache = step_cache.map(|text| typed("step_cache", &text)).transpose()?;
        let token_merging = TokenMerging::new(token_merging);
        let token_merging =
            token_merging.map_err(|error| de::Error::custom(format!("token_merging: {error}")))?;
        let accelerations = Accelerations { guidance_interval, step_cache, token_merging };
        let companions = CompanionNames { canny, tile, face };
        Ok(ModelConfig { model, vae, dtype, pixels, guidance_rescale, accelerations, filter, companions })
    }
}

/// A value in the spelling of the command line.
fn typed<T: FromStr<Err: fmt::Display>, E: de::Error>(key: &str, text: &str) -> Result<T, E> {
    text.parse().map_err(|error| E::custom(format!("{key}: {error}")))
}
