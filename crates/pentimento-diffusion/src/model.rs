//! Models: read from their files, kept in memory, asked for pictures.

use crate::{
    canvas,
    config::{
        ModelIndex, PerLevel, SchedulerConfig, TextConfig, UnetConfig, VaeConfig, read_json, unsupported,
    },
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
    preview::LatentColours,
    samplers,
    schedule::NoiseSchedule,
    text::TextEncoder,
    tokenizer::Tokenizer,
    unet::Unet,
    vae::Vae,
    weights::{Scope, Weights},
};
pub use pentimento_kernels::Precision;
use pentimento_request::{
    GenerateError, GeneratedImage, GenerationRequest, Generator, Progress, Sampler, Size,
};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The name that requests and receipts use.
    pub name: String,
    /// Precision of the products.
    pub precision: Precision,
    /// Largest number of pixels that the model may be asked to work at.
    pub pixel_cap: u64,
}

/// What a model is, read from its files without loading its weights into memory.
#[derive(Clone, Debug)]
pub struct ModelSummary {
    /// Family in words, as "Stable Diffusion 1.x".
    pub family: String,
    /// Size the model was made for.
    pub native_size: Size,
    /// What the network predicts, `epsilon` or `v_prediction`.
    pub prediction: String,
    /// Class of the model's own scheduler and its timestep spacing.
    pub scheduler: String,
    /// The parts with their weights.
    pub parts: Vec<Part>,
}

/// One part of a model.
#[derive(Clone, Debug)]
pub struct Part {
    /// Folder name, as `unet`.
    pub name: String,
    /// Class, as `UNet2DConditionModel`.
    pub class: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage types of the tensors, as `F16`.
    pub dtypes: Vec<String>,
}

/// A model in memory, ready to draw. Requests may run one after the other or side by side; none changes it.
pub struct Model {
    pub(crate) options: LoadOptions,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) text: TextEncoder,
    pub(crate) networks: Networks,
    pub(crate) schedule: NoiseSchedule,
    pub(crate) limits: canvas::Limits,
    /// The sampler that the model's own scheduler names.
    pub(crate) own_sampler: Option<Sampler>,
    colours: OnceLock<Option<LatentColours>>,
    configs: Configs,
    weights: PartWeights,
    hash: String,
}

/// The networks that work on latents, in one precision.
pub(crate) struct Networks {
    pub(crate) unet: Unet,
    pub(crate) vae: Vae,
}

/// A model's configurations, and how messages name their files.
struct Configs {
    text: TextConfig,
    unet: UnetConfig,
    vae: VaeConfig,
    scheduler: SchedulerConfig,
    labels: Labels,
}

struct Labels {
    text: String,
    unet: String,
    vae: String,
    scheduler: String,
}

/// A model's weight files; mapped, so keeping them costs no memory.
struct PartWeights {
    text: Weights,
    unet: Weights,
    vae: Weights,
}

const UNET_CONFIG: &str = "unet/config.json";
const VAE_CONFIG: &str = "vae/config.json";
const TEXT_CONFIG: &str = "text_encoder/config.json";
const SCHEDULER_CONFIG: &str = "scheduler/scheduler_config.json";

impl Configs {
    fn read(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        let index: ModelIndex = read_json(files, "model_index.json")?;
        let label = files.describe("model_index.json");
        // The pipelines that diffusers saves for models of this class.
        let known =
            ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];
        if !known.contains(&index.class_name.as_str()) {
            return Err(unsupported(&label, "_class_name", &index.class_name));
        }
        for (part, class) in [("unet", "UNet2DConditionModel"), ("text_encoder", "CLIPTextModel")] {
            match index.class_of(part) {
                Some(found) if found == class => {}
                found => return Err(unsupported(&label, part, found.unwrap_or("null"))),
            }
        }
        let mut vae: VaeConfig = read_json(files, VAE_CONFIG)?;
        if vae.class_name.is_empty() {
            vae.class_name = index.class_of("vae").unwrap_or("AutoencoderKL").to_owned();
        }
        Ok(Self {
            text: read_json(files, TEXT_CONFIG)?,
            unet: read_json(files, UNET_CONFIG)?,
            vae,
            scheduler: as_pipelines_use_it(read_json(files, SCHEDULER_CONFIG)?),
            labels: Labels {
                text: files.describe(TEXT_CONFIG),
                unet: files.describe(UNET_CONFIG),
                vae: files.describe(VAE_CONFIG),
                scheduler: files.describe(SCHEDULER_CONFIG),
            },
        })
    }

    /// The parts must fit one another.
    fn check(&self) -> Result<(), LoadError> {
        let latent = self.vae.latent_channels;
        let (inputs, outputs) = (self.unet.in_channels, self.unet.out_channels);
        if inputs != latent || outputs != latent {
            let channels = format!("{inputs} -> {outputs} with a VAE of {latent} latent channels");
            return Err(unsupported(&self.labels.unet, "in_channels", &channels));
        }
        let hidden = self.text.hidden_size;
        let widths = self.unet.cross_attention_dim.numbers();
        if widths.iter().any(|width| *width != hidden) {
            return Err(LoadError::new(
                LoadErrorKind::Malformed,
                format!(
                    "{}: cross_attention_dim is {widths:?}, but the text encoder's states are {hidden} wide",
                    self.labels.unet
                ),
            ));
        }
        Ok(())
    }

    fn native_size(&self) -> Result<Size, LoadError> {
        // 64 cells: diffusers' default for a configuration without a sample size.
        let (height, width) = match &self.unet.sample_size {
            None => (64, 64),
            Some(PerLevel::One(side)) => (*side, *side),
            Some(PerLevel::Each(sides)) if sides.len() == 2 => (sides[0], sides[1]),
            Some(other) => {
                return Err(unsupported(&self.labels.unet, "sample_size", &format!("{other:?}")));
            }
        };
        let pixels =
            |cells: usize| u32::try_from(cells.saturating_mul(self.vae.factor())).unwrap_or(u32::MAX);
        Size::new(pixels(width), pixels(height))
            .map_err(|error| LoadError::caused_by(LoadErrorKind::Malformed, &self.labels.unet, error))
    }
}

impl PartWeights {
    fn open(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        Ok(Self {
            text: Weights::open(files, "text_encoder", "model")?,
            unet: Weights::open(files, "unet", "diffusion_pytorch_model")?,
            vae: Weights::open(files, "vae", "diffusion_pytorch_model")?,
        })
    }

    /// SHA-256 over the bytes of the weight files: text encoder, UNet, VAE.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.text, &self.unet, &self.vae] {
            part.hash_into(&mut hash);
        }
        crate::generate::hex(&hash.finalize())
    }
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one.
    pub fn load(files: &dyn ModelFiles, options: LoadOptions) -> Result<Self, LoadError> {
        let configs = Configs::read(files)?;
        configs.check()?;
        let native = configs.native_size()?;
        let schedule = NoiseSchedule::new(&configs.scheduler, &configs.labels.scheduler)?;
        let weights = PartWeights::open(files)?;
        let tokenizer = Tokenizer::load(files)?;
        let text_scope = Scope::root(&weights.text, options.precision);
        let text = TextEncoder::load(&text_scope, &configs.text, &configs.labels.text)?;
        text.check_vocabulary(tokenizer.largest_id(), &files.describe("tokenizer/vocab.json"))?;
        // Hashing reads every byte; beside it the networks are bound.
        let (networks, hash) = rayon::join(|| bind(&configs, &weights, options.precision), || weights.hash());
        Ok(Self {
            limits: canvas::Limits {
                native,
                factor: u32::try_from(configs.vae.factor()).unwrap_or(u32::MAX),
                pixel_cap: options.pixel_cap,
            },
            own_sampler: own_sampler(&configs.scheduler.class_name),
            networks: networks?,
            options,
            tokenizer,
            text,
            schedule,
            colours: OnceLock::new(),
            configs,
            weights,
            hash,
        })
    }

    /// Reads what a model is, without its weights.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn inspect(files: &dyn ModelFiles) -> Result<ModelSummary, LoadError> {
        let configs = Configs::read(files)?;
        let schedule = NoiseSchedule::new(&configs.scheduler, &configs.labels.scheduler)?;
        let weights = PartWeights::open(files)?;
        let part = |name: &str, class: &str, weights: &Weights| {
            let (parameters, dtypes) = weights.summary();
            Part { name: name.to_owned(), class: class.to_owned(), parameters, dtypes }
        };
        let family = if configs.unet.use_linear_projection { "2.x" } else { "1.x" };
        let zero_snr = if schedule.has_zero_terminal_snr() { ", zero terminal SNR" } else { "" };
        Ok(ModelSummary {
            family: format!("Stable Diffusion {family}"),
            native_size: configs.native_size()?,
            prediction: schedule.prediction.name().to_owned(),
            scheduler: format!("{}, {}{zero_snr}", configs.scheduler.class_name, schedule.spacing),
            parts: vec![
                part("text_encoder", "CLIPTextModel", &weights.text),
                part("unet", "UNet2DConditionModel", &weights.unet),
                part("vae", &configs.vae.class_name, &weights.vae),
            ],
        })
    }

    /// The name that requests use.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// SHA-256 over the weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The size the model was made for.
    pub fn native_size(&self) -> Size {
        self.limits.native
    }

    /// The text encoder again in f32, when it overflowed in a lower precision.
    pub(crate) fn text_in_f32(&self) -> Result<TextEncoder, LoadError> {
        let scope = Scope::root(&self.weights.text, Precision::F32);
        TextEncoder::load(&scope, &self.configs.text, &self.configs.labels.text)
    }

    /// The networks again in f32, for a stage that overflowed in a lower precision.
    pub(crate) fn networks_in_f32(&self) -> Result<Networks, LoadError> {
        bind(&self.configs, &self.weights, Precision::F32)
    }

    /// The colours of latents, measured when they are first asked for.
    pub(crate) fn colours(&self) -> Option<&LatentColours> {
        self.colours.get_or_init(|| LatentColours::measure(&self.networks.vae).ok()).as_ref()
    }
}

impl Generator for Model {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        crate::generate::generate(self, request, progress)
    }
}

fn bind(configs: &Configs, weights: &PartWeights, precision: Precision) -> Result<Networks, LoadError> {
    let scope = |part| Scope::root(part, precision);
    Ok(Networks {
        unet: Unet::load(&scope(&weights.unet), &configs.unet, &configs.labels.unet)?,
        vae: Vae::load(&scope(&weights.vae), &configs.vae, &configs.labels.vae)?,
    })
}

/// diffusers' Stable Diffusion pipelines overrule two settings of old configurations when they are built, so
/// a picture never depends on them: see `StableDiffusionPipeline.__init__`.
fn as_pipelines_use_it(config: SchedulerConfig) -> SchedulerConfig {
    SchedulerConfig { steps_offset: 1, clip_sample: Some(false), ..config }
}

/// The sampler that a scheduler class stands for, where this engine has it.
fn own_sampler(class: &str) -> Option<Sampler> {
    let sampler = match class {
        "DDIMScheduler" => Sampler::Ddim,
        "EulerDiscreteScheduler" => Sampler::KEuler,
        "EulerAncestralDiscreteScheduler" => Sampler::KEulerAncestral,
        "DPMSolverMultistepScheduler" => Sampler::KDpmpp2m,
        _ => return None,
    };
    samplers::AVAILABLE.contains(&sampler).then_some(sampler)
}

/// The name of a precision in options and receipts.
pub(crate) fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}
