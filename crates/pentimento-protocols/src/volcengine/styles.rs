//! What each `req_key` stands for: a model, what steers it, and the values of what a request leaves out.
//!
//! The shipped table draws with whatever model it is given, the embedded one to begin with: a style is then a prompt and
//! its numbers, with the model's own control network for edges where there is one. It names no adapters and no faces; an
//! operator who has them adds them.
//! Source of keys, numbers and families: `docs/volcengine.md`. The prompts are our own.

use crate::ModelProfile;
use pentimento_request::{ControlNetwork, Lora};
use std::collections::BTreeMap;

/// What a `req_key` stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// The model that draws.
    pub model: ModelProfile,
    /// The prompt where a request has none.
    pub prompt: String,
    /// What the picture should not show.
    pub negative_prompt: String,
    /// The network that is shown the picture's edges. `None`: there is none, and `canny_weight` does nothing.
    pub control: Option<ControlNetwork>,
    /// Whether the model can be shown a face. If not, `id_scale` does nothing.
    pub shows_faces: bool,
    /// Adapters that the style always has; a request's own weight of the same name counts instead.
    pub loras: Vec<Lora>,
    /// What happens to adapters of a request that are not there.
    pub unknown_loras: UnknownLoras,
    /// Values of what a request leaves out.
    pub defaults: Defaults,
    /// Variants by their `sub_req_key`, with their prompts.
    pub variants: BTreeMap<String, String>,
}

/// What happens to adapters that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownLoras {
    /// They are left out, and the answer says so.
    LeftOut,
    /// The request is refused, and the answer names them.
    Refused,
}

/// Values of what a request leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// `strength`.
    pub strength: f64,
    /// `scale`.
    pub scale: f64,
    /// `ddim_steps`.
    pub steps: i64,
    /// `clip_skip`.
    pub clip_skip: i64,
    /// `canny_weight`.
    pub control_weight: f64,
    /// `id_scale`.
    pub id_scale: f64,
    /// `long_resolution`.
    pub long_resolution: i64,
    /// `i2i_keep_texture`.
    pub keep_texture: bool,
    /// `sampler_name`.
    pub sampler: String,
}

impl Defaults {
    /// The vendor's, as its page of `img2img_pastel_boys_style_usage` has them.
    pub fn vendor() -> Self {
        Self {
            strength: 0.6,
            scale: 8.0,
            steps: 20,
            clip_skip: 1,
            control_weight: 1.0,
            id_scale: 0.0,
            long_resolution: 704,
            keep_texture: true,
            sampler: "DPM++ 2M Karras".to_owned(),
        }
    }
}

/// The styles by their `req_key`.
#[derive(Clone, Debug, PartialEq)]
pub struct Styles(BTreeMap<String, Style>);

impl Styles {
    /// The table that Pentimento comes with, drawn by this model.
    pub fn shipped(model: &ModelProfile) -> Self {
        let style = |shipped: &Shipped| (shipped.key.to_owned(), shipped.style(model));
        Self(SHIPPED.iter().map(style).collect())
    }

    /// Adds a style, or replaces one.
    pub fn insert(&mut self, req_key: impl Into<String>, style: Style) {
        self.0.insert(req_key.into(), style);
    }

    /// The style of a `req_key`. The ending `_usage` is the vendor's way of billing and means the same style, unless it
    /// has an entry of its own.
    pub fn get(&self, req_key: &str) -> Option<&Style> {
        self.0.get(req_key).or_else(|| self.0.get(req_key.strip_suffix("_usage")?))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Style {
    /// A style of this prompt that draws with this model, its control network for edges, and the vendor's numbers.
    pub fn new(model: &ModelProfile, prompt: impl Into<String>) -> Self {
        Self {
            model: model.clone(),
            prompt: prompt.into(),
            negative_prompt: NEGATIVE.to_owned(),
            control: model.own_control(),
            shows_faces: model.shows_faces,
            loras: Vec::new(),
            unknown_loras: UnknownLoras::LeftOut,
            defaults: Defaults::vendor(),
            variants: BTreeMap::new(),
        }
    }
}

/// A row of the shipped table.
struct Shipped {
    key: &'static str,
    prompt: &'static str,
    control_weight: f64,
    long_resolution: i64,
    variants: &'static [(&'static str, &'static str)],
}

impl Shipped {
    fn style(&self, model: &ModelProfile) -> Style {
        let Self { key, prompt, control_weight, long_resolution, variants } = *self;
        let defaults = Defaults { control_weight, long_resolution, ..Defaults::vendor() };
        let variants =
            variants.iter().map(|(ending, prompt)| (format!("{key}_{ending}"), (*prompt).to_owned()));
        Style { defaults, variants: variants.collect(), ..Style::new(model, prompt) }
    }
}

/// What no style wants.
const NEGATIVE: &str = "blurry, low quality, deformed, watermark, text";

const fn plain(key: &'static str, prompt: &'static str) -> Shipped {
    Shipped { key, prompt, control_weight: 1.0, long_resolution: 704, variants: &[] }
}

const SHIPPED: [Shipped; 18] = [
    // Family A.
    plain(
        "img2img_pastel_boys_style",
        "white marble statue, soft pastel light, delicate face, highly detailed",
    ),
    Shipped {
        control_weight: 0.6,
        ..plain(
            "img2img_real_mix_style",
            "photograph, natural light, lifelike skin, sharp focus, highly detailed",
        )
    },
    plain(
        "img2img_rev_animated_style",
        "fairy tale princess, flowing dress, sparkling light, fantasy illustration",
    ),
    // Family B.
    plain("img2img_disney_3d_style", "3d animated film character, smooth shading, big eyes, studio light"),
    plain("img2img_cartoon_style", "cartoon, clean lines, flat bright colors"),
    plain("img2img_makoto_style", "anime film still, vivid sky, luminous clouds, detailed background"),
    plain("img2img_blueline_style", "dreamy illustration, fine blue lines, glowing pastel colors"),
    Shipped {
        long_resolution: 832,
        ..plain("img2img_water_ink_style", "chinese ink wash painting, brush strokes, rice paper")
    },
    // Family C.
    plain("img2img_ghibli_style", "hand painted anime, gentle colors, lush countryside"),
    plain("i2i_ai_create_monet", "impressionist oil painting, broken color, visible brush strokes"),
    plain("img2img_water_paint_style", "watercolor painting, soft washes, white paper"),
    plain("img2img_exquisite_style", "korean webtoon, elegant lines, refined face, soft shading"),
    plain("img2img_ceramics_style", "glazed porcelain figurine, blue and white ceramics, studio light"),
    plain("img2img_chinese_style", "chinese new year, red and gold, festive traditional clothes"),
    Shipped {
        variants: &[
            ("monet", "impressionist comic, broken color, visible brush strokes"),
            ("marvel", "american superhero comic, bold ink, dramatic shadows"),
            ("future", "science fiction comic, neon light, chrome"),
        ],
        ..plain("img2img_comic_style", "comic book, bold outlines, halftone dots")
    },
    Shipped {
        variants: &[
            ("ink", "beautiful portrait, ink wash, flowing brush lines"),
            ("light", "beautiful portrait, soft light, airy pale colors"),
        ],
        ..plain("img2img_pretty_style", "beautiful portrait, delicate shading, fine detail")
    },
    Shipped {
        variants: &[
            ("3d", "3d clay figure, rounded shapes, studio light"),
            ("bubble", "glossy inflated balloon figure, soft reflections"),
        ],
        ..plain("img2img_clay_style", "clay figure, stop motion film, fingerprints in clay")
    },
    Shipped {
        variants: &[
            ("era", "3d render, nostalgic eighties interior, warm film light"),
            ("movie", "3d animated film still, cinematic light"),
            ("doll", "3d render of a toy doll, smooth plastic, studio light"),
        ],
        ..plain("img2img_3d_style", "3d render, smooth shading, soft studio light")
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn styles() -> Styles {
        Styles::shipped(&ModelProfile::named("default"))
    }

    #[test]
    fn every_key_is_there_with_and_without_its_ending() {
        let styles = styles();
        assert_eq!(styles.keys().count(), SHIPPED.len());
        for key in styles.keys() {
            assert_eq!(styles.get(&format!("{key}_usage")), styles.get(key), "{key}");
            let style = styles.get(key).expect("its own key");
            assert!(!style.prompt.is_empty() && style.variants.values().all(|prompt| !prompt.is_empty()));
        }
        assert!(styles.get("img2img_pastel_boys_style_usage_usage").is_none());
        assert!(styles.get("i2i_inpainting").is_none() && styles.get("_usage").is_none());
    }

    #[test]
    fn an_entry_with_the_ending_stands_for_itself() {
        let mut styles = styles();
        let own = Style::new(&ModelProfile::named("mine"), "x");
        styles.insert("img2img_cartoon_style_usage", own);
        assert_eq!(
            styles.get("img2img_cartoon_style_usage").map(|style| style.model.name.as_str()),
            Some("mine")
        );
        assert_eq!(
            styles.get("img2img_cartoon_style").map(|style| style.model.name.as_str()),
            Some("default")
        );
    }
}
