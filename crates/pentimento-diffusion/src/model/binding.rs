//! Binding a model's weights: once when it is loaded, and again for requests that bring adapters, control networks, or values
//! that overflow.

use super::{Configs, Model, Networks, PartWeights};
use crate::{
    control::{ControlFile, ControlUse},
    error::LoadError,
    lora::{Adapters, LoraFile, ModelLayers, ModelPart, Part, WantedLora, key},
    model::Precision,
    packed::Packed,
    precision::floats,
    text_encoders::{TextEncoders, TextPart},
    unet::{ControlNet, Unet},
    vae::Vae,
    weights::{Scope, Weights},
};
use pentimento_request::LoraReport;
use std::sync::Arc;

/// The packed layers of the parts that adapters can change, in the model's precision.
pub(super) struct PackedParts {
    pub(super) texts: Vec<Packed>,
    pub(super) unet: Packed,
}

/// The networks of one request that adapters changed; `None` where the model's own are as they should be.
pub(crate) struct Bound {
    pub(crate) text: Option<TextEncoders>,
    pub(crate) unet: Option<Unet>,
    pub(crate) reports: Vec<LoraReport>,
}

impl Bound {
    /// The model as it is.
    const UNCHANGED: Self = Self { text: None, unet: None, reports: Vec::new() };
}

/// The parts of the text encoders, in their order.
const TEXT_PARTS: [Part; 2] = [Part::Text, Part::Text2];

impl PackedParts {
    /// Empty tables for the parts of a model with so many text encoders.
    pub(super) fn new(texts: &[Weights]) -> Self {
        Self { texts: texts.iter().map(|_| Packed::default()).collect(), unet: Packed::default() }
    }
}

impl Model {
    /// The text encoder again in f32, when it overflowed in a lower precision.
    pub(crate) fn text_in_f32(&self, loras: &[WantedLora]) -> Result<TextEncoders, LoadError> {
        let adapters = self.adapters(loras, Precision::F32)?;
        bind_texts(&self.configs, &self.weights, Precision::F32, None, adapters.as_deref())
    }

    /// The denoising network again in f32, for steps that overflowed in a lower precision.
    pub(crate) fn unet_in_f32(&self, loras: &[WantedLora]) -> Result<Unet, LoadError> {
        let adapters = self.adapters(loras, Precision::F32)?;
        bind_unet(&self.configs, &self.weights, Precision::F32, None, adapters.as_deref())
    }

    /// The autoencoder again in f32, for a stage that overflowed in a lower precision.
    pub(crate) fn vae_in_f32(&self) -> Result<Vae, LoadError> {
        bind_vae(&self.configs, &self.weights, Precision::F32)
    }

    /// The networks with these adapters. Layers that none of them changes are those of the model.
    pub(crate) fn bound(&self, loras: &[WantedLora]) -> Result<Bound, LoadError> {
        let precision = self.options.precision;
        let Some(adapters) = self.adapters(loras, precision)? else { return Ok(Bound::UNCHANGED) };
        let (configs, packed) = (&self.configs, Some(&self.packed));
        let text = TEXT_PARTS.iter().any(|part| adapters.of(*part).is_some());
        let text = text.then(|| bind_texts(configs, &self.weights, precision, packed, Some(&adapters)));
        let unet = adapters.of(Part::Unet).is_some();
        let unet = unet.then(|| bind_unet(configs, &self.weights, precision, packed, Some(&adapters)));
        Ok(Bound { text: text.transpose()?, unet: unet.transpose()?, reports: adapters.reports.clone() })
    }

    fn adapters(
        &self,
        loras: &[WantedLora],
        precision: Precision,
    ) -> Result<Option<Arc<Adapters>>, LoadError> {
        if loras.is_empty() {
            return Ok(None);
        }
        let texts = TEXT_PARTS.into_iter().zip(self.weights.texts.iter().zip(&self.packed.texts));
        let texts = texts.map(|(part, (weights, packed))| ModelPart { part, weights, packed });
        let unet = ModelPart { part: Part::Unet, weights: &self.weights.unet, packed: &self.packed.unet };
        let parts: Vec<_> = texts.chain([unet]).collect();
        let layers = self.layers.get_or_init(|| {
            let levels = self.configs.unet.block_out_channels.len();
            let layers = self.configs.unet.layers_per_block.levels(levels).unwrap_or_default();
            let alike = layers.first().copied().filter(|first| layers.iter().all(|count| count == first));
            ModelLayers::of(parts.iter().map(|part| (part.part, part.packed)), alike)
        });
        let bind = || Adapters::bind(loras, layers, &parts, precision);
        self.adapters.get_or_bind(key(loras, precision), bind).map(Some)
    }

    /// How many sets of adapters are kept for requests to come.
    #[cfg(test)]
    pub(crate) fn kept_adapters(&self) -> usize {
        self.adapters.kept()
    }

    /// The adapter of this name: one of the library, or the model's own.
    pub(crate) fn lora(&self, name: &str) -> Result<Option<Arc<LoraFile>>, LoadError> {
        Ok(self.options.library.lora(name)?.or_else(|| self.companions.lora(name)))
    }

    /// The names of all adapters that there are for this model.
    pub(crate) fn lora_names(&self) -> Vec<String> {
        let mut names = self.options.library.lora_names();
        names.extend(self.companions.lora_names().map(str::to_owned));
        names.sort();
        names.dedup();
        names
    }

    /// The control network for a use, if the model has one: the one that was set for it, or its own.
    pub(crate) fn control_for(&self, used: ControlUse) -> Result<Option<Arc<ControlFile>>, LoadError> {
        let set = match used {
            ControlUse::Edges => &self.options.canny,
            ControlUse::Texture => &self.options.tile,
        };
        match set {
            Some(name) => self.options.library.control(name),
            None => Ok(self.companions.control(used)),
        }
    }

    /// Binds a control network.
    pub(crate) fn bind_control(&self, file: &Arc<ControlFile>) -> Result<Arc<ControlNet>, LoadError> {
        self.controls.get_or_bind(file, &self.configs.unet, self.options.precision)
    }

    /// Binds a control network in f32, for steps that overflowed in a lower precision.
    pub(crate) fn control_in_f32(&self, file: &ControlFile) -> Result<Arc<ControlNet>, LoadError> {
        file.bind(&self.configs.unet, Precision::F32).map(Arc::new)
    }
}

pub(super) fn bind_unet(
    configs: &Configs,
    weights: &PartWeights,
    precision: Precision,
    packed: Option<&PackedParts>,
    adapters: Option<&Adapters>,
) -> Result<Unet, LoadError> {
    let scope = Scope::root(&weights.unet, precision)
        .sharing(packed.map(|packed| &packed.unet))
        .changed_by(adapters.and_then(|adapters| adapters.of(Part::Unet)));
    Unet::load(&scope, &configs.unet, &configs.labels.unet)
}

pub(super) fn bind_vae(
    configs: &Configs,
    weights: &PartWeights,
    precision: Precision,
) -> Result<Vae, LoadError> {
    Vae::load(&Scope::root(&weights.vae, floats(precision)), &configs.vae, &configs.labels.vae)
}

/// The model's own networks, whose layers go into the table.
pub(super) fn bind(
    configs: &Configs,
    weights: &PartWeights,
    precision: Precision,
    packed: &PackedParts,
) -> Result<Networks, LoadError> {
    Ok(Networks {
        unet: bind_unet(configs, weights, precision, Some(packed), None)?,
        vae: bind_vae(configs, weights, precision)?,
        extra_channels: configs.unet.in_channels - configs.unet.out_channels,
    })
}

pub(super) fn bind_texts(
    configs: &Configs,
    weights: &PartWeights,
    precision: Precision,
    packed: Option<&PackedParts>,
    adapters: Option<&Adapters>,
) -> Result<TextEncoders, LoadError> {
    let parts = configs.texts.iter().zip(&weights.texts).zip(&configs.labels.texts).enumerate();
    let parts = parts.map(|(index, ((config, weights), label))| TextPart {
        config,
        weights,
        packed: packed.and_then(|packed| packed.texts.get(index)),
        changes: adapters.and_then(|adapters| adapters.of(*TEXT_PARTS.get(index)?)),
        label,
    });
    TextEncoders::load(&parts.collect::<Vec<_>>(), floats(precision))
}
