//! The stages of drawing one by one, on made-up inputs: for measuring.

use crate::{
    conditioning::unfit,
    control::ControlUse,
    error::Result,
    model::Model,
    noise::Noise,
    unet::{ALL_SKIPS, Added, AddedInputs, Conditions, Context, ControlNet},
};
use candle_core::{Device, Tensor};
use pentimento_request::{ErrorKind, GenerateError, NoiseSource, Size};
use std::sync::Arc;

/// A stage of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeStage {
    /// Both texts, with and without guidance, through the text encoders.
    Text,
    /// A picture to latents.
    VaeEncode,
    /// One call of the UNet with both halves of the guidance.
    UnetStep,
    /// One call of a control network with both halves of the guidance.
    ControlnetStep,
    /// Latents to a picture.
    VaeDecode,
}

/// A model's stages at one size.
pub struct Probe<'a> {
    model: &'a Model,
    /// `[2, C, h, w]`
    latents: Tensor,
    /// `[1, 3, H, W]`
    pixels: Tensor,
    /// `[2, S, D]`
    texts: Tensor,
    context: Context,
    added: Option<Added>,
    control: Option<Steering>,
}

/// A control network with its hint.
struct Steering {
    network: Arc<ControlNet>,
    context: Context,
    added: Option<Added>,
    hint: Tensor,
}

/// A timestep in the middle of the schedule.
const TIMESTEP: f64 = 500.0;

impl<'a> Probe<'a> {
    /// The stages of a model at this size, without its control network.
    ///
    /// # Errors
    /// When the size is not one for the model.
    pub fn new(model: &'a Model, size: Size) -> Result<Self, GenerateError> {
        let factor = model.limits.factor;
        if !size.width().is_multiple_of(factor) || !size.height().is_multiple_of(factor) {
            let message = format!("size: {size} has no whole number of the model's cells of {factor} pixels");
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        Self::with(model, size).map_err(defect)
    }

    fn with(model: &'a Model, size: Size) -> Result<Self> {
        let [width, height] = [size.width() as usize, size.height() as usize];
        let factor = model.limits.factor as usize;
        let channels = model.networks.vae.latent_channels();
        let mut noise = Noise::new(NoiseSource::TorchCpu, 1);
        let latents = noise.draw(&[2, channels, height / factor, width / factor])?;
        let pixels = (noise.draw(&[1, 3, height, width])? * 0.3)?;
        let (texts, pooled) = (texts(model)?, pooled(model)?);
        let unet = &model.networks.unet;
        Ok(Self {
            context: unet.context(&texts)?,
            added: unet.added(&added_inputs(pooled.as_ref(), height, width))?,
            control: None,
            model,
            latents,
            pixels,
            texts,
        })
    }

    /// The same with the model's own control network for edges, if it has one.
    ///
    /// # Errors
    /// When the network does not fit the model.
    pub fn with_control(self) -> Result<Self, GenerateError> {
        let Some(file) = self.model.control_for(ControlUse::Edges).map_err(unfit)? else { return Ok(self) };
        let network = self.model.bind_control(&file).map_err(unfit)?;
        let control = Some(self.steering(network).map_err(defect)?);
        Ok(Self { control, ..self })
    }

    fn steering(&self, network: Arc<ControlNet>) -> Result<Steering> {
        let (_, _, height, width) = self.pixels.dims4()?;
        let pooled = pooled(self.model)?;
        Ok(Steering {
            context: network.context(&self.texts)?,
            added: network.added(&added_inputs(pooled.as_ref(), height, width))?,
            hint: network.embed_hint(&self.pixels.affine(0.5, 0.5)?)?,
            network,
        })
    }

    /// Whether there is something to be measured of a stage.
    pub fn has(&self, stage: ProbeStage) -> bool {
        stage != ProbeStage::ControlnetStep || self.control.is_some()
    }

    /// Runs a stage once.
    ///
    /// # Errors
    /// When the engine has a defect.
    pub fn run(&self, stage: ProbeStage) -> Result<(), GenerateError> {
        self.stage(stage).map_err(defect)
    }

    fn stage(&self, stage: ProbeStage) -> Result<()> {
        let networks = &self.model.networks;
        match stage {
            ProbeStage::Text => texts(self.model).map(drop),
            ProbeStage::VaeEncode => networks.vae.encode(&self.pixels).map(drop),
            ProbeStage::VaeDecode => networks.vae.decode(&self.latents.narrow(0, 0, 1)?).map(drop),
            ProbeStage::UnetStep => {
                let inputs = self.unet_inputs()?;
                networks.unet.forward(&inputs, TIMESTEP, &self.conditions(&self.context)).map(drop)
            }
            ProbeStage::ControlnetStep => match &self.control {
                Some(Steering { network, context, added, hint }) => network
                    .forward(&self.latents, TIMESTEP, context, added.as_ref(), hint, ALL_SKIPS)
                    .map(drop),
                None => Ok(()),
            },
        }
    }

    /// Latents, and for an inpainting network as much again of what it is shown.
    fn unet_inputs(&self) -> Result<Tensor> {
        if !self.model.networks.inpaints() {
            return Ok(self.latents.clone());
        }
        let mask = self.latents.narrow(1, 0, 1)?;
        Tensor::cat(&[&self.latents, &mask, &self.latents], 1)
    }

    fn conditions<'b>(&'b self, context: &'b Context) -> Conditions<'b> {
        Conditions { context, added: self.added.as_ref(), residuals: None, merging: None }
    }

    /// One call of the UNet on given values: what it predicts for `sample` `[B, C, h, w]` at `timestep` with the text
    /// states `context` `[B, S, D]`, row-major like them.
    ///
    /// # Errors
    /// When the values do not fit their shapes, or these the network.
    pub fn unet(
        &self,
        (sample, shape): (Vec<f32>, [usize; 4]),
        timestep: f64,
        (context, context_shape): (Vec<f32>, [usize; 3]),
    ) -> Result<Vec<f32>, GenerateError> {
        let unet = &self.model.networks.unet;
        let predicted = || {
            let sample = Tensor::from_vec(sample, &shape, &Device::Cpu)?;
            let context = unet.context(&Tensor::from_vec(context, &context_shape, &Device::Cpu)?)?;
            unet.forward(&sample, timestep, &self.conditions(&context))?.flatten_all()?.to_vec1()
        };
        if self.texts.dim(2).ok() != Some(context_shape[2]) || self.latents.dim(1).ok() != Some(shape[1]) {
            let message = format!("the network takes no sample {shape:?} with context {context_shape:?}");
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        predicted().map_err(defect)
    }
}

fn added_inputs(pooled: Option<&Tensor>, height: usize, width: usize) -> AddedInputs<'_> {
    let [height, width] = [height as f32, width as f32];
    AddedInputs { pooled, sizes: [height, width, 0.0, 0.0, height, width], guidance_scale: 7.0 }
}

/// An empty text and one of words through all encoders: `[2, S, D]`.
fn texts(model: &Model) -> Result<Tensor> {
    let towers = model.text.towers(&model.tokenizers);
    let parts = towers.iter().map(|tower| {
        let states = tower.encode(&[&[], &[320, 736, 539]], 0)?;
        Tensor::cat(&states.into_iter().map(|states| states.context).collect::<Vec<_>>(), 0)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 2)
}

/// The pooled state of the last encoder, twice, where it has one: `[2, P]`.
fn pooled(model: &Model) -> Result<Option<Tensor>> {
    let towers = model.text.towers(&model.tokenizers);
    let Some(tower) = towers.last() else { return Ok(None) };
    let states = tower.encode(&[&[320, 736, 539], &[320, 736, 539]], 0)?;
    let pooled = states.into_iter().map(|states| states.pooled).collect::<Option<Vec<_>>>();
    pooled.map(|pooled| Tensor::cat(&pooled, 0)).transpose()
}

fn defect(error: candle_core::Error) -> GenerateError {
    GenerateError::new(ErrorKind::Internal, error.to_string())
}
