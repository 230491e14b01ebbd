//! Which family a file of weights belongs to, from the names and shapes of its tensors.

use super::{
    configs::TextKind,
    names::{self, Stored, any_below},
};
use crate::source::WeightSource;
use serde_json::{Value, json};

/// A family of models that one file can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Stable Diffusion 1.x.
    One,
    /// Stable Diffusion 2.x.
    Two {
        /// Whether the network predicts v, not the noise.
        predicts_v: bool,
    },
    /// Stable Diffusion XL, base.
    Xl {
        /// Whether the network predicts v, not the noise.
        predicts_v: bool,
        /// Whether its schedule was rescaled to end without signal.
        zero_snr: bool,
    },
}

/// A text encoder in a file.
pub(super) struct StoredText {
    pub(super) folder: &'static str,
    pub(super) prefix: &'static str,
    pub(super) kind: TextKind,
}

/// What other files have that are no models: a name that tells, and what the file is.
const KNOWN_STRANGERS: [(&str, &str); 11] = [
    (names::REFINER_CLIP, "is the refiner of Stable Diffusion XL, which is not run"),
    ("control_model.", "is a ControlNet, not a model: use it with --control"),
    ("controlnet_cond_embedding.", "is a ControlNet, not a model: use it with --control"),
    ("image_proj.", "is an IP-Adapter, not a model: use it with --ip-adapter or --face-adapter"),
    ("lora_unet_", "is a LoRA, not a model: use it with --lora"),
    ("lora_te", "is a LoRA, not a model: use it with --lora"),
    ("model.diffusion_model.joint_blocks.", "is Stable Diffusion 3, which is not run"),
    ("joint_blocks.", "is Stable Diffusion 3, which is not run"),
    ("model.diffusion_model.double_blocks.", "is Flux, which is not run"),
    ("double_blocks.", "is Flux, which is not run"),
    ("edm_mean", "is Playground 2.5, which is not run"),
];

impl Family {
    /// The family of a file, or what was found instead.
    pub(super) fn of(source: &dyn WeightSource) -> Result<Self, String> {
        let stored = source.tensors();
        if let Some((_, what)) = KNOWN_STRANGERS.iter().find(|(prefix, _)| any_below(stored, prefix)) {
            return Err((*what).to_owned());
        }
        if stored.keys().any(|name| name == "scaled_fp8" || name.ends_with(".scale_weight")) {
            return Err(
                "holds 8-bit weights with scales beside them; plain e4m3 and e5m2 are read".to_owned()
            );
        }
        if !any_below(stored, names::UNET) {
            return Err(without_unet(stored));
        }
        let has = |prefix| any_below(stored, prefix);
        if has(names::XL_OPEN_CLIP) && has(names::XL_CLIP) {
            // Markers that merging programs leave for models trained so.
            return Ok(Self::Xl {
                predicts_v: stored.contains_key("v_pred"),
                zero_snr: stored.contains_key("ztsnr"),
            });
        }
        if has(names::OPEN_CLIP) {
            return Ok(Self::Two { predicts_v: predicts_v(source) });
        }
        if has(names::CLIP) {
            return Ok(Self::One);
        }
        // A UNet without texts is still one of a family, whose texts it lacks: the width of what it attends to tells.
        let attended = format!("{}middle_block.1.transformer_blocks.0.attn2.to_k.weight", names::UNET);
        match stored.get(&attended).and_then(|tensor| tensor.shape.get(1)) {
            Some(768) => Ok(Self::One),
            Some(1024) => Ok(Self::Two { predicts_v: predicts_v(source) }),
            Some(2048) => Ok(Self::Xl { predicts_v: false, zero_snr: false }),
            _ => Err(format!("has a UNet but no text encoder of a known kind; it holds {}", found(stored))),
        }
    }

    /// The text encoders.
    pub(super) fn texts(self) -> Vec<StoredText> {
        let clip = || TextKind { class: "CLIPTextModel", activation: "quick_gelu", unused_layers: 0 };
        match self {
            Self::One => vec![StoredText { folder: "text_encoder", prefix: names::CLIP, kind: clip() }],
            Self::Two { .. } => vec![StoredText {
                folder: "text_encoder",
                prefix: names::OPEN_CLIP,
                // The family uses the states before the last layer.
                kind: TextKind { class: "CLIPTextModel", activation: "gelu", unused_layers: 1 },
            }],
            Self::Xl { .. } => vec![
                StoredText { folder: "text_encoder", prefix: names::XL_CLIP, kind: clip() },
                StoredText {
                    folder: "text_encoder_2",
                    prefix: names::XL_OPEN_CLIP,
                    kind: TextKind {
                        class: "CLIPTextModelWithProjection",
                        activation: "gelu",
                        unused_layers: 0,
                    },
                },
            ],
        }
    }

    /// Folders of the tokenizers, and what each fills texts up with.
    pub(crate) fn tokenizers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::One => &[("tokenizer", "<|endoftext|>")],
            Self::Two { .. } => &[("tokenizer", "!")],
            Self::Xl { .. } => &[("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")],
        }
    }

    /// Heads of a level of so many channels.
    pub(super) fn heads(self, channels: usize, width: usize) -> usize {
        match self {
            Self::One => 8,
            Self::Two { .. } | Self::Xl { .. } => (channels / width).max(1),
        }
    }

    /// Latent cells of the size that the family was made for: 512, 768 or 1024 pixels.
    pub(crate) fn sample_size(self) -> usize {
        match self {
            Self::One | Self::Two { predicts_v: false } => 64,
            Self::Two { predicts_v: true } => 96,
            Self::Xl { .. } => 128,
        }
    }

    /// What latents are multiplied with.
    pub(crate) fn scaling_factor(self) -> f64 {
        match self {
            Self::One | Self::Two { .. } => 0.18215,
            Self::Xl { .. } => 0.13025,
        }
    }

    /// `model_index.json`.
    pub(crate) fn index(self) -> Value {
        let mut index = json!({
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", self.scheduler_class()],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        if let Self::Xl { .. } = self {
            index["_class_name"] = "StableDiffusionXLPipeline".into();
            index["force_zeros_for_empty_prompt"] = true.into();
            index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
            index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
        }
        index
    }

    /// `scheduler/scheduler_config.json`.
    pub(crate) fn scheduler(self) -> Value {
        let (predicts_v, zero_snr) = match self {
            Self::One => (false, false),
            Self::Two { predicts_v } => (predicts_v, false),
            Self::Xl { predicts_v, zero_snr } => (predicts_v, zero_snr),
        };
        json!({
            "_class_name": self.scheduler_class(),
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": if predicts_v { "v_prediction" } else { "epsilon" },
            "rescale_betas_zero_snr": zero_snr,
            "set_alpha_to_one": false,
            "clip_sample": false,
            "steps_offset": 1,
            "timestep_spacing": if zero_snr { "trailing" } else { "leading" },
        })
    }

    /// The scheduler that the family was published with.
    fn scheduler_class(self) -> &'static str {
        match self {
            Self::One | Self::Two { predicts_v: false } => "PNDMScheduler",
            Self::Two { predicts_v: true } => "DDIMScheduler",
            Self::Xl { .. } => "EulerDiscreteScheduler",
        }
    }
}

/// Whether a network of the 2.x class predicts v. Nothing in a file says so; but in the published ones a bias near the end
/// spreads clearly wider where it does. Inpainting networks of the class predict the noise.
fn predicts_v(source: &dyn WeightSource) -> bool {
    // The name, and 0.09 between both kinds: as ComfyUI tells them apart.
    let bias = format!("{}output_blocks.11.1.transformer_blocks.0.norm1.bias", names::UNET);
    let inputs = source.tensors().get(&format!("{}input_blocks.0.0.weight", names::UNET));
    if inputs.is_some_and(|tensor| tensor.shape.get(1) == Some(&9)) {
        return false;
    }
    let Ok(values) = source.read(&bias) else { return true };
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    variance.sqrt() > 0.09
}

/// What a file is that holds no UNet in the naming of whole models.
fn without_unet(stored: &Stored) -> String {
    // diffusers' and PEFT's namings say it behind the layer's name.
    if stored.keys().any(|name| name.contains(".lora_") || name.contains(".lora.") || name.contains("_lora."))
    {
        return "is a LoRA, not a model: use it with --lora".to_owned();
    }
    if any_below(stored, "down_blocks.") {
        return "is a UNet alone: text encoder, tokenizer, VAE and scheduler are missing; put it into a model's folder as \
                unet/diffusion_pytorch_model.safetensors"
            .to_owned();
    }
    if any_below(stored, "encoder.") && any_below(stored, "decoder.") {
        return "is an autoencoder alone; use it beside a model (--vae)".to_owned();
    }
    format!("is of no known family (no {}…); it holds {}", names::UNET, found(stored))
}

/// The first parts of the names, as many as fit into a message.
fn found(stored: &Stored) -> String {
    let mut heads: Vec<&str> = stored.keys().map(|name| name.split('.').next().unwrap_or(name)).collect();
    heads.dedup();
    let more = if heads.len() > 6 { ", …" } else { "" };
    heads.truncate(6);
    let heads: Vec<String> =
        heads.into_iter().map(|head| format!("{}.…", head.chars().take(40).collect::<String>())).collect();
    match heads.is_empty() {
        true => "nothing".to_owned(),
        false => format!("{}{more}", heads.join(", ")),
    }
}
