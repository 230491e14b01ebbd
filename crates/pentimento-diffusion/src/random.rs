//! Models of the published architectures with made-up weights: for measuring without a download.
//!
//! The weights are uniform and scaled to their inputs, as networks are initialised, and follow from the tensors' names
//! alone; norms are neutral. Such a model draws noise, at the speed and with the memory of a real one.

use crate::{
    error::LoadError,
    files::{Bytes, ModelFiles},
    single_file::{Family, names_in, tokenizer_files},
    source::{StoredTensor, WeightSource},
    weights::Weights,
};
use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// A published architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion XL, base.
    Sdxl,
}

/// A model of made-up weights.
pub struct RandomModel {
    documents: BTreeMap<String, Bytes>,
}

impl RandomModel {
    /// A model of this architecture.
    pub fn new(architecture: Architecture) -> Self {
        let mut model = Self { documents: BTreeMap::new() };
        let family = match architecture {
            Architecture::Sd15 => Family::One,
            Architecture::Sdxl => Family::Xl { predicts_v: false, zero_snr: false },
        };
        model.put("model_index.json", &family.index());
        model.put("scheduler/scheduler_config.json", &family.scheduler());
        model.put("vae/config.json", &vae(family));
        model.put("unet/config.json", &unet(architecture, family));
        model.put("text_encoder/config.json", &text("CLIPTextModel", 768, 12, 12, "quick_gelu"));
        if architecture == Architecture::Sdxl {
            let config = text("CLIPTextModelWithProjection", 1280, 32, 20, "gelu");
            model.put("text_encoder_2/config.json", &config);
        }
        model.put("controlnet-canny/config.json", &control(unet(architecture, family)));
        for (folder, pads_with) in family.tokenizers() {
            for (name, bytes) in tokenizer_files(pads_with) {
                model.documents.insert(format!("{folder}/{name}"), bytes);
            }
        }
        model
    }

    fn put(&mut self, path: &str, document: &Value) {
        self.documents.insert(path.to_owned(), Bytes::from(document.to_string().into_bytes()));
    }
}

impl ModelFiles for RandomModel {
    fn describe(&self, path: &str) -> String {
        format!("{path} of the random model")
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        Ok(self.documents.get(path).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        Ok(names_in(&self.documents, folder))
    }

    fn weights(&self, folder: &str) -> Result<Option<Weights>, LoadError> {
        let folder = folder.to_owned();
        Ok(Some(Weights::named_alike(Arc::new(MadeUp { folder, tensors: BTreeMap::new() }))))
    }
}

/// Weights of any name and shape.
struct MadeUp {
    folder: String,
    tensors: BTreeMap<String, StoredTensor>,
}

impl WeightSource for MadeUp {
    fn label(&self) -> String {
        format!("the random weights of {}", self.folder)
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        Err(crate::source::absent(self, name))
    }

    fn invent(&self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        let count = shape.iter().product();
        match shape {
            [] => Some(vec![0.0]),
            [_] => Some(vec![if name.ends_with("bias") { 0.0 } else { 1.0 }; count]),
            [_, inputs @ ..] => {
                // Variance 1 / inputs: that of a uniform distribution up to √3 times its deviation.
                let reach = (3.0 / inputs.iter().product::<usize>() as f32).sqrt();
                Some(uniform(&format!("{}/{name}", self.folder), count, reach))
            }
        }
    }

    fn hash_into(&self, hash: &mut Sha256) -> Result<(), LoadError> {
        hash.update(self.folder.as_bytes());
        Ok(())
    }
}

/// So many numbers of `-reach` to `reach` that follow from a name.
fn uniform(name: &str, count: usize, reach: f32) -> Vec<f32> {
    let digest = Sha256::digest(name.as_bytes());
    let seed = digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
    let value = |index: u64| {
        // Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators": SplitMix64.
        let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 24 bits, of -1 to 1.
        ((z ^ z >> 31) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).into_par_iter().with_min_len(1 << 14).map(|index| reach * value(index as u64)).collect()
}

fn vae(family: Family) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32,
        "act_fn": "silu", "scaling_factor": family.scaling_factor(),
    })
}

fn unet(architecture: Architecture, family: Family) -> Value {
    let mut config = json!({
        "_class_name": "UNet2DConditionModel", "sample_size": family.sample_size(), "in_channels": 4,
        "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    });
    let of_architecture = match architecture {
        Architecture::Sd15 => json!({
            "down_block_types":
                ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        }),
        Architecture::Sdxl => json!({
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [320, 640, 1280],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": true,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }),
    };
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), of_architecture) {
        config.extend(more);
    }
    config
}

/// Of the control network for a UNet.
fn control(mut unet: Value) -> Value {
    unet["_class_name"] = "ControlNetModel".into();
    unet["conditioning_embedding_out_channels"] = json!([16, 32, 96, 256]);
    unet
}

fn text(class: &str, hidden: usize, layers: usize, heads: usize, activation: &str) -> Value {
    json!({
        "architectures": [class], "vocab_size": 49408, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 77,
        "hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": hidden, "bos_token_id": 49406,
        "eos_token_id": 49407,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_from_names_and_have_the_deviation_that_networks_start_with() {
        let source = MadeUp { folder: "unet".to_owned(), tensors: BTreeMap::new() };
        let of = |name: &str, shape: &[usize]| source.invent(name, shape).expect("values");
        let values = of("a.weight", &[64, 32, 3, 3]);
        assert_eq!(values, of("a.weight", &[64, 32, 3, 3]));
        assert_ne!(values, of("b.weight", &[64, 32, 3, 3]));
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance * 288.0 - 1.0).abs() < 0.05, "{variance}");
        assert_eq!(of("norm.weight", &[3]), [1.0; 3]);
        assert_eq!(of("norm.bias", &[3]), [0.0; 3]);
    }

    #[test]
    fn any_weights_can_be_read() {
        let weights = RandomModel::new(Architecture::Sd15).weights("unet").expect("weights").expect("some");
        let values = weights.values("conv_in.weight", &[320, 4, 3, 3]).expect("values");
        assert_eq!(values.len(), 320 * 4 * 9);
        assert!(values.iter().any(|value| *value != 0.0));
    }
}
