//! Control networks of a request: found, bound, shown their hints, and summed step by step.
//!
//! A control network is a folder in diffusers' layout or a single file in the naming of the original checkpoints, with or
//! without `control_model.` in front. A single file says nothing of its sizes: it is read as a copy of the model's own network.
//! Source: diffusers' `StableDiffusionControlNetPipeline` and `MultiControlNetModel`.

use crate::{
    config::{PerLevel, UnetConfig, unsupported},
    error::{LoadError, LoadErrorKind, Result},
    files::ModelFiles,
    guidance::Halves,
    model::Precision,
    original,
    samplers::Position,
    unet::{Added, Context, ControlNet, Residuals},
    weights::{Scope, Weights},
};
use candle_core::Tensor;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// A control network's files, opened.
pub struct ControlFile {
    label: String,
    /// `None` for a single file.
    config: Option<ControlConfig>,
    weights: Weights,
    hash: String,
}

/// What `config.json` of a `ControlNetModel` says beside what a UNet's says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct HintConfig {
    conditioning_embedding_out_channels: Vec<usize>,
    controlnet_conditioning_channel_order: String,
    conditioning_channels: usize,
    global_pool_conditions: bool,
}

impl Default for HintConfig {
    fn default() -> Self {
        Self {
            // diffusers' defaults of ControlNetModel.
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: "rgb".to_owned(),
            conditioning_channels: 3,
            global_pool_conditions: false,
        }
    }
}

/// `config.json` of a `ControlNetModel`.
#[derive(Clone, Debug)]
struct ControlConfig {
    unet: UnetConfig,
    hint: HintConfig,
}

impl ControlFile {
    /// Opens a folder or a `.safetensors` file.
    ///
    /// # Errors
    /// When something is missing, damaged, or of a kind that this engine does not run; pickle files are refused.
    pub fn open(files: &dyn ModelFiles, path: &str) -> Result<Self, LoadError> {
        let label = files.describe(path);
        crate::weights::refuse_pickle(path, &label)?;
        if path.ends_with(".safetensors") {
            // Every published network has two residual blocks a level: those of SD 1.x, 2.x and XL.
            let weights = Weights::open_file(files, path, |stored| from_original(stored, LAYERS))?;
            return Ok(Self { label, config: None, hash: hash_of(&weights)?, weights });
        }
        let config = ControlConfig::read(files, &format!("{path}/config.json"))?;
        let weights = Weights::open(files, path, "diffusion_pytorch_model")?;
        Ok(Self { label, config: Some(config), hash: hash_of(&weights)?, weights })
    }

    /// SHA-256 over the weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Number of parameters.
    pub(crate) fn parameters(&self) -> u64 {
        self.weights.summary().0
    }

    /// Binds the weights to control a network of this configuration.
    pub(crate) fn bind(&self, model: &UnetConfig, precision: Precision) -> Result<ControlNet, LoadError> {
        let scope = Scope::root(&self.weights, precision);
        let (unet, widths) = match &self.config {
            Some(ControlConfig { unet, hint }) => {
                check_fits(unet, model, &self.label)?;
                (unet.clone(), hint.conditioning_embedding_out_channels.clone())
            }
            None => {
                // It sees the latent alone, and knows of no guidance.
                let mut unet = model.clone();
                unet.in_channels = unet.out_channels;
                unet.time_cond_proj_dim = None;
                (unet, hint_widths(&self.weights))
            }
        };
        ControlNet::load(&scope, &unet, &widths, &self.label)
    }
}

impl fmt::Debug for ControlFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ControlFile({})", self.label)
    }
}

impl ControlConfig {
    fn read(files: &dyn ModelFiles, path: &str) -> Result<Self, LoadError> {
        let label = files.describe(path);
        let hint: HintConfig = crate::config::read_json(files, path)?;
        let mut unet: UnetConfig = crate::config::read_json(files, path)?;
        // A control network has no way up.
        unet.up_block_types = vec!["UpBlock2D".to_owned(); unet.down_block_types.len()];
        unet.check(&label)?;
        let HintConfig { conditioning_embedding_out_channels, controlnet_conditioning_channel_order, .. } =
            &hint;
        if controlnet_conditioning_channel_order != "rgb" {
            let order = controlnet_conditioning_channel_order;
            return Err(unsupported(&label, "controlnet_conditioning_channel_order", order));
        }
        if hint.conditioning_channels != 3 {
            return Err(unsupported(
                &label,
                "conditioning_channels",
                &hint.conditioning_channels.to_string(),
            ));
        }
        if hint.global_pool_conditions {
            return Err(unsupported(&label, "global_pool_conditions", "true"));
        }
        // Halvings between them lead to the latent's size; 10 is far above any network's.
        let widths = conditioning_embedding_out_channels;
        if widths.is_empty() || widths.len() > 10 || widths.iter().any(|width| !(1..=1 << 20).contains(width))
        {
            return Err(unsupported(&label, "conditioning_embedding_out_channels", &format!("{widths:?}")));
        }
        Ok(Self { unet, hint })
    }
}

/// Refuses a control network of another family, which would be added to layers of another shape.
fn check_fits(ours: &UnetConfig, model: &UnetConfig, label: &str) -> Result<(), LoadError> {
    let context = |config: &UnetConfig| config.cross_attention_dim.numbers().first().copied();
    let layers = |config: &UnetConfig| {
        config.layers_per_block.levels(config.block_out_channels.len()).unwrap_or_default()
    };
    let mut differences = Vec::new();
    if context(ours) != context(model) {
        differences.push(format!(
            "cross_attention_dim {} where the model has {}",
            shown(&ours.cross_attention_dim),
            shown(&model.cross_attention_dim)
        ));
    }
    if ours.block_out_channels != model.block_out_channels {
        differences.push(format!(
            "block_out_channels {:?} where the model has {:?}",
            ours.block_out_channels, model.block_out_channels
        ));
    }
    if layers(ours) != layers(model) {
        differences.push(format!(
            "layers_per_block {} where the model has {}",
            shown(&ours.layers_per_block),
            shown(&model.layers_per_block)
        ));
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(LoadError::new(
            LoadErrorKind::Unsupported,
            format!("{label} was made for another family of models: it has {}", differences.join(", ")),
        )),
    }
}

fn shown(numbers: &PerLevel) -> String {
    format!("{:?}", numbers.numbers())
}

/// Channels of the hint's embedding, as the tensors have them.
fn hint_widths(weights: &Weights) -> Vec<usize> {
    let outputs = |place: &str| {
        let name = format!("controlnet_cond_embedding.{place}.weight");
        weights.shape(&name).and_then(|shape| shape.first().copied())
    };
    let grown = (0..).map_while(|index| outputs(&format!("blocks.{}", 2 * index + 1)));
    outputs("conv_in").into_iter().chain(grown).collect()
}

/// The engine's name of a tensor in the naming of the original checkpoints.
pub(crate) fn from_original(stored: &str, layers: usize) -> Option<String> {
    let name = stored.strip_prefix("control_model.").unwrap_or(stored);
    let (layer, kind) = name.rsplit_once('.')?;
    let engine = match layer.split_once('.')? {
        ("zero_convs", index) => format!("controlnet_down_blocks.{}", index.strip_suffix(".0")?),
        ("middle_block_out", "0") => "controlnet_mid_block".to_owned(),
        ("input_hint_block", "0") => "controlnet_cond_embedding.conv_in".to_owned(),
        ("input_hint_block", "14") => "controlnet_cond_embedding.conv_out".to_owned(),
        ("input_hint_block", index) => {
            // Every second one is an activation.
            let index = index.parse::<usize>().ok()?;
            format!("controlnet_cond_embedding.blocks.{}", (index / 2).checked_sub(1)?)
        }
        _ => original::from_original(layer, layers)?,
    };
    Some(format!("{engine}.{kind}"))
}

/// Residual blocks of a level in single files.
const LAYERS: usize = 2;

/// Control networks that are kept bound.
const KEPT: usize = 2;

/// The control networks that were bound last, of one model.
#[derive(Default)]
pub(crate) struct ControlCache(Mutex<Vec<(Arc<ControlFile>, Arc<ControlNet>)>>);

impl ControlCache {
    /// The network of this file, bound now if it is not there.
    pub(crate) fn get_or_bind(
        &self,
        file: &Arc<ControlFile>,
        model: &UnetConfig,
        precision: Precision,
    ) -> Result<Arc<ControlNet>, LoadError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| Arc::ptr_eq(known, file)) {
            let found = kept.remove(at);
            kept.push(found.clone());
            return Ok(found.1);
        }
        // Room is made first: two of them may be all that memory holds.
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        drop(kept);
        let bound = Arc::new(file.bind(model, precision)?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((file.clone(), bound.clone()));
        Ok(bound)
    }
}

/// What a model's control network is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlUse {
    /// Edges of the input.
    Edges,
    /// The input's texture, kept.
    Texture,
}

/// A control network of a request, with its hint and the prompts bound.
pub(crate) struct BoundControl {
    pub(crate) network: Arc<ControlNet>,
    pub(crate) context: Context,
    pub(crate) added: Option<Added>,
    /// The hint, embedded.
    pub(crate) hint: Tensor,
    pub(crate) weight: f64,
    /// Share of the steps before it begins, and after which it ends.
    pub(crate) span: (f64, f64),
}

impl BoundControl {
    fn is_active(&self, step: usize, of: usize) -> bool {
        is_active(self.span, step, of)
    }
}

/// Whether a network with this span runs in a step, as diffusers' pipelines decide it.
pub(crate) fn is_active((start, end): (f64, f64), step: usize, of: usize) -> bool {
    let of = of as f64;
    step as f64 / of >= start && (step as f64 + 1.0) / of <= end
}

/// The control networks of a run of the steps.
#[derive(Clone, Copy)]
pub(crate) struct Controls<'a> {
    pub(crate) bound: &'a [BoundControl],
    pub(crate) position: Position<'a>,
}

impl Controls<'_> {
    /// The sum of the residuals, of the finest `skips` skips, of all networks that run in this step.
    pub(crate) fn residuals(
        &self,
        x: &Tensor,
        timestep: f64,
        halves: Halves,
        skips: usize,
    ) -> Result<Option<Residuals>> {
        let mut sum: Option<Residuals> = None;
        let Position { step, of } = self.position;
        for control in self.bound.iter().filter(|control| control.is_active(step.get(), of)) {
            let BoundControl { network, context, added, hint, weight, span: _ } = control;
            let (context, added) = halves.of(context, added.as_ref())?;
            let residuals = network.forward(x, timestep, &context, added.as_deref(), hint, skips)?;
            let residuals = residuals.times(*weight)?;
            sum = Some(match sum {
                Some(sum) => sum.sum(&residuals)?,
                None => residuals,
            });
        }
        Ok(sum)
    }
}

fn hash_of(weights: &Weights) -> Result<String, LoadError> {
    let mut hash = Sha256::new();
    weights.hash_into(&mut hash)?;
    Ok(crate::generate::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_single_files_are_understood() {
        for (stored, engine) in [
            ("control_model.time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("control_model.input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            (
                "control_model.input_blocks.4.0.skip_connection.weight",
                "down_blocks.1.resnets.0.conv_shortcut.weight",
            ),
            (
                "control_model.input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight",
                "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("control_model.middle_block.1.proj_in.weight", "mid_block.attentions.0.proj_in.weight"),
            ("control_model.middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight"),
            ("control_model.middle_block_out.0.weight", "controlnet_mid_block.weight"),
            ("control_model.zero_convs.11.0.bias", "controlnet_down_blocks.11.bias"),
            ("control_model.input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"),
            ("control_model.input_hint_block.12.weight", "controlnet_cond_embedding.blocks.5.weight"),
            ("control_model.input_hint_block.14.weight", "controlnet_cond_embedding.conv_out.weight"),
        ] {
            assert_eq!(from_original(stored, 2).as_deref(), Some(engine), "{stored}");
        }
        assert_eq!(from_original("first_stage_model.x.weight", 2), None);
    }

    #[test]
    fn spans_count_steps_as_diffusers_does() {
        let active = |span| (0..4).filter(|step| is_active(span, *step, 4)).collect::<Vec<_>>();
        assert_eq!(active((0.0, 1.0)), [0, 1, 2, 3]);
        assert_eq!(active((0.5, 1.0)), [2, 3]);
        assert_eq!(active((0.3, 0.8)), [2]);
        assert_eq!(active((0.0, 0.0)), [] as [usize; 0]);
    }
}
