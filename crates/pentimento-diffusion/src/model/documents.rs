//! A model's configurations one by one, so that each can be missed by itself.

use super::{Configs, Labels, PipelineClass};
use crate::{
    config::{
        ModelIndex, PerLevel, SchedulerConfig, TextConfig, UnetConfig, VaeConfig, read_json, unsupported,
    },
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
};
use pentimento_request::Size;

const UNET_CONFIG: &str = "unet/config.json";
const VAE_CONFIG: &str = "vae/config.json";
const SCHEDULER_CONFIG: &str = "scheduler/scheduler_config.json";

/// What `model_index.json` says, and the configurations that it speaks of.
pub(super) struct Documents {
    pub(super) class: PipelineClass,
    pub(super) texts: Vec<Result<TextConfig, LoadError>>,
    pub(super) unet: Result<UnetConfig, LoadError>,
    pub(super) vae: Result<VaeConfig, LoadError>,
    pub(super) scheduler: Result<SchedulerConfig, LoadError>,
    zeros_for_empty: bool,
    pub(super) labels: Labels,
}

impl Documents {
    /// Reads them.
    ///
    /// # Errors
    /// When the index is missing, or speaks of a model that this engine does not run.
    pub(super) fn read(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        let label = files.describe("model_index.json");
        let index: ModelIndex = match files.read("model_index.json")? {
            Some(_) => read_json(files, "model_index.json")?,
            None => return Err(no_index(files, &label)),
        };
        let class = PipelineClass::of(&index.class_name)
            .ok_or_else(|| unsupported(&label, "_class_name", &index.class_name))?;
        refuse_refiner(class, &index, &label)?;
        let text_classes = class.text_parts().iter().map(|part| (part.encoder, part.class));
        for (part, class) in text_classes.chain([("unet", "UNet2DConditionModel")]) {
            match index.class_of(part) {
                Some(found) if found == class => {}
                found => return Err(unsupported(&label, part, found.unwrap_or("null"))),
            }
        }
        let mut vae = read_json::<VaeConfig>(files, VAE_CONFIG);
        if let Ok(vae) = vae.as_mut()
            && vae.class_name.is_empty()
        {
            vae.class_name = index.class_of("vae").unwrap_or("AutoencoderKL").to_owned();
        }
        let text_paths: Vec<_> =
            class.text_parts().iter().map(|part| format!("{}/config.json", part.encoder)).collect();
        let scheduler = read_json(files, SCHEDULER_CONFIG);
        Ok(Self {
            class,
            texts: text_paths.iter().map(|path| read_json(files, path)).collect(),
            unet: read_json(files, UNET_CONFIG),
            vae,
            scheduler: scheduler.map(|config| as_pipelines_use_it(config, class)),
            zeros_for_empty: class == PipelineClass::Xl && index.force_zeros_for_empty_prompt,
            labels: Labels {
                texts: text_paths.iter().map(|path| files.describe(path)).collect(),
                unet: files.describe(UNET_CONFIG),
                vae: files.describe(VAE_CONFIG),
                scheduler: files.describe(SCHEDULER_CONFIG),
            },
        })
    }

    /// All of them.
    ///
    /// # Errors
    /// The first one that is missing or wrong.
    pub(super) fn whole(self) -> Result<Configs, LoadError> {
        let Self { class, texts, unet, vae, scheduler, zeros_for_empty, labels } = self;
        Ok(Configs {
            class,
            vae: vae?,
            texts: texts.into_iter().collect::<Result<_, _>>()?,
            unet: unet?,
            scheduler: scheduler?,
            zeros_for_empty,
            labels,
        })
    }
}

/// The family in words.
pub(super) fn family(class: PipelineClass, unet: &UnetConfig) -> String {
    let version = match class {
        PipelineClass::Xl => "XL",
        _ if unet.use_linear_projection => "2.x",
        _ => "1.x",
    };
    let inpainting = if unet.in_channels > unet.out_channels { ", inpainting" } else { "" };
    let distilled = if unet.time_cond_proj_dim.is_some() { ", latent consistency" } else { "" };
    format!("Stable Diffusion {version}{inpainting}{distilled}")
}

/// The size that a model was made for.
pub(super) fn native_size(unet: &UnetConfig, vae: &VaeConfig, label: &str) -> Result<Size, LoadError> {
    // 64 cells: diffusers' default for a configuration without a sample size.
    let (height, width) = match &unet.sample_size {
        None => (64, 64),
        Some(PerLevel::One(side)) => (*side, *side),
        Some(PerLevel::Each(sides)) if sides.len() == 2 => (sides[0], sides[1]),
        Some(other) => return Err(unsupported(label, "sample_size", &format!("{other:?}"))),
    };
    let pixels = |cells: usize| u32::try_from(cells.saturating_mul(vae.factor())).unwrap_or(u32::MAX);
    Size::new(pixels(width), pixels(height))
        .map_err(|error| LoadError::caused_by(LoadErrorKind::Malformed, label, error))
}

/// The error of a folder that is no model, with what it seems to be.
fn no_index(files: &dyn ModelFiles, label: &str) -> LoadError {
    let names = files.list("").unwrap_or_default();
    let checkpoint = names.iter().find(|name| name.ends_with(".safetensors") || name.ends_with(".gguf"));
    let hint = match checkpoint {
        Some(_) if names.iter().any(|name| name == "config.json") => {
            "; this is the folder of one part, not of a whole model, which has unet, vae, text_encoder, tokenizer and \
             scheduler beside one another"
                .to_owned()
        }
        Some(name) => format!("; to use one file as the model name it: {}", files.describe(name)),
        None => String::new(),
    };
    LoadError::new(LoadErrorKind::Missing, format!("{label} is missing{hint}"))
}

/// SDXL's refiner draws nothing from noise alone and takes other conditions.
fn refuse_refiner(class: PipelineClass, index: &ModelIndex, label: &str) -> Result<(), LoadError> {
    let refiner = index.requires_aesthetics_score || index.class_of("text_encoder").is_none();
    match class == PipelineClass::Xl && refiner {
        true => Err(LoadError::new(
            LoadErrorKind::Unsupported,
            format!("{label}: this is the refiner of Stable Diffusion XL, which this engine does not run"),
        )),
        false => Ok(()),
    }
}

/// diffusers' pipelines of one class overrule two settings of old configurations when they are built, so a picture
/// never depends on them: see `StableDiffusionPipeline.__init__`.
fn as_pipelines_use_it(config: SchedulerConfig, class: PipelineClass) -> SchedulerConfig {
    match class {
        PipelineClass::Plain => SchedulerConfig { steps_offset: 1, clip_sample: Some(false), ..config },
        PipelineClass::LatentConsistency | PipelineClass::Xl => config,
    }
}
