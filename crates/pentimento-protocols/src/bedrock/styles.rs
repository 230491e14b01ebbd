//! Style presets, as words that are added to what the picture shall show.
//!
//! The vendor never published its own templates. These are ours: each begins with the preset's plain name, which small
//! models know as well, and adds what a painter or photographer would say. `", <words>"` is appended to every prompt
//! of positive weight.

/// A preset of the vendor's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StylePreset {
    /// Its name on the wire.
    pub(super) name: &'static str,
    /// The words that are added.
    pub(super) words: &'static str,
}

/// Every preset.
pub(super) const ALL: [StylePreset; 17] = [
    preset("3d-model", "3d model, smooth shading, soft studio light"),
    preset("analog-film", "analog film photograph, fine grain, faded colours"),
    preset("anime", "anime, clean line work, cel shading"),
    preset("cinematic", "cinematic film still, dramatic light, shallow depth of field"),
    preset("comic-book", "comic book, bold ink outlines, halftone shading"),
    preset("digital-art", "digital art, detailed illustration"),
    preset("enhance", "highly detailed, crisp, balanced light"),
    preset("fantasy-art", "fantasy art, epic, ornate, glowing light"),
    preset("isometric", "isometric view, clean geometry"),
    preset("line-art", "line art, black ink on white"),
    preset("low-poly", "low poly, faceted surfaces"),
    preset("modeling-compound", "modelling clay sculpture, fingerprints, soft shadows"),
    preset("neon-punk", "neon punk, glowing neon light, night"),
    preset("origami", "origami, folded paper, sharp creases"),
    preset("photographic", "photograph, natural light, sharp focus"),
    preset("pixel-art", "pixel art, low resolution, limited palette"),
    preset("tile-texture", "seamless tileable texture, repeating pattern"),
];

impl StylePreset {
    /// The prompt with the preset's words behind it.
    pub(super) fn applied_to(self, prompt: &str) -> String {
        match prompt.trim_end() {
            "" => self.words.to_owned(),
            prompt => format!("{prompt}, {}", self.words),
        }
    }
}

const fn preset(name: &'static str, words: &'static str) -> StylePreset {
    StylePreset { name, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_differ_and_have_plain_words() {
        for (index, style) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != style.name && other.words != style.words));
            assert!(!style.words.is_empty() && !style.words.ends_with([',', ' ']), "{}", style.name);
            assert!(!style.words.contains(['(', ')', '[', ']', ':']), "no emphasis marks: {}", style.name);
        }
    }

    #[test]
    fn words_follow_the_prompt() {
        let style = ALL[0];
        assert_eq!(style.applied_to("a cat "), format!("a cat, {}", style.words));
        assert_eq!(style.applied_to(""), style.words);
    }
}
