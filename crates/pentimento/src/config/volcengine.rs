//! `[volcengine]`: pictures of that cloud's requests, and what its `req_key`s stand for.

use serde::Deserialize;
use std::collections::BTreeMap;

/// `[volcengine]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VolcengineConfig {
    /// Format of results.
    pub(crate) picture_format: Option<ConfiguredFormat>,
    /// Formats that are taken in.
    pub(crate) image_formats: Option<Vec<ConfiguredFormat>>,
    /// Largest file that is taken in, in bytes.
    pub(crate) image_bytes: Option<usize>,
    /// Longest side that is taken in.
    pub(crate) longest_side: Option<u32>,
    /// Smallest picture that is taken in.
    pub(crate) smallest_image: Option<[u32; 2]>,
    /// Styles by their `req_key`.
    #[serde(default)]
    pub(crate) styles: BTreeMap<String, StyleConfig>,
}

/// A picture's format.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfiguredFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP, for pictures that are taken in.
    Webp,
}

/// What a `req_key` stands for. What is absent stays as shipped.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StyleConfig {
    /// Folder or name of the model.
    pub(crate) model: Option<String>,
    /// The prompt of requests that have none.
    pub(crate) prompt: Option<String>,
    /// What no picture should show.
    pub(crate) negative_prompt: Option<String>,
    /// The control network that is shown the picture's edges: `canny` for the model's own, or a name.
    pub(crate) control: Option<String>,
    /// Whether the model can be shown a face.
    pub(crate) shows_faces: Option<bool>,
    /// Adapters with their weights.
    #[serde(default)]
    pub(crate) loras: BTreeMap<String, f32>,
    /// What happens to a request's adapters that are not there.
    pub(crate) unknown_loras: Option<ConfiguredUnknown>,
    /// `strength` of requests that have none; so with all that follow.
    pub(crate) strength: Option<f64>,
    /// `scale`.
    pub(crate) scale: Option<f64>,
    /// `ddim_steps`.
    pub(crate) steps: Option<i64>,
    /// `clip_skip`.
    pub(crate) clip_skip: Option<i64>,
    /// `canny_weight`.
    pub(crate) control_weight: Option<f64>,
    /// `id_scale`.
    pub(crate) id_scale: Option<f64>,
    /// `long_resolution`.
    pub(crate) long_resolution: Option<i64>,
    /// `i2i_keep_texture`.
    pub(crate) keep_texture: Option<bool>,
    /// `sampler_name`.
    pub(crate) sampler: Option<String>,
    /// Prompts by `sub_req_key`.
    #[serde(default)]
    pub(crate) variants: BTreeMap<String, String>,
}

/// `unknown_loras`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ConfiguredUnknown {
    /// They are left out, and the answer says so.
    LeaveOut,
    /// The request is refused.
    Refuse,
}

#[cfg(test)]
impl VolcengineConfig {
    /// Fails where a key is absent, for the test that the example describes every key.
    pub(super) fn assert_all_is_said(self) {
        let Self { picture_format, image_formats, image_bytes, longest_side, smallest_image, styles } = self;
        assert!(picture_format.is_some() && image_formats.is_some() && image_bytes.is_some());
        assert!(longest_side.is_some() && smallest_image.is_some());
        let StyleConfig {
            model,
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
        } = styles.into_values().next().expect("a style");
        assert!(model.is_some() && prompt.is_some() && negative_prompt.is_some() && control.is_some());
        assert!(
            shows_faces.is_some() && !loras.is_empty() && unknown_loras.is_some() && !variants.is_empty()
        );
        assert!(strength.is_some() && scale.is_some() && steps.is_some() && clip_skip.is_some());
        assert!(control_weight.is_some() && id_scale.is_some() && long_resolution.is_some());
        assert!(keep_texture.is_some() && sampler.is_some());
    }
}
