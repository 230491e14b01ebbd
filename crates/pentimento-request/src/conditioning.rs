//! What steers a picture beside its prompts: low-rank adapters, control networks, texture, pictures as prompts, faces,
//! and CLIP's opinion.
//!
//! Names are those of the generator's catalogue, never paths from outside.

use crate::{InvalidValue, Picture, Strength, UnknownName};
use std::{fmt, str::FromStr, sync::Arc};

/// Everything that steers beside the prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditioning {
    /// Low-rank adapters of the networks, summed.
    pub loras: Vec<Lora>,
    /// Control networks, whose residuals are summed.
    pub controls: Vec<Control>,
    /// What becomes of the input picture's fine texture.
    pub texture: Texture,
    /// Pictures that are read like prompts (IP-Adapter).
    pub image_prompts: Vec<ImagePrompt>,
    /// Whose face is shown.
    pub identity: Option<Identity>,
    /// How CLIP's similarity of picture and prompt steers.
    pub clip_guidance: Option<ClipGuidance>,
    /// What was asked for beyond all this and is left out, in words. The receipt repeats it; nothing else looks at it.
    pub left_out: Vec<String>,
}

impl Conditioning {
    /// The prompts alone.
    pub const fn none() -> Self {
        Self {
            loras: Vec::new(),
            controls: Vec::new(),
            texture: Texture::Kept,
            image_prompts: Vec::new(),
            identity: None,
            clip_guidance: None,
            left_out: Vec::new(),
        }
    }
}

/// A low-rank adapter with its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The adapter's name in the generator's catalogue.
    pub name: String,
    /// Factor of its change to the denoising network. Any finite number; 0 is without it.
    pub weight: f32,
    /// Factor of its change to the text encoders; `None`: `weight`.
    pub text_weight: Option<f32>,
}

/// A control network with what it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// The network.
    pub network: ControlNetwork,
    /// What it is shown.
    pub hint: Hint,
    /// Factor of its residuals, from 0 (it is not run) to 2.
    pub weight: f32,
    /// Share of the steps before it begins.
    pub start: Strength,
    /// Share of the steps after which it ends.
    pub end: Strength,
}

/// Which control network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlNetwork {
    /// The one that the model keeps for edges.
    Canny,
    /// A network of this name in the generator's catalogue.
    Named(String),
}

/// What a control network is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Hint {
    /// The edges of the input picture.
    Edges(CannyThresholds),
    /// This picture as it is.
    Picture(Arc<Picture>),
}

/// Thresholds of Canny's edge detector on 8-bit gradients, low at most high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CannyThresholds {
    low: f32,
    high: f32,
}

impl CannyThresholds {
    /// 100 and 200: those of the pictures that the published canny networks were trained on.
    pub const USUAL: Self = Self { low: 100.0, high: 200.0 };

    /// Thresholds of these values.
    ///
    /// # Errors
    /// When one is below 0 or no number, or the low one is above the high one.
    pub fn new(low: f32, high: f32) -> Result<Self, InvalidValue> {
        if !(0.0 <= low && low <= high && high.is_finite()) {
            return Err(InvalidValue::new(format!(
                "thresholds of {low} and {high} are not possible: 0 <= low <= high"
            )));
        }
        Ok(Self { low, high })
    }

    /// Gradients below it are no edge.
    pub const fn low(self) -> f32 {
        self.low
    }

    /// Gradients above it are edges.
    pub const fn high(self) -> f32 {
        self.high
    }
}

/// What becomes of the input picture's fine texture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// The picture is encoded as it is.
    Kept,
    /// Its fine texture is smoothed away first, so that its structure stays and its surface comes from the prompt.
    Smoothed,
}

/// Pictures that are read like a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePrompt {
    /// The adapter's name in the generator's catalogue.
    pub adapter: String,
    /// The pictures.
    pub pictures: Vec<Arc<Picture>>,
    /// Share of their attention, from 0 to 1.
    pub scale: f32,
}

/// Whose face is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The adapter's name in the generator's catalogue; `None`: the one that the model has for faces.
    pub adapter: Option<String>,
    /// Where the face is found.
    pub faces: Faces,
    /// Share of its attention, from 0 to 1; at 0 no face is looked for.
    pub scale: f32,
}

/// Where a face is found; the largest in a picture counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Faces {
    /// In the input picture.
    OfInput,
    /// In these pictures of one person.
    Of(Vec<Arc<Picture>>),
}

/// How strongly and how often CLIP's similarity of picture and prompt steers, in Stability's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipGuidance {
    /// `FAST_BLUE`.
    FastBlue,
    /// `FAST_GREEN`.
    FastGreen,
    /// `SIMPLE`.
    Simple,
    /// `SLOW`.
    Slow,
    /// `SLOWER`.
    Slower,
    /// `SLOWEST`.
    Slowest,
}

impl ClipGuidance {
    /// Every preset.
    pub const ALL: [Self; 6] =
        [Self::FastBlue, Self::FastGreen, Self::Simple, Self::Slow, Self::Slower, Self::Slowest];

    /// The name in the spelling of Stability's interfaces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FastBlue => "FAST_BLUE",
            Self::FastGreen => "FAST_GREEN",
            Self::Simple => "SIMPLE",
            Self::Slow => "SLOW",
            Self::Slower => "SLOWER",
            Self::Slowest => "SLOWEST",
        }
    }
}

impl fmt::Display for ClipGuidance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for ClipGuidance {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|preset| preset.name().eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "clip guidance preset",
                given: given.to_owned(),
                known: Self::ALL.map(Self::name).to_vec(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_read_back_in_any_case() {
        for preset in ClipGuidance::ALL {
            assert_eq!(preset.name().to_lowercase().parse(), Ok(preset));
        }
        assert!("FASTEST".parse::<ClipGuidance>().is_err());
    }

    #[test]
    fn thresholds_keep_their_order() {
        assert!(CannyThresholds::new(100.0, 200.0).is_ok());
        for (low, high) in [(-1.0, 2.0), (3.0, 2.0), (f32::NAN, 2.0), (1.0, f32::INFINITY)] {
            assert!(CannyThresholds::new(low, high).is_err(), "{low} {high}");
        }
    }
}
