//! What a request asks for beside its prompts: found by name, checked, and bound.
//!
//! Names that are not there, adapters and networks that do not fit, and weights out of range end the request before anything
//! is drawn. Messages name the field and what is there instead.

use crate::{
    canvas::Frame,
    clip_guidance::{self, ANCESTRAL},
    control::{BoundControl, ControlFile, ControlUse, is_active},
    error::{LoadError, LoadErrorKind},
    generate::internal,
    lora::WantedLora,
    model::Model,
    pixels,
    unet::AddedInputs,
};
use candle_core::Tensor;
use pentimento_imaging as imaging;
use pentimento_request::{
    CannyThresholds, ClipGuidance, Control, ControlNetwork, ControlReport, ErrorKind, GenerateError,
    GenerationRequest, Hint, Picture, Sampler, Size, Task, Texture,
};
use std::{error::Error as _, io, sync::Arc};

/// Largest weight of a control network.
const HEAVIEST_CONTROL: f32 = 2.0;

/// Whether a second half is computed: where guidance is asked for and the network does not know the scale by itself.
pub(crate) fn guides(model: &Model, request: &GenerationRequest) -> bool {
    request.guidance_scale.guides() && !model.networks.unet.knows_guidance()
}

/// What becomes of CLIP guidance.
pub(crate) enum Clip<'a> {
    /// It steers.
    Guides(ClipGuidance, clip_guidance::Parts<'a>),
    /// It was asked for and does nothing, for this reason.
    Ignored(String),
    /// It was not asked for.
    Absent,
}

/// What becomes of CLIP guidance. Where a model cannot be guided it is ignored, and the receipt tells: the service whose
/// presets these are takes them for SDXL and does nothing.
pub(crate) fn clip<'a>(model: &'a Model, request: &GenerationRequest) -> Result<Clip<'a>, GenerateError> {
    let Some(preset) = request.conditioning.clip_guidance else { return Ok(Clip::Absent) };
    let ignored = |why: String| Ok(Clip::Ignored(format!("clip_guidance: {preset} was ignored: {why}")));
    if model.is_xl() {
        return ignored("models of the XL family are not guided by CLIP".to_owned());
    }
    let Some(parts) = model.clip_parts() else {
        return ignored(format!("the model '{}' carries no CLIP picture encoder", model.name()));
    };
    match request.sampler {
        Some(sampler) if !ANCESTRAL.contains(&sampler) => {
            let known = ANCESTRAL.map(Sampler::name).join(", ");
            Err(invalid(format!(
                "clip_guidance: {preset} takes ancestral samplers only ({known}), not {sampler}"
            )))
        }
        _ => Ok(Clip::Guides(preset, parts)),
    }
}

/// The request's adapters with their files.
pub(crate) fn loras<'a>(
    model: &Model,
    request: &'a GenerationRequest,
) -> Result<Vec<WantedLora<'a>>, GenerateError> {
    let find = |lora: &'a pentimento_request::Lora| {
        let weights = [Some(lora.weight), lora.text_weight];
        if let Some(weight) = weights.into_iter().flatten().find(|weight| !weight.is_finite()) {
            return Err(invalid(format!("loras: a weight of {weight} is not possible")));
        }
        let file = model.lora(&lora.name).map_err(unfit)?;
        let file = file.ok_or_else(|| unknown("loras", "lora", &lora.name, &model.lora_names()))?;
        Ok(WantedLora { lora, file })
    };
    request.conditioning.loras.iter().map(find).collect()
}

/// A control network of the request with its file.
pub(crate) struct WantedControl<'a> {
    name: &'a str,
    /// `None` where its weight is 0: it is neither loaded nor run.
    file: Option<Arc<ControlFile>>,
    shown: Shown<'a>,
    weight: f32,
    span: (f64, f64),
}

/// What a control network is shown.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Edges(CannyThresholds),
    Picture(&'a Picture),
    /// The input picture as it is.
    Input,
}

/// The request's control networks with their files. A picture whose texture is kept adds the model's network for texture, if
/// it has one.
pub(crate) fn controls<'a>(
    model: &Model,
    request: &'a GenerationRequest,
) -> Result<Vec<WantedControl<'a>>, GenerateError> {
    let conditioning = &request.conditioning;
    let mut wanted = Vec::with_capacity(conditioning.controls.len() + 1);
    for control in &conditioning.controls {
        wanted.push(control_of(model, request, control)?);
    }
    let keeps = conditioning.texture == Texture::Kept && matches!(request.task, Task::ImageToImage { .. });
    if keeps && let Some(file) = model.control_for(ControlUse::Texture).map_err(unfit)? {
        let (shown, span) = (Shown::Input, (0.0, 1.0));
        wanted.push(WantedControl { name: "tile", file: Some(file), shown, weight: 1.0, span });
    }
    Ok(wanted)
}

fn control_of<'a>(
    model: &Model,
    request: &GenerationRequest,
    control: &'a Control,
) -> Result<WantedControl<'a>, GenerateError> {
    let Control { network, hint, weight, start, end } = control;
    if !(0.0..=HEAVIEST_CONTROL).contains(weight) {
        return Err(invalid(format!("controls: a weight of {weight} is not possible: it goes from 0 to 2")));
    }
    let span = (start.get(), end.get());
    if span.0 >= span.1 {
        let (start, end) = span;
        return Err(invalid(format!("controls: a network cannot start at {start} and end at {end}")));
    }
    let shown = match hint {
        Hint::Edges(_) if request.task.init().is_none() => {
            return Err(invalid(
                "controls: edges are those of an input picture, and there is none".to_owned(),
            ));
        }
        Hint::Edges(thresholds) => Shown::Edges(*thresholds),
        Hint::Picture(picture) => Shown::Picture(picture),
    };
    let name = match network {
        ControlNetwork::Canny => "canny",
        ControlNetwork::Named(name) => name,
    };
    let file = match network {
        _ if *weight == 0.0 => None,
        ControlNetwork::Canny => Some(canny_of(model)?),
        ControlNetwork::Named(name) => {
            let library = &model.options.library;
            let file = library.control(name).map_err(unfit)?;
            Some(file.ok_or_else(|| unknown("controls", "control network", name, &library.control_names()))?)
        }
    };
    Ok(WantedControl { name, file, shown, weight: *weight, span })
}

fn canny_of(model: &Model) -> Result<Arc<ControlFile>, GenerateError> {
    model.control_for(ControlUse::Edges).map_err(unfit)?.ok_or_else(|| {
        let message = format!(
            "controls: the model '{}' has no control network for edges (canny); its weight has to be 0",
            model.name()
        );
        GenerateError::new(ErrorKind::Unsupported, message)
    })
}

/// Binds the networks that run: shows them their hints at the size at which the model works. `prompts` `[B, S, D]` are those
/// that the UNet is given; `input` is what of the input picture the model sees.
pub(crate) fn bind_controls(
    model: &Model,
    wanted: &[WantedControl],
    frame: &Frame,
    input: Option<(&Picture, Size)>,
    prompts: &Tensor,
    added: &AddedInputs,
    in_f32: bool,
) -> Result<Vec<BoundControl>, GenerateError> {
    let mut bound = Vec::new();
    for control in wanted {
        let Some(file) = &control.file else { continue };
        let network = match in_f32 {
            true => model.control_in_f32(file).map_err(unfit)?,
            false => model.bind_control(file).map_err(unfit)?,
        };
        let hint = control.hint(frame, input)?;
        let hint = pixels::to_unit_tensor(&hint).map_err(internal)?;
        bound.push(BoundControl {
            context: network.context(prompts).map_err(internal)?,
            added: network.added(added).map_err(internal)?,
            hint: network.embed_hint(&hint).map_err(internal)?,
            network,
            weight: f64::from(control.weight),
            span: control.span,
        });
    }
    Ok(bound)
}

impl WantedControl<'_> {
    /// What the network is shown, at the size at which the model works.
    fn hint(&self, frame: &Frame, input: Option<(&Picture, Size)>) -> Result<Picture, GenerateError> {
        let seen = || {
            let picture = input.map(|(picture, _)| picture);
            picture.ok_or_else(|| invalid("controls: there is no input picture to show".to_owned()))
        };
        match (self.shown, frame.region, input) {
            (Shown::Edges(thresholds), _, _) => Ok(imaging::canny(seen()?, thresholds)),
            (Shown::Input, _, _) => Ok(seen()?.clone()),
            // Where the model sees a part of the input, it is shown the same part of the hint.
            (Shown::Picture(picture), Some(rect), Some((_, whole))) => {
                let part = imaging::crop(&imaging::resize(picture, whole), rect);
                part.map(|part| imaging::resize(&part, frame.work))
                    .map_err(|error| invalid(error.to_string()))
            }
            (Shown::Picture(picture), _, _) => Ok(imaging::resize(picture, frame.work)),
        }
    }

    /// What became of it in a run of so many steps.
    pub(crate) fn report(&self, steps: usize) -> ControlReport {
        let runs = |step: &usize| self.file.is_some() && is_active(self.span, *step, steps);
        ControlReport {
            name: self.name.to_owned(),
            hash: self.file.as_ref().map(|file| file.hash().to_owned()),
            hint: match self.shown {
                Shown::Edges(thresholds) => format!("edges {}:{}", thresholds.low(), thresholds.high()),
                Shown::Picture(_) => "picture".to_owned(),
                Shown::Input => "input".to_owned(),
            },
            weight: self.weight,
            steps_run: (0..steps).filter(runs).count(),
        }
    }
}

fn invalid(message: String) -> GenerateError {
    GenerateError::new(ErrorKind::InvalidRequest, message)
}

pub(crate) fn unknown(field: &str, what: &str, name: &str, known: &[String]) -> GenerateError {
    let known = match known.is_empty() {
        true => "there are none here".to_owned(),
        false => format!("known are {}", known.join(", ")),
    };
    invalid(format!("{field}: no {what} '{name}'; {known}"))
}

/// An adapter or control network that cannot be used with this model. That a file cannot be read is not the request's fault.
pub(crate) fn unfit(error: LoadError) -> GenerateError {
    if error.source().is_some_and(|cause| cause.is::<io::Error>()) {
        return GenerateError::caused_by(
            ErrorKind::Internal,
            "a file of the model or an adapter is lost",
            error,
        );
    }
    let kind = match error.kind() {
        LoadErrorKind::Missing => ErrorKind::InvalidRequest,
        LoadErrorKind::Malformed | LoadErrorKind::Tensor | LoadErrorKind::Unsupported => {
            ErrorKind::Unsupported
        }
    };
    GenerateError::new(kind, error.to_string())
}
