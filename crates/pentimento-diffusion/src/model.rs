//! Models: read from their files, kept in memory, asked for pictures.

mod binding;
mod documents;
mod survey;
mod verify;

pub(crate) use binding::Bound;
pub use survey::Survey;
pub use verify::Verification;

use crate::{
    brought::Steered,
    canvas,
    clip_guidance::{self, ClipFiles},
    companions::OpenCompanions,
    config::{SchedulerConfig, TextConfig, UnetConfig, VaeConfig, unsupported},
    control::ControlCache,
    error::{LoadError, LoadErrorKind},
    estimate::PictureMemory,
    faults::Faults,
    files::ModelFiles,
    filter::{CHECKER, ContentFilter},
    interruption,
    library::{EmptyLibrary, Library},
    lora::{AdapterCache, ModelLayers},
    precision::{floats, layer_bytes},
    preview::LatentColours,
    prompt::Reader,
    schedule::NoiseSchedule,
    text_encoders::TextEncoders,
    tokenizer::Tokenizer,
    unet::Unet,
    vae::Vae,
    weights::Weights,
};
use binding::{PackedParts, bind, bind_texts};
use documents::{Documents, family, native_size};
pub use pentimento_kernels::Precision;
use pentimento_request::{
    ErrorKind, GenerateError, GeneratedImage, GenerationRequest, Generator, Progress, Sampler, Size,
};
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The name that requests and receipts use.
    pub name: String,
    /// Precision of the products.
    pub precision: Precision,
    /// Largest number of pixels that the model may be asked to work at.
    pub pixel_cap: u64,
    /// Adapters and control networks that requests may name.
    pub library: Arc<dyn Library>,
    /// The library's control network for edges, instead of one in the model's folder.
    pub canny: Option<String>,
    /// The library's control network for texture, instead of one in the model's folder.
    pub tile: Option<String>,
    /// The library's adapter for faces, instead of the first one that fits.
    pub face: Option<String>,
}

impl LoadOptions {
    /// A model of this name in f32, without a library.
    pub fn new(name: impl Into<String>, pixel_cap: u64) -> Self {
        let library = Arc::new(EmptyLibrary);
        let precision = Precision::F32;
        Self { name: name.into(), precision, pixel_cap, library, canny: None, tile: None, face: None }
    }
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
    /// What pictures take beside these.
    pub picture_memory: PictureMemory,
    /// The parts with their weights.
    pub parts: Vec<Part>,
    /// Whether CLIP guidance may be asked for: the model carries a CLIP picture encoder, or is of the XL family, which
    /// ignores it.
    pub takes_clip_guidance: bool,
}

impl ModelSummary {
    /// Whether the model has a checker of pictures.
    pub fn has_filter(&self) -> bool {
        self.parts.iter().any(|part| part.name == CHECKER)
    }
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

impl Part {
    /// Bytes that its weights take in memory when the model works in this precision.
    pub fn memory(&self, precision: Precision) -> u64 {
        // The checker of pictures works in f32 whatever the model does.
        let precision = if self.name == CHECKER { Precision::F32 } else { precision };
        let has_layers_in_it = self.name == "unet";
        layer_bytes(if has_layers_in_it { precision } else { floats(precision) }, self.parameters)
    }

    fn of(name: &str, class: &str, weights: &Weights) -> Self {
        let (parameters, dtypes) = weights.summary();
        Self { name: name.to_owned(), class: class.to_owned(), parameters, dtypes }
    }
}

/// A model in memory, ready to draw. Requests may run one after the other or side by side; none changes it.
pub struct Model {
    pub(crate) options: LoadOptions,
    /// One for each text encoder.
    pub(crate) tokenizers: Vec<Tokenizer>,
    pub(crate) text: TextEncoders,
    pub(crate) networks: Networks,
    pub(crate) schedule: NoiseSchedule,
    pub(crate) limits: canvas::Limits,
    /// The sampler that the model's own scheduler names.
    pub(crate) own_sampler: Option<Sampler>,
    /// Its own checker of pictures, if it has one.
    pub(crate) filter: Option<ContentFilter>,
    /// Its own CLIP with a picture encoder, if it has one.
    pub(crate) clip: Option<ClipFiles>,
    colours: OnceLock<Option<LatentColours>>,
    configs: Configs,
    weights: PartWeights,
    packed: PackedParts,
    adapters: AdapterCache,
    layers: OnceLock<ModelLayers>,
    companions: OpenCompanions,
    controls: ControlCache,
    /// Over the weights, once it was asked for.
    hash: OnceLock<String>,
}

/// The networks that work on latents, in one precision.
pub(crate) struct Networks {
    pub(crate) unet: Unet,
    pub(crate) vae: Vae,
    /// What an inpainting UNet takes beside the latents.
    extra_channels: usize,
}

impl Networks {
    /// Whether the UNet is shown a mask and the masked picture.
    pub(crate) fn inpaints(&self) -> bool {
        self.extra_channels > 0
    }
}

/// A model's configurations, and how messages name their files.
struct Configs {
    class: PipelineClass,
    /// Of one text encoder, or of two.
    texts: Vec<TextConfig>,
    unet: UnetConfig,
    vae: VaeConfig,
    scheduler: SchedulerConfig,
    zeros_for_empty: bool,
    labels: Labels,
}

struct Labels {
    texts: Vec<String>,
    unet: String,
    vae: String,
    scheduler: String,
}

/// A model's weight files, open and read piece by piece, so that keeping them costs no memory.
struct PartWeights {
    texts: Vec<Weights>,
    unet: Weights,
    vae: Weights,
}

/// What diffusers' pipelines of a class have in common here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PipelineClass {
    /// One text encoder: Stable Diffusion 1.x and 2.x.
    Plain,
    /// The same, distilled to few steps.
    LatentConsistency,
    /// Two text encoders and pooled texts: Stable Diffusion XL.
    Xl,
}

impl PipelineClass {
    fn of(class: &str) -> Option<Self> {
        match class {
            "StableDiffusionPipeline"
            | "StableDiffusionImg2ImgPipeline"
            | "StableDiffusionInpaintPipeline" => Some(Self::Plain),
            "LatentConsistencyModelPipeline" | "LatentConsistencyModelImg2ImgPipeline" => {
                Some(Self::LatentConsistency)
            }
            "StableDiffusionXLPipeline"
            | "StableDiffusionXLImg2ImgPipeline"
            | "StableDiffusionXLInpaintPipeline" => Some(Self::Xl),
            _ => None,
        }
    }

    /// The text encoders' folders, the tokenizers' beside them, and the class in `model_index.json`.
    fn text_parts(self) -> &'static [TextFolders] {
        match self {
            Self::Plain | Self::LatentConsistency => &TEXT_FOLDERS[..1],
            Self::Xl => &TEXT_FOLDERS,
        }
    }
}

/// Where a text encoder lies.
struct TextFolders {
    encoder: &'static str,
    tokenizer: &'static str,
    class: &'static str,
}

const TEXT_FOLDERS: [TextFolders; 2] = [
    TextFolders { encoder: "text_encoder", tokenizer: "tokenizer", class: "CLIPTextModel" },
    TextFolders { encoder: "text_encoder_2", tokenizer: "tokenizer_2", class: "CLIPTextModelWithProjection" },
];

impl Configs {
    fn read(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        Documents::read(files)?.whole()
    }

    /// The parts must fit one another.
    fn check(&self) -> Result<(), LoadError> {
        let latent = self.vae.latent_channels;
        let (inputs, outputs) = (self.unet.in_channels, self.unet.out_channels);
        // An inpainting network takes a mask and the latents of the masked picture too.
        if ![latent, latent.saturating_mul(2).saturating_add(1)].contains(&inputs) || outputs != latent {
            let channels = format!("{inputs} -> {outputs} with a VAE of {latent} latent channels");
            return Err(unsupported(&self.labels.unet, "in_channels", &channels));
        }
        let malformed = |message: String| Err(LoadError::new(LoadErrorKind::Malformed, message));
        let unet = &self.labels.unet;
        let hidden = self.texts.iter().fold(0usize, |sum, text| sum.saturating_add(text.hidden_size));
        let widths = self.unet.cross_attention_dim.numbers();
        if widths.iter().any(|width| *width != hidden) {
            return malformed(format!(
                "{unet}: cross_attention_dim is {widths:?}, but the text encoder's states are {hidden} wide"
            ));
        }
        match (self.class, self.unet.addition_embed_type.as_deref()) {
            (PipelineClass::Xl, Some("text_time")) => {}
            (PipelineClass::Plain | PipelineClass::LatentConsistency, None) => return Ok(()),
            (_, found) => return Err(unsupported(unet, "addition_embed_type", found.unwrap_or("null"))),
        }
        let pooled = self.texts.last().map_or(0, |text| text.projection_dim);
        let sizes = self.unet.addition_time_embed_dim.unwrap_or_default();
        let expected = pooled.saturating_add(sizes.saturating_mul(6));
        match self.unet.projection_class_embeddings_input_dim {
            Some(width) if width == expected => Ok(()),
            found => malformed(format!(
                "{unet}: projection_class_embeddings_input_dim is {found:?}, but {expected} come in: a pooled text of {pooled} \
                 and six sizes of {sizes}"
            )),
        }
    }

    /// The family in words.
    fn family(&self) -> String {
        family(self.class, &self.unet)
    }

    fn native_size(&self) -> Result<Size, LoadError> {
        native_size(&self.unet, &self.vae, &self.labels.unet)
    }
}

impl PartWeights {
    fn open(files: &dyn ModelFiles, class: PipelineClass) -> Result<Self, LoadError> {
        let texts = class.text_parts().iter().map(|part| Weights::open(files, part.encoder, "model"));
        Ok(Self {
            texts: texts.collect::<Result<_, _>>()?,
            unet: Weights::open(files, "unet", "diffusion_pytorch_model")?,
            vae: Weights::open(files, "vae", "diffusion_pytorch_model")?,
        })
    }

    /// The same weights, which note what is wrong with them and go on.
    fn noting(self, faults: &Faults) -> Self {
        let Self { texts, unet, vae } = self;
        Self {
            texts: texts.into_iter().map(|text| text.noting(faults)).collect(),
            unet: unet.noting(faults),
            vae: vae.noting(faults),
        }
    }

    /// SHA-256 over the bytes of the weight files: text encoders, UNet, VAE; files that hold several count once.
    fn hash(&self) -> Result<String, LoadError> {
        let mut hash = Sha256::new();
        let parts: Vec<_> = self.texts.iter().chain([&self.unet, &self.vae]).collect();
        for (index, part) in parts.iter().enumerate() {
            if !parts[..index].iter().any(|before| before.shares_files_with(part)) {
                part.hash_into(&mut hash)?;
            }
        }
        Ok(crate::generate::hex(&hash.finalize()))
    }
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one.
    pub fn load(files: &dyn ModelFiles, options: LoadOptions) -> Result<Self, LoadError> {
        let configs = Configs::read(files)?;
        // What is not there is told before what does not fit without it.
        let weights = PartWeights::open(files, configs.class)?;
        configs.check()?;
        let native = configs.native_size()?;
        let schedule = NoiseSchedule::new(&configs.scheduler, &configs.labels.scheduler)?;
        let tokenizers = tokenizers(files, configs.class)?;
        let packed = PackedParts::new(&weights.texts);
        let text = bind_texts(&configs, &weights, options.precision, Some(&packed), None)?;
        for (tower, part) in text.towers(&tokenizers).iter().zip(configs.class.text_parts()) {
            tower.check_vocabulary(&files.describe(&format!("{}/vocab.json", part.tokenizer)))?;
        }
        let networks = bind(&configs, &weights, options.precision, &packed)?;
        Ok(Self {
            limits: canvas::Limits {
                native,
                factor: u32::try_from(configs.vae.factor()).unwrap_or(u32::MAX),
                pixel_cap: options.pixel_cap,
            },
            own_sampler: own_sampler(&configs.scheduler),
            networks,
            options,
            tokenizers,
            text,
            schedule,
            filter: ContentFilter::find(files)?,
            clip: ClipFiles::find(files, &weights.texts[0])?,
            colours: OnceLock::new(),
            companions: OpenCompanions::open(files)?,
            controls: ControlCache::default(),
            layers: OnceLock::new(),
            adapters: AdapterCache::default(),
            packed,
            configs,
            weights,
            hash: OnceLock::new(),
        })
    }

    /// Reads what a model is, without its weights.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn inspect(files: &dyn ModelFiles) -> Result<ModelSummary, LoadError> {
        let configs = Configs::read(files)?;
        let schedule = NoiseSchedule::new(&configs.scheduler, &configs.labels.scheduler)?;
        let weights = PartWeights::open(files, configs.class)?;
        let texts = configs.class.text_parts().iter().zip(&weights.texts);
        let mut parts: Vec<_> =
            texts.map(|(folders, weights)| Part::of(folders.encoder, folders.class, weights)).collect();
        parts.push(Part::of("unet", "UNet2DConditionModel", &weights.unet));
        parts.push(Part::of("vae", &configs.vae.class_name, &weights.vae));
        if let Some(filter) = ContentFilter::find(files)? {
            parts.push(Part::of(CHECKER, "StableDiffusionSafetyChecker", filter.weights()));
        }
        let clip = ClipFiles::find(files, &weights.texts[0])?;
        let is_xl = configs.class == PipelineClass::Xl;
        let vae_parameters = weights.vae.summary().0;
        let clip_memory = clip.as_ref().filter(|_| !is_xl);
        let clip_memory = clip_memory.map_or(0, |clip| clip.memory(&configs.vae, vae_parameters));
        let steered = Steered::of(files, weights.unet.summary().0, clip_memory)?;
        Ok(ModelSummary {
            family: configs.family(),
            picture_memory: PictureMemory::new(configs.native_size()?, &configs.unet, &configs.vae, steered),
            native_size: configs.native_size()?,
            prediction: schedule.prediction.name().to_owned(),
            scheduler: schedule.described(&configs.scheduler.class_name),
            takes_clip_guidance: is_xl || clip.is_some(),
            parts,
        })
    }

    /// The name that requests use.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// SHA-256 over the weights, in hexadecimal. The first call reads them all, a second or so for each two gigabytes.
    ///
    /// # Errors
    /// If a file can no longer be read, or is not the one that was loaded.
    pub fn hash(&self) -> Result<&str, LoadError> {
        if let Some(known) = self.hash.get() {
            return Ok(known);
        }
        let hash = self.weights.hash()?;
        Ok(self.hash.get_or_init(|| hash))
    }

    /// Does some work, and beside it what [`Model::hash`] does at its first call: drawing keeps no picture waiting for it.
    pub(crate) fn hashed_beside<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.hash.get().is_some() {
            return work();
        }
        std::thread::scope(|scope| {
            // Whoever asks for the hash hears of its error.
            scope.spawn(|| self.hash().map(drop));
            work()
        })
    }

    /// The size the model was made for.
    pub fn native_size(&self) -> Size {
        self.limits.native
    }

    /// Whether the model has a checker of pictures.
    pub fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Binds the weights of the model's checker of pictures, which is else done for the first picture that it looks at.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn bind_filter(&self) -> Result<(), LoadError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let bound = filter.checker().map(drop);
        bound.map_err(|error| LoadError::new(error.kind(), error.to_string()))
    }

    /// What reads prompts, with these encoders: the model's own, or the same in f32.
    pub(crate) fn reader<'a>(&'a self, encoders: &'a TextEncoders) -> Reader<'a> {
        let towers = encoders.towers(&self.tokenizers);
        Reader { towers, zeros_for_empty: self.configs.zeros_for_empty }
    }

    /// What CLIP's guidance takes of the model; `None` where it carries no CLIP picture encoder.
    pub(crate) fn clip_parts(&self) -> Option<clip_guidance::Parts<'_>> {
        let (configs, weights) = (&self.configs, &self.weights);
        Some(clip_guidance::Parts {
            clip: self.clip.as_ref()?,
            vae: (&weights.vae, &configs.vae, &configs.labels.vae),
            text: (weights.texts.first()?, configs.texts.first()?, configs.labels.texts.first()?),
            tokenizer: self.tokenizers.first()?,
        })
    }

    /// Whether it is one of Stable Diffusion XL's family.
    pub(crate) fn is_xl(&self) -> bool {
        self.configs.class == PipelineClass::Xl
    }

    /// The sizes of the denoising network.
    pub(crate) fn unet_config(&self) -> &UnetConfig {
        &self.configs.unet
    }

    /// The colours of latents, measured when they are first asked for.
    pub(crate) fn colours(&self) -> Option<&LatentColours> {
        // Kept for all requests, so not one's to break off.
        let measure = || interruption::obeying(None, || LatentColours::measure(&self.networks.vae).ok());
        self.colours.get_or_init(measure).as_ref()
    }
}

impl Generator for Model {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        let switch = progress.switch();
        let outcome =
            interruption::obeying(switch.clone(), || crate::generate::generate(self, request, progress));
        match outcome {
            // A layer found the switch thrown.
            Err(error)
                if error.kind() == ErrorKind::Internal && switch.is_some_and(|it| it.is_cancelled()) =>
            {
                Err(crate::generate::cancellation())
            }
            outcome => outcome,
        }
    }
}

/// The tokenizers of all text encoders.
fn tokenizers(files: &dyn ModelFiles, class: PipelineClass) -> Result<Vec<Tokenizer>, LoadError> {
    class.text_parts().iter().map(|part| Tokenizer::load(files, part.tokenizer)).collect()
}

/// The sampler that a scheduler configuration stands for, where there is one of its kind.
fn own_sampler(config: &SchedulerConfig) -> Option<Sampler> {
    match config.class_name.parse() {
        Ok(Sampler::KDpmpp2m) if config.algorithm_type == "sde-dpmsolver++" => Some(Sampler::KDpmpp2mSde),
        // diffusers' single-step solver is another algorithm than the ancestral one of this spelling.
        Ok(Sampler::KDpmpp2sAncestral) => None,
        found => found.ok(),
    }
}
