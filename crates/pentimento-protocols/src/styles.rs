//! Style presets, as templates around what the picture shall show.
//!
//! The names are those of Stability's interfaces, which never published their templates. These are ours: each begins with
//! the preset's plain name, which small models know as well, and adds what a painter or photographer would say. Bedrock's
//! `style_preset`, `generate --style` and `pentimento styles` read this one table.

use pentimento_request::UnknownName;
use std::str::FromStr;

/// What a template puts the prompt in place of.
const PROMPT: &str = "{prompt}";

/// A style preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StylePreset {
    /// Its name.
    pub name: &'static str,
    /// The text that a prompt becomes, with `{prompt}` where the prompt stands.
    pub template: &'static str,
}

impl StylePreset {
    /// Every preset.
    pub const ALL: [Self; 17] = [
        preset("3d-model", "{prompt}, 3d model, smooth shading, soft studio light"),
        preset("analog-film", "{prompt}, analog film photograph, fine grain, faded colours"),
        preset("anime", "{prompt}, anime, clean line work, cel shading"),
        preset("cinematic", "{prompt}, cinematic film still, dramatic light, shallow depth of field"),
        preset("comic-book", "{prompt}, comic book, bold ink outlines, halftone shading"),
        preset("digital-art", "{prompt}, digital art, detailed illustration"),
        preset("enhance", "{prompt}, highly detailed, crisp, balanced light"),
        preset("fantasy-art", "{prompt}, fantasy art, epic, ornate, glowing light"),
        preset("isometric", "{prompt}, isometric view, clean geometry"),
        preset("line-art", "{prompt}, line art, black ink on white"),
        preset("low-poly", "{prompt}, low poly, faceted surfaces"),
        preset("modeling-compound", "{prompt}, modelling clay sculpture, fingerprints, soft shadows"),
        preset("neon-punk", "{prompt}, neon punk, glowing neon light, night"),
        preset("origami", "{prompt}, origami, folded paper, sharp creases"),
        preset("photographic", "{prompt}, photograph, natural light, sharp focus"),
        preset("pixel-art", "{prompt}, pixel art, low resolution, limited palette"),
        preset("tile-texture", "{prompt}, seamless tileable texture, repeating pattern"),
    ];

    /// The prompt in this style. Prompts of negative weight say what shall not be seen, and have no style.
    pub fn applied_to(self, prompt: &str) -> String {
        match prompt.trim_end() {
            // The bare words, without what would have joined them to the prompt.
            "" => self.template.replace(PROMPT, "").trim_matches([',', ' ']).to_owned(),
            prompt => self.template.replace(PROMPT, prompt),
        }
    }
}

impl FromStr for StylePreset {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|style| style.name.eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "style",
                given: given.to_owned(),
                known: Self::ALL.map(|style| style.name).to_vec(),
            }
        })
    }
}

const fn preset(name: &'static str, template: &'static str) -> StylePreset {
    StylePreset { name, template }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_differ_and_hold_the_prompt_once() {
        let all = StylePreset::ALL;
        for (index, style) in all.iter().enumerate() {
            let StylePreset { name, template } = *style;
            assert!(all[..index].iter().all(|other| other.name != name && other.template != template));
            assert_eq!(template.matches(PROMPT).count(), 1, "{name}");
            assert!(!template.contains(['(', ')', '[', ']', ':', '\\']), "no emphasis marks: {name}");
            assert_eq!(name.to_uppercase().parse(), Ok(*style));
        }
    }

    #[test]
    fn a_template_takes_the_prompt_in() {
        let style = StylePreset::ALL[2];
        assert_eq!(style.applied_to("a cat "), "a cat, anime, clean line work, cel shading");
        assert_eq!(style.applied_to(" "), "anime, clean line work, cel shading");
        let message = "baroque".parse::<StylePreset>().expect_err("no such style").to_string();
        assert!(message.contains("'baroque'") && message.contains("pixel-art"), "{message}");
    }
}
