//! Volcengine's protocol as it is configured: the shipped styles, and what the configuration changes of them.

use super::settings::{ConfiguredModel, Settings};
use crate::{
    config::{ConfiguredFormat, ConfiguredUnknown, StyleConfig, VolcengineConfig},
    library::Shelves,
};
use anyhow::{Context, Result, bail};
use pentimento_diffusion::Library;
use pentimento_imaging::Format;
use pentimento_protocols::{
    ModelProfile,
    volcengine::{
        Defaults, ImageRules, KnownLoras, Style, Styles, UnknownLoras, Volcengine, VolcengineConfig as Shape,
    },
};
use pentimento_request::{ControlNetwork, Lora, parse_sampler};
use std::ops::RangeInclusive;

/// `[volcengine]`, resolved but for the styles' models.
#[derive(Debug)]
pub(super) struct VolcengineSettings {
    images: ImageRules,
    format: Format,
    /// Configured styles, with the models that they name.
    styles: Vec<(String, StyleConfig, Option<ConfiguredModel>)>,
}

impl VolcengineSettings {
    /// Checks everything. `find` looks a model up.
    ///
    /// # Errors
    /// One line that names the key.
    pub(super) fn resolve(
        config: VolcengineConfig,
        find: impl Fn(&str) -> Result<ConfiguredModel>,
    ) -> Result<Self> {
        let VolcengineConfig {
            picture_format,
            image_formats,
            image_bytes,
            longest_side,
            smallest_image,
            styles,
        } = config;
        let usual = ImageRules::vendor();
        let images = ImageRules {
            bytes: image_bytes.unwrap_or(usual.bytes),
            longest_side: longest_side.unwrap_or(usual.longest_side),
            smallest: smallest_image
                .filter(|sides| *sides != [0, 0])
                .map(|[one, other]| [one.min(other), one.max(other)]),
            formats: image_formats.map_or(usual.formats, |formats| formats.into_iter().map(format).collect()),
        };
        let format = match picture_format.unwrap_or(ConfiguredFormat::Jpeg) {
            ConfiguredFormat::Webp => bail!("[volcengine] picture_format is jpeg or png"),
            configured => format(configured),
        };
        let mut resolved = Vec::new();
        for (key, style) in styles {
            let named = || format!("[volcengine.styles] {key}");
            check(&style).with_context(named)?;
            let model = style.model.as_deref().map(&find).transpose().with_context(named)?;
            resolved.push((key, style, model));
        }
        Ok(Self { images, format, styles: resolved })
    }

    /// What each `req_key` stands for. `profile` makes a model known.
    pub(super) fn styles(
        &self,
        fallback: &ModelProfile,
        mut profile: impl FnMut(&ConfiguredModel) -> ModelProfile,
    ) -> Styles {
        let mut styles = Styles::shipped(fallback);
        for (key, config, model) in &self.styles {
            let shipped = styles.get(key).cloned().unwrap_or_else(|| Style::new(fallback, ""));
            styles.insert(key.clone(), changed(shipped, config, model.as_ref().map(&mut profile)));
        }
        styles
    }
}

/// The protocol.
pub(super) fn protocol(settings: &Settings, styles: Styles) -> Volcengine {
    let VolcengineSettings { images, format, styles: _ } = &settings.volcengine;
    let shelves = Shelves::of(&settings.places);
    let mut shape = Shape::new(settings.credentials.to_volcengine(), styles);
    shape.loras = KnownLoras::new(move |name| shelves.lora_names().iter().any(|known| known == name));
    shape.images = images.clone();
    shape.format = *format;
    Volcengine::new(shape)
}

/// A style with what is configured of it. One that is given a model of its own has to have the adapters that requests
/// name, unless it says otherwise: what is left out of a picture that was meant seriously would not be noticed.
fn changed(style: Style, config: &StyleConfig, model: Option<ModelProfile>) -> Style {
    let StyleConfig {
        model: _,
        prompt,
        negative_prompt,
        control,
        shows_faces,
        loras,
        unknown_loras,
        strength,
        scale,
        steps,
        clip_skip,
        control_weight,
        id_scale,
        long_resolution,
        keep_texture,
        sampler,
        variants,
    } = config;
    let unknown_loras = match unknown_loras {
        Some(ConfiguredUnknown::LeaveOut) => UnknownLoras::LeftOut,
        Some(ConfiguredUnknown::Refuse) => UnknownLoras::Refused,
        None if model.is_some() => UnknownLoras::Refused,
        None => style.unknown_loras,
    };
    let network = |name: &String| match name.as_str() {
        "canny" => ControlNetwork::Canny,
        name => ControlNetwork::Named(name.to_owned()),
    };
    let lora =
        |(name, weight): (&String, &f32)| Lora { name: name.clone(), weight: *weight, text_weight: None };
    let usual = style.defaults;
    let own = model.as_ref().map_or(style.control, ModelProfile::own_control);
    let sees_faces = model.as_ref().map_or(style.shows_faces, |model| model.shows_faces);
    Style {
        model: model.unwrap_or(style.model),
        prompt: prompt.clone().unwrap_or(style.prompt),
        negative_prompt: negative_prompt.clone().unwrap_or(style.negative_prompt),
        control: control.as_ref().map(network).or(own),
        shows_faces: shows_faces.unwrap_or(sees_faces),
        loras: if loras.is_empty() { style.loras } else { loras.iter().map(lora).collect() },
        unknown_loras,
        defaults: Defaults {
            strength: strength.unwrap_or(usual.strength),
            scale: scale.unwrap_or(usual.scale),
            steps: steps.unwrap_or(usual.steps),
            clip_skip: clip_skip.unwrap_or(usual.clip_skip),
            control_weight: control_weight.unwrap_or(usual.control_weight),
            id_scale: id_scale.unwrap_or(usual.id_scale),
            long_resolution: long_resolution.unwrap_or(usual.long_resolution),
            keep_texture: keep_texture.unwrap_or(usual.keep_texture),
            sampler: sampler.clone().unwrap_or(usual.sampler),
        },
        variants: style.variants.into_iter().chain(variants.clone()).collect(),
    }
}

/// Refuses values that no request could have.
fn check(style: &StyleConfig) -> Result<()> {
    let StyleConfig {
        strength,
        scale,
        control_weight,
        id_scale,
        steps,
        clip_skip,
        long_resolution,
        sampler,
        loras,
        ..
    } = style;
    within("strength", *strength, 0.0..=1.0)?;
    within("scale", *scale, 1.0..=30.0)?;
    within("control_weight", *control_weight, 0.0..=1.0)?;
    within("id_scale", *id_scale, 0.0..=1.0)?;
    within("steps", *steps, 1..=50)?;
    within("clip_skip", *clip_skip, 1..=3)?;
    within("long_resolution", *long_resolution, 256..=2048)?;
    if let Some((name, _)) = loras.iter().find(|(_, weight)| !weight.is_finite()) {
        bail!("the weight of {name} is no number");
    }
    if let Some(name) = sampler {
        parse_sampler(name)?;
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<()> {
    if value.is_some_and(|value| !range.contains(&value)) {
        bail!("{name} goes from {} to {}", range.start(), range.end());
    }
    Ok(())
}

const fn format(configured: ConfiguredFormat) -> Format {
    match configured {
        ConfiguredFormat::Jpeg => Format::Jpeg,
        ConfiguredFormat::Png => Format::Png,
        ConfiguredFormat::Webp => Format::WebP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> ModelProfile {
        ModelProfile::named(name)
    }

    #[test]
    fn what_is_not_configured_stays_as_shipped() {
        let shipped = Style::new(&profile("default"), "a prompt");
        assert_eq!(changed(shipped.clone(), &StyleConfig::default(), None), shipped);
    }

    #[test]
    fn a_style_with_a_model_of_its_own_refuses_adapters_that_are_not_there() {
        let config: StyleConfig = toml::from_str(
            "control = \"canny\"\nshows_faces = true\nsteps = 25\nloras = { Dragon_v1 = 0.6 }",
        )
        .expect("right");
        let style = changed(Style::new(&profile("default"), ""), &config, Some(profile("mine")));
        assert_eq!((style.model.name.as_str(), style.unknown_loras), ("mine", UnknownLoras::Refused));
        assert_eq!(
            (style.control, style.defaults.steps, style.loras.len()),
            (Some(ControlNetwork::Canny), 25, 1)
        );
    }

    #[test]
    fn a_style_is_shown_edges_where_its_model_can_see_them() {
        let edges = |name: &str| ModelProfile { draws_edges: true, ..profile(name) };
        let control = |shipped: &ModelProfile, text: &str, model: Option<ModelProfile>| {
            changed(Style::new(shipped, ""), &toml::from_str(text).expect("right"), model).control
        };
        assert_eq!(control(&edges("default"), "", None), Some(ControlNetwork::Canny));
        assert_eq!(control(&edges("default"), "", Some(profile("mine"))), None);
        assert_eq!(control(&profile("default"), "", Some(edges("mine"))), Some(ControlNetwork::Canny));
        let named = Some(ControlNetwork::Named("soft".to_owned()));
        assert_eq!(control(&edges("default"), "control = \"soft\"", None), named);
    }

    #[test]
    fn a_style_is_shown_faces_where_its_model_can_see_them() {
        let faces = |name: &str| ModelProfile { shows_faces: true, ..profile(name) };
        let shown = |shipped: &ModelProfile, text: &str, model: Option<ModelProfile>| {
            changed(Style::new(shipped, ""), &toml::from_str(text).expect("right"), model).shows_faces
        };
        assert!(shown(&faces("default"), "", None));
        assert!(!shown(&faces("default"), "", Some(profile("mine"))));
        assert!(shown(&profile("default"), "", Some(faces("mine"))));
        assert!(!shown(&faces("default"), "shows_faces = false", None));
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, expected) in [
            ("strength = 1.5", "strength goes from 0 to 1"),
            ("steps = 0", "steps goes from 1 to 50"),
            ("sampler = \"nosuch\"", "nosuch"),
        ] {
            let error = check(&toml::from_str(text).expect("TOML")).expect_err(text);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
