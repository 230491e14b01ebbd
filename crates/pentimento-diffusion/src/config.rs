//! The JSON configurations of a diffusers folder, as far as the engine obeys them.
//!
//! A setting that would change the picture and that the engine does not implement is refused by its name, never
//! passed over. Defaults are those of the classes in diffusers and transformers.

use crate::{
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{collections::BTreeMap, ops::RangeInclusive};

/// Reads and parses a JSON file of the model.
pub(crate) fn read_json<T: DeserializeOwned>(files: &dyn ModelFiles, path: &str) -> Result<T, LoadError> {
    let label = files.describe(path);
    let bytes = files
        .read(path)?
        .ok_or_else(|| LoadError::new(LoadErrorKind::Missing, format!("{label} is missing")))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        LoadError::caused_by(LoadErrorKind::Malformed, format!("{label} is not as expected"), error)
    })
}

/// `model_index.json`: which class each part has.
#[derive(Debug, Deserialize)]
pub(crate) struct ModelIndex {
    #[serde(rename = "_class_name")]
    pub(crate) class_name: String,
    /// Whether no negative prompt at all means zeros (SDXL).
    #[serde(default = "yes")]
    pub(crate) force_zeros_for_empty_prompt: bool,
    /// Whether the pipeline asks for scores of beauty (SDXL's refiner).
    #[serde(default)]
    pub(crate) requires_aesthetics_score: bool,
    #[serde(flatten)]
    parts: BTreeMap<String, Value>,
}

impl ModelIndex {
    /// The class of a part, `None` when the model has no such part.
    pub(crate) fn class_of(&self, part: &str) -> Option<&str> {
        self.parts.get(part)?.as_array()?.get(1)?.as_str()
    }
}

/// The default of `force_zeros_for_empty_prompt` in diffusers' SDXL pipelines.
fn yes() -> bool {
    true
}

/// One number for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum PerLevel {
    One(usize),
    Each(Vec<usize>),
}

impl PerLevel {
    /// The numbers of `levels` levels; `None` when the list has another length.
    pub(crate) fn levels(&self, levels: usize) -> Option<Vec<usize>> {
        match self {
            Self::One(number) => Some(vec![*number; levels]),
            Self::Each(numbers) => (numbers.len() == levels).then(|| numbers.clone()),
        }
    }

    /// The numbers as they stand there.
    pub(crate) fn numbers(&self) -> &[usize] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Each(numbers) => numbers,
        }
    }
}

/// `unet/config.json` of a `UNet2DConditionModel`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct UnetConfig {
    pub(crate) sample_size: Option<PerLevel>,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) flip_sin_to_cos: bool,
    pub(crate) freq_shift: f64,
    pub(crate) down_block_types: Vec<String>,
    pub(crate) mid_block_type: Option<String>,
    pub(crate) up_block_types: Vec<String>,
    pub(crate) block_out_channels: Vec<usize>,
    pub(crate) layers_per_block: PerLevel,
    pub(crate) downsample_padding: usize,
    pub(crate) act_fn: String,
    pub(crate) norm_num_groups: Option<usize>,
    pub(crate) norm_eps: f64,
    pub(crate) cross_attention_dim: PerLevel,
    pub(crate) transformer_layers_per_block: PerLevel,
    /// Despite its name the number of heads; diffusers keeps the slip for compatibility.
    pub(crate) attention_head_dim: PerLevel,
    pub(crate) num_attention_heads: Option<PerLevel>,
    pub(crate) use_linear_projection: bool,
    /// `text_time` in SDXL: the pooled text and the picture's sizes are added to the timestep's embedding.
    pub(crate) addition_embed_type: Option<String>,
    /// Sinusoids per size.
    pub(crate) addition_time_embed_dim: Option<usize>,
    /// Width of what `text_time` embeds, texts and sizes together.
    pub(crate) projection_class_embeddings_input_dim: Option<usize>,
    /// Width of the embedding of the guidance scale that a consistency model was distilled with.
    pub(crate) time_cond_proj_dim: Option<usize>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Default for UnetConfig {
    fn default() -> Self {
        let owned = |names: [&str; 4]| names.map(str::to_owned).to_vec();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: owned([
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: owned([
                "UpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
            ]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::One(2),
            downsample_padding: 1,
            act_fn: "silu".to_owned(),
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::One(1280),
            transformer_layers_per_block: PerLevel::One(1),
            attention_head_dim: PerLevel::One(8),
            num_attention_heads: None,
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
            rest: BTreeMap::new(),
        }
    }
}

/// Settings of a UNet that the engine does not implement, each with the values that mean "not used".
const UNET_UNUSED: [(&str, &[&str]); 20] = [
    ("class_embed_type", &["null"]),
    ("num_class_embeds", &["null"]),
    ("encoder_hid_dim", &["null"]),
    ("encoder_hid_dim_type", &["null"]),
    ("time_embedding_act_fn", &["null"]),
    ("timestep_post_act", &["null"]),
    ("cross_attention_norm", &["null"]),
    ("time_embedding_dim", &["null"]),
    ("time_embedding_type", &["\"positional\""]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("dual_cross_attention", &["false"]),
    ("only_cross_attention", &["false"]),
    ("center_input_sample", &["false"]),
    ("class_embeddings_concat", &["false"]),
    ("attention_type", &["\"default\""]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("mid_block_only_cross_attention", &["false"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("reverse_transformer_layers_per_block", &["null"]),
];

/// Largest width of a layer, far above any model's: what the engine computes from widths cannot overflow.
pub(crate) const WIDEST: usize = 1 << 20;

/// Largest number of layers of one kind in a row, far above any model's.
pub(crate) const DEEPEST: usize = 100;

/// Cells of the latents for which convolutions are packed: those of Stable Diffusion 1.x at 512 by 512. The same for every
/// model, whatever size its configuration names, so that a file, which names none, has the bytes of its folder.
pub(crate) const PACKED_FOR: usize = 64 * 64;

impl UnetConfig {
    /// Refuses what the engine would draw wrongly.
    pub(crate) fn check(&self, label: &str) -> Result<(), LoadError> {
        refuse_used(&self.rest, &UNET_UNUSED, label)?;
        for (name, fixed) in [("conv_in_kernel", "3"), ("conv_out_kernel", "3")] {
            refuse_used(&self.rest, &[(name, &[fixed])], label)?;
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return Err(unsupported(label, "act_fn", &self.act_fn));
        }
        if self.downsample_padding > 1 {
            return Err(unsupported(label, "downsample_padding", &self.downsample_padding.to_string()));
        }
        refuse_outside(label, "block_out_channels", &self.block_out_channels, 1..=WIDEST)?;
        refuse_outside(label, "cross_attention_dim", self.cross_attention_dim.numbers(), 1..=WIDEST)?;
        refuse_outside(label, "layers_per_block", self.layers_per_block.numbers(), 1..=DEEPEST)?;
        let depths = self.transformer_layers_per_block.numbers();
        refuse_outside(label, "transformer_layers_per_block", depths, 0..=DEEPEST)?;
        for (name, width) in [
            ("addition_time_embed_dim", self.addition_time_embed_dim),
            ("projection_class_embeddings_input_dim", self.projection_class_embeddings_input_dim),
            ("time_cond_proj_dim", self.time_cond_proj_dim),
        ] {
            refuse_outside(label, name, &[width.unwrap_or(1)], 1..=WIDEST)?;
        }
        let levels = self.block_out_channels.len();
        if levels == 0 || self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return Err(LoadError::new(
                LoadErrorKind::Malformed,
                format!("{label}: down_block_types, up_block_types and block_out_channels differ in length"),
            ));
        }
        match self.mid_block_type.as_deref() {
            Some("UNetMidBlock2DCrossAttn") => Ok(()),
            other => Err(unsupported(label, "mid_block_type", other.unwrap_or("null"))),
        }
    }
}

/// `vae/config.json` of an `AutoencoderKL` or `AutoencoderTiny`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct VaeConfig {
    #[serde(rename = "_class_name")]
    pub(crate) class_name: String,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) block_out_channels: Vec<usize>,
    pub(crate) layers_per_block: usize,
    pub(crate) latent_channels: usize,
    pub(crate) norm_num_groups: usize,
    pub(crate) act_fn: String,
    pub(crate) scaling_factor: Option<f64>,
    pub(crate) shift_factor: Option<f64>,
    pub(crate) use_quant_conv: bool,
    pub(crate) use_post_quant_conv: bool,
    pub(crate) mid_block_add_attention: bool,
    pub(crate) down_block_types: Vec<String>,
    pub(crate) up_block_types: Vec<String>,
    pub(crate) encoder_block_out_channels: Vec<usize>,
    pub(crate) decoder_block_out_channels: Vec<usize>,
    pub(crate) num_encoder_blocks: Vec<usize>,
    pub(crate) num_decoder_blocks: Vec<usize>,
    pub(crate) upsampling_scaling_factor: usize,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            class_name: String::new(),
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            act_fn: String::new(),
            scaling_factor: None,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            upsampling_scaling_factor: 2,
            rest: BTreeMap::new(),
        }
    }
}

impl VaeConfig {
    /// Refuses what the engine would draw wrongly.
    pub(crate) fn check(&self, label: &str) -> Result<(), LoadError> {
        refuse_used(&self.rest, &[("latents_mean", &["null"]), ("latents_std", &["null"])], label)?;
        let kinds = self.down_block_types.iter().chain(&self.up_block_types);
        for kind in kinds {
            if kind != "DownEncoderBlock2D" && kind != "UpDecoderBlock2D" {
                return Err(unsupported(label, "block type", kind));
            }
        }
        if self.in_channels != 3 || self.out_channels != 3 {
            return Err(unsupported(label, "in_channels", &self.in_channels.to_string()));
        }
        if self.upsampling_scaling_factor != 2 {
            let factor = self.upsampling_scaling_factor.to_string();
            return Err(unsupported(label, "upsampling_scaling_factor", &factor));
        }
        for (name, widths) in [
            ("block_out_channels", &self.block_out_channels),
            ("encoder_block_out_channels", &self.encoder_block_out_channels),
            ("decoder_block_out_channels", &self.decoder_block_out_channels),
            ("latent_channels", &vec![self.latent_channels]),
        ] {
            refuse_outside(label, name, widths, 1..=WIDEST)?;
        }
        refuse_outside(label, "layers_per_block", &[self.layers_per_block], 1..=DEEPEST)
    }

    /// Pixels per latent cell and side.
    pub(crate) fn factor(&self) -> usize {
        let levels = match self.class_name.as_str() {
            "AutoencoderTiny" => self.encoder_block_out_channels.len(),
            _ => self.block_out_channels.len(),
        };
        1 << levels.saturating_sub(1).min(16)
    }
}

/// `text_encoder/config.json` of a `CLIPTextModel`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct TextConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) hidden_act: String,
    pub(crate) layer_norm_eps: f64,
    /// Width of the pooled state, where there is a projection.
    pub(crate) projection_dim: usize,
    pub(crate) eos_token_id: u32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            eos_token_id: 49407,
        }
    }
}

impl TextConfig {
    /// Refuses sizes that no text encoder has.
    pub(crate) fn check(&self, label: &str) -> Result<(), LoadError> {
        refuse_outside(label, "hidden_size", &[self.hidden_size], 1..=WIDEST)?;
        refuse_outside(label, "intermediate_size", &[self.intermediate_size], 1..=WIDEST)?;
        refuse_outside(label, "projection_dim", &[self.projection_dim], 1..=WIDEST)?;
        refuse_outside(label, "num_hidden_layers", &[self.num_hidden_layers], 0..=DEEPEST)?;
        // Start, end, and at least one token between them.
        refuse_outside(label, "max_position_embeddings", &[self.max_position_embeddings], 3..=WIDEST)?;
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(unsupported(label, "num_attention_heads", &self.num_attention_heads.to_string()));
        }
        Ok(())
    }
}

/// `scheduler/scheduler_config.json`, whatever the class.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    pub(crate) class_name: String,
    pub(crate) num_train_timesteps: usize,
    pub(crate) beta_start: f64,
    pub(crate) beta_end: f64,
    pub(crate) beta_schedule: String,
    pub(crate) prediction_type: String,
    pub(crate) rescale_betas_zero_snr: bool,
    pub(crate) set_alpha_to_one: Option<bool>,
    pub(crate) steps_offset: usize,
    pub(crate) timestep_spacing: Option<String>,
    pub(crate) clip_sample: Option<bool>,
    pub(crate) thresholding: bool,
    pub(crate) trained_betas: Option<Vec<f64>>,
    pub(crate) use_karras_sigmas: Option<bool>,
    pub(crate) use_exponential_sigmas: Option<bool>,
    pub(crate) algorithm_type: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: String::new(),
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: "linear".to_owned(),
            prediction_type: "epsilon".to_owned(),
            rescale_betas_zero_snr: false,
            set_alpha_to_one: None,
            steps_offset: 0,
            timestep_spacing: None,
            clip_sample: None,
            thresholding: false,
            trained_betas: None,
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            algorithm_type: String::new(),
        }
    }
}

/// Refuses settings of `rest` that are there with another value than those that mean "not used".
fn refuse_used(
    rest: &BTreeMap<String, Value>,
    unused: &[(&str, &[&str])],
    label: &str,
) -> Result<(), LoadError> {
    for (name, idle) in unused {
        if let Some(value) = rest.get(*name) {
            let text = value.to_string();
            if !value.is_null() && !idle.contains(&text.as_str()) {
                return Err(unsupported(label, name, &text));
            }
        }
    }
    Ok(())
}

/// Refuses a setting of which one number lies outside `allowed`.
pub(crate) fn refuse_outside(
    label: &str,
    name: &str,
    numbers: &[usize],
    allowed: RangeInclusive<usize>,
) -> Result<(), LoadError> {
    match numbers.iter().find(|number| !allowed.contains(number)) {
        Some(number) => Err(unsupported(label, name, &number.to_string())),
        None => Ok(()),
    }
}

/// The refusal of a setting.
pub(crate) fn unsupported(label: &str, name: &str, value: &str) -> LoadError {
    LoadError::new(
        LoadErrorKind::Unsupported,
        format!("{label}: {name} = {value} is not supported by this engine"),
    )
}
