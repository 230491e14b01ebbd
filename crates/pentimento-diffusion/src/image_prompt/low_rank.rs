//! The low-rank part of the FaceID adapters: a LoRA of all attention layers, numbered as the adapter numbers them.
//!
//! It always acts in full, as in diffusers, whatever the adapter's scale.

use super::{ImagePromptFile, places::attention_places};
use crate::{
    config::UnetConfig,
    error::{LoadError, LoadErrorKind},
    files::{Bytes, ModelFiles},
    lora::LoraFile,
};
use safetensors::{Dtype, tensor::TensorView};

/// One file that lies in memory.
struct Made {
    label: String,
    bytes: Bytes,
}

impl ModelFiles for Made {
    fn describe(&self, _path: &str) -> String {
        self.label.clone()
    }

    fn read(&self, _path: &str) -> Result<Option<Bytes>, LoadError> {
        Ok(Some(self.bytes.clone()))
    }

    fn list(&self, _folder: &str) -> Result<Vec<String>, LoadError> {
        Ok(Vec::new())
    }
}

impl ImagePromptFile {
    /// The low-rank part under the names of diffusers; `None` where the file has none.
    pub(crate) fn low_rank(&self, unet: &UnetConfig) -> Result<Option<LoraFile>, LoadError> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for place in attention_places(unet, &self.label)? {
            for (number, attention) in [(place.self_number(), "attn1"), (place.cross_number(), "attn2")] {
                for part in ["q", "k", "v", "out"] {
                    for way in ["down", "up"] {
                        let tail = format!("to_{part}_lora.{way}.weight");
                        let stored = format!("ip_adapter.{number}.{tail}");
                        let Some(shape) = self.weights.shape(&stored).map(<[usize]>::to_vec) else {
                            continue;
                        };
                        let values = self.weights.values(&stored, &shape)?;
                        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                        tensors.push((format!("unet.{}.{attention}.{tail}", place.name), shape, bytes));
                    }
                }
            }
        }
        if tensors.is_empty() {
            return Ok(None);
        }
        let failed = |error| {
            LoadError::caused_by(
                LoadErrorKind::Malformed,
                format!("{}: its low-rank part", self.label),
                error,
            )
        };
        let views = tensors.iter().map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let bytes = Bytes::from(safetensors::serialize(views, None).map_err(failed)?);
        LoraFile::open(&Made { label: self.label.clone(), bytes }, "low_rank.safetensors").map(Some)
    }
}
