//! What steers a picture beside its prompts, as a parcel's text says it.

use super::{Bits32, Bits64, Blobs, StoredPicture, message};
use pentimento_request::{
    CannyThresholds, ClipGuidance, Conditioning, Control, ControlNetwork, Faces, Hint, Identity, ImagePrompt,
    Lora, Picture, Texture,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredConditioning {
    loras: Vec<StoredLora>,
    controls: Vec<StoredControl>,
    smoothed: bool,
    image_prompts: Vec<StoredImagePrompt>,
    identity: Option<StoredIdentity>,
    clip_guidance: Option<String>,
    #[serde(default)]
    left_out: Vec<String>,
}

impl StoredConditioning {
    pub(super) fn of<'a>(conditioning: &'a Conditioning, blobs: &mut Blobs<'a>) -> Self {
        let Conditioning { loras, controls, texture, image_prompts, identity, clip_guidance, left_out } =
            conditioning;
        Self {
            loras: loras.iter().map(StoredLora::of).collect(),
            controls: controls.iter().map(|control| StoredControl::of(control, blobs)).collect(),
            smoothed: match texture {
                Texture::Kept => false,
                Texture::Smoothed => true,
            },
            image_prompts: image_prompts.iter().map(|prompt| StoredImagePrompt::of(prompt, blobs)).collect(),
            identity: identity.as_ref().map(|identity| StoredIdentity::of(identity, blobs)),
            clip_guidance: clip_guidance.map(|preset| preset.name().to_owned()),
            left_out: left_out.clone(),
        }
    }

    pub(super) fn back(self, blobs: &[&[u8]]) -> Result<Conditioning, String> {
        let Self { loras, controls, smoothed, image_prompts, identity, clip_guidance, left_out } = self;
        let controls = controls.into_iter().map(|control| control.back(blobs));
        let image_prompts = image_prompts.into_iter().map(|prompt| prompt.back(blobs));
        let clip_guidance = clip_guidance.map(|name| name.parse::<ClipGuidance>());
        Ok(Conditioning {
            loras: loras.into_iter().map(StoredLora::back).collect(),
            controls: controls.collect::<Result<_, _>>()?,
            texture: if smoothed { Texture::Smoothed } else { Texture::Kept },
            image_prompts: image_prompts.collect::<Result<_, _>>()?,
            identity: identity.map(|identity| identity.back(blobs)).transpose()?,
            clip_guidance: clip_guidance.transpose().map_err(message)?,
            left_out,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLora {
    name: String,
    weight: Bits32,
    text_weight: Option<Bits32>,
}

impl StoredLora {
    fn of(lora: &Lora) -> Self {
        let Lora { name, weight, text_weight } = lora;
        Self { name: name.clone(), weight: (*weight).into(), text_weight: text_weight.map(Into::into) }
    }

    fn back(self) -> Lora {
        let Self { name, weight, text_weight } = self;
        Lora { name, weight: weight.into(), text_weight: text_weight.map(Into::into) }
    }
}

#[derive(Serialize, Deserialize)]
enum StoredHint {
    Edges { low: Bits32, high: Bits32 },
    Picture(StoredPicture),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredControl {
    /// A network's name; absent for the one that the model keeps for edges.
    network: Option<String>,
    hint: StoredHint,
    weight: Bits32,
    start: Bits64,
    end: Bits64,
}

impl StoredControl {
    fn of<'a>(control: &'a Control, blobs: &mut Blobs<'a>) -> Self {
        let Control { network, hint, weight, start, end } = control;
        Self {
            network: match network {
                ControlNetwork::Canny => None,
                ControlNetwork::Named(name) => Some(name.clone()),
            },
            hint: match hint {
                Hint::Edges(limits) => {
                    StoredHint::Edges { low: limits.low().into(), high: limits.high().into() }
                }
                Hint::Picture(picture) => StoredHint::Picture(blobs.picture(picture)),
            },
            weight: (*weight).into(),
            start: (*start).into(),
            end: (*end).into(),
        }
    }

    fn back(self, blobs: &[&[u8]]) -> Result<Control, String> {
        let Self { network, hint, weight, start, end } = self;
        Ok(Control {
            network: network.map_or(ControlNetwork::Canny, ControlNetwork::Named),
            hint: match hint {
                StoredHint::Edges { low, high } => {
                    Hint::Edges(CannyThresholds::new(low.into(), high.into()).map_err(message)?)
                }
                StoredHint::Picture(picture) => Hint::Picture(picture.back(blobs)?),
            },
            weight: weight.into(),
            start: start.strength()?,
            end: end.strength()?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredImagePrompt {
    adapter: String,
    pictures: Vec<StoredPicture>,
    scale: Bits32,
}

impl StoredImagePrompt {
    fn of<'a>(prompt: &'a ImagePrompt, blobs: &mut Blobs<'a>) -> Self {
        let ImagePrompt { adapter, pictures, scale } = prompt;
        let pictures = pictures.iter().map(|picture| blobs.picture(picture)).collect();
        Self { adapter: adapter.clone(), pictures, scale: (*scale).into() }
    }

    fn back(self, blobs: &[&[u8]]) -> Result<ImagePrompt, String> {
        let Self { adapter, pictures, scale } = self;
        Ok(ImagePrompt { adapter, pictures: all(pictures, blobs)?, scale: scale.into() })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredIdentity {
    adapter: Option<String>,
    /// The pictures of a person; absent where the face is the input's.
    faces: Option<Vec<StoredPicture>>,
    scale: Bits32,
}

impl StoredIdentity {
    fn of<'a>(identity: &'a Identity, blobs: &mut Blobs<'a>) -> Self {
        let Identity { adapter, faces, scale } = identity;
        let faces = match faces {
            Faces::OfInput => None,
            Faces::Of(pictures) => Some(pictures.iter().map(|picture| blobs.picture(picture)).collect()),
        };
        Self { adapter: adapter.clone(), faces, scale: (*scale).into() }
    }

    fn back(self, blobs: &[&[u8]]) -> Result<Identity, String> {
        let Self { adapter, faces, scale } = self;
        let faces = faces.map(|pictures| all(pictures, blobs)).transpose()?;
        Ok(Identity { adapter, faces: faces.map_or(Faces::OfInput, Faces::Of), scale: scale.into() })
    }
}

fn all(pictures: Vec<StoredPicture>, blobs: &[&[u8]]) -> Result<Vec<Arc<Picture>>, String> {
    pictures.into_iter().map(|picture| picture.back(blobs)).collect()
}
