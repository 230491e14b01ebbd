//! What the options about adapters, control networks and texture mean. Nothing here touches a file.

use crate::cli::{SteeringArgs, Switch};
use pentimento_request::{CannyThresholds, ClipGuidance, Strength, Texture};
use std::path::PathBuf;

/// What steers a picture beside its prompts, as it was typed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Steering {
    pub(super) loras: Vec<TypedLora>,
    pub(super) controls: Vec<TypedControl>,
    /// Weight and thresholds of the edges of the input.
    pub(super) canny: Option<(f32, CannyThresholds)>,
    /// Share of the steps in which control networks begin and end.
    pub(super) range: Option<(Strength, Strength)>,
    pub(super) smooth: bool,
    pub(super) image_prompt: Option<TypedImagePrompt>,
    pub(super) identity: Option<TypedIdentity>,
    pub(super) clip_guidance: Option<ClipGuidance>,
}

/// Pictures that are read like a prompt, as they were typed.
#[derive(Debug, PartialEq)]
pub(super) struct TypedImagePrompt {
    pub(super) adapter: Place,
    pub(super) pictures: Vec<PathBuf>,
    pub(super) scale: f32,
}

/// Whose face is shown, as it was typed.
#[derive(Debug, PartialEq)]
pub(super) struct TypedIdentity {
    pub(super) adapter: Option<Place>,
    /// None of them stands for the input picture.
    pub(super) pictures: Vec<PathBuf>,
    pub(super) scale: f32,
}

/// An adapter, as it was typed.
#[derive(Debug, PartialEq)]
pub(super) struct TypedLora {
    pub(super) place: Place,
    pub(super) weight: f32,
    pub(super) text_weight: Option<f32>,
}

/// A control network with its picture, as it was typed.
#[derive(Debug, PartialEq)]
pub(super) struct TypedControl {
    pub(super) place: Place,
    pub(super) image: PathBuf,
    pub(super) weight: f32,
}

/// Where a file lies.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// Under this name in the configured folders.
    Named(String),
    /// There.
    Path(PathBuf),
}

impl Place {
    /// What looks like a path is one; a bare word is a name.
    fn of(typed: &str) -> Self {
        match typed.contains(['/', '\\']) || typed.ends_with(".safetensors") {
            true => Self::Path(typed.into()),
            false => Self::Named(typed.to_owned()),
        }
    }
}

impl Steering {
    /// Resolves what was typed. The error says what to type instead.
    pub(super) fn resolve(args: &SteeringArgs, has_input: bool) -> Result<Self, String> {
        let SteeringArgs {
            lora,
            canny,
            canny_thresholds,
            control,
            control_image,
            control_range,
            keep_texture,
            image_prompt,
            ip_adapter,
            face,
            id_scale,
            face_adapter,
            clip_guidance,
            // Folders, which are looked at later.
            loras_dir: _,
            controls_dir: _,
        } = args;
        if control.len() != control_image.len() {
            return Err(format!(
                "--control and --control-image go in pairs: there are {} and {}",
                control.len(),
                control_image.len()
            ));
        }
        if !has_input && (canny.is_some() || keep_texture.is_some()) {
            let option = if canny.is_some() { "--canny" } else { "--keep-texture" };
            return Err(format!("{option} is about an input picture: give --init FILE"));
        }
        let controls = control.iter().zip(control_image).map(|(typed, image)| {
            let (place, weight) = named_weight("--control", typed)?;
            let weight = number("--control", &weight)?;
            Ok(TypedControl { place, image: image.clone(), weight: in_range("--control", weight)? })
        });
        let canny = canny.map(|weight| {
            Ok::<_, String>((in_range("--canny", weight)?, thresholds(canny_thresholds.as_deref())?))
        });
        Ok(Self {
            loras: lora.iter().map(|typed| typed_lora(typed)).collect::<Result<_, _>>()?,
            controls: controls.collect::<Result<_, String>>()?,
            canny: canny.transpose()?,
            range: control_range.as_deref().map(range).transpose()?,
            smooth: *keep_texture == Some(Switch::Off),
            image_prompt: ip_adapter
                .as_deref()
                .map(|typed| typed_image_prompt(typed, image_prompt))
                .transpose()?,
            identity: typed_identity(face_adapter.as_deref(), face, *id_scale, has_input)?,
            clip_guidance: *clip_guidance,
        })
    }

    /// What becomes of the input's texture.
    pub(super) fn texture(&self) -> Texture {
        if self.smooth { Texture::Smoothed } else { Texture::Kept }
    }
}

fn typed_lora(typed: &str) -> Result<TypedLora, String> {
    let (place, weights) = named_weight("--lora", typed)?;
    let (weight, text_weight) = match weights.split_once(':') {
        Some((weight, text)) => (weight, Some(number("--lora", text)?)),
        None => (weights.as_str(), None),
    };
    Ok(TypedLora { place, weight: number("--lora", weight)?, text_weight })
}

fn typed_image_prompt(typed: &str, pictures: &[PathBuf]) -> Result<TypedImagePrompt, String> {
    let (adapter, scale) = named_weight("--ip-adapter", typed)?;
    let scale = share("--ip-adapter", number("--ip-adapter", &scale)?)?;
    Ok(TypedImagePrompt { adapter, pictures: pictures.to_vec(), scale })
}

fn typed_identity(
    adapter: Option<&str>,
    pictures: &[PathBuf],
    scale: Option<f32>,
    has_input: bool,
) -> Result<Option<TypedIdentity>, String> {
    if pictures.is_empty() && (scale.is_none() || !has_input) {
        return match scale.map(|_| "--id-scale").or(adapter.map(|_| "--face-adapter")) {
            Some(option) => {
                Err(format!("{option} is about a face: give --face FILE, or --id-scale with --init"))
            }
            None => Ok(None),
        };
    }
    let scale = share("--id-scale", scale.unwrap_or(1.0))?;
    Ok(Some(TypedIdentity { adapter: adapter.map(Place::of), pictures: pictures.to_vec(), scale }))
}

fn share(option: &str, scale: f32) -> Result<f32, String> {
    match (0.0..=1.0).contains(&scale) {
        true => Ok(scale),
        false => Err(format!("{option}: a scale of {scale} is not possible: it goes from 0 to 1")),
    }
}

/// Name and weight of `NAME=WEIGHT`; a name alone weighs 1.
fn named_weight(option: &str, typed: &str) -> Result<(Place, String), String> {
    let (name, weight) = typed.rsplit_once('=').unwrap_or((typed, "1"));
    match name.is_empty() {
        true => {
            Err(format!("{option}: '{typed}' names nothing: write NAME=WEIGHT, as in {option} style=0.8"))
        }
        false => Ok((Place::of(name), weight.to_owned())),
    }
}

fn number(option: &str, typed: &str) -> Result<f32, String> {
    let number = typed.trim().parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| {
        format!("{option}: '{typed}' is not a weight: write a number, as in {option} style=0.8")
    })
}

fn in_range(option: &str, weight: f32) -> Result<f32, String> {
    match (0.0..=2.0).contains(&weight) {
        true => Ok(weight),
        false => Err(format!("{option}: a weight of {weight} is not possible: it goes from 0 to 2")),
    }
}

fn thresholds(typed: Option<&str>) -> Result<CannyThresholds, String> {
    let Some(typed) = typed else { return Ok(CannyThresholds::USUAL) };
    let wrong = || format!("--canny-thresholds: '{typed}' is not possible: write LOW:HIGH, as in 100:200");
    let (low, high) = typed.split_once(':').ok_or_else(wrong)?;
    let (low, high) = (low.parse().map_err(|_| wrong())?, high.parse().map_err(|_| wrong())?);
    CannyThresholds::new(low, high).map_err(|_| wrong())
}

fn range(typed: &str) -> Result<(Strength, Strength), String> {
    let wrong = || format!("--control-range: '{typed}' is not possible: write START:END, as in 0:0.5");
    let (start, end) = typed.split_once(':').ok_or_else(wrong)?;
    let share = |text: &str| Strength::new(text.parse().map_err(|_| wrong())?).map_err(|_| wrong());
    let (start, end) = (share(start)?, share(end)?);
    if start.get() < end.get() { Ok((start, end)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_weights_are_told_apart() {
        let lora = |typed: &str| typed_lora(typed).expect(typed);
        let named = |name: &str| Place::Named(name.to_owned());
        assert_eq!(lora("style=0.8"), TypedLora { place: named("style"), weight: 0.8, text_weight: None });
        assert_eq!(
            lora("style=-1:0.2"),
            TypedLora { place: named("style"), weight: -1.0, text_weight: Some(0.2) }
        );
        assert_eq!(lora("style").weight, 1.0);
        assert_eq!(lora("a=b/c.safetensors=2").place, Place::Path("a=b/c.safetensors".into()));
        for typed in ["=1", "style=x", "style=nan", "style=1:"] {
            assert!(typed_lora(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn faces_come_from_their_own_pictures_or_from_the_input() {
        let file = [PathBuf::from("me.png")];
        let read = |adapter, pictures: &[PathBuf], scale, has_input| {
            typed_identity(adapter, pictures, scale, has_input)
                .map(|face| face.map(|face| (face.scale, face.pictures.len())))
        };
        assert_eq!(read(None, &[], None, true), Ok(None));
        assert_eq!(read(None, &file, None, false), Ok(Some((1.0, 1))));
        assert_eq!(read(Some("x"), &[], Some(0.5), true), Ok(Some((0.5, 0))));
        for wrong in [
            read(None, &[], Some(0.5), false),
            read(Some("x"), &[], None, true),
            read(None, &file, Some(1.5), false),
        ] {
            assert!(wrong.expect_err("it cannot be").starts_with("--"));
        }
        let prompt = typed_image_prompt("a/plus.safetensors=0.4", &file).expect("it is right");
        assert_eq!((prompt.adapter, prompt.scale), (Place::Path("a/plus.safetensors".into()), 0.4));
        assert!(typed_image_prompt("plus=2", &file).is_err());
    }

    #[test]
    fn ranges_and_thresholds_keep_their_order() {
        assert_eq!(range("0.1:0.9").map(|(start, end)| (start.get(), end.get())), Ok((0.1, 0.9)));
        for typed in ["0.5", "0.9:0.1", "0.5:0.5", "0:2", "a:b"] {
            assert!(range(typed).is_err(), "{typed}");
        }
        assert_eq!(thresholds(None), Ok(CannyThresholds::USUAL));
        assert!(thresholds(Some("50:150")).is_ok() && thresholds(Some("150:50")).is_err());
    }
}
