//! The CLIP picture encoder (`CLIPVisionModel`, with its projection where there is one), and what a picture goes
//! through before it.
//!
//! Shapes: pixels `[B, 3, S, S]`, tokens `[B, 1 + (S/P)², hidden]` for patches of `P` pixels, the class token first.
//! Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; layout of
//! weights and order of preprocessing as in transformers (`CLIPImageProcessor` with Pillow).

use crate::{
    clip::{Layer, LayerShape},
    config::{DEEPEST, WIDEST, read_json, refuse_outside, unsupported},
    error::{LoadError, Result},
    files::ModelFiles,
    ops::{Activation, Conv2d, LayerNorm, Linear, Mask},
    weights::Scope,
};
use candle_core::{Device, Tensor};
use pentimento_imaging::{Filter, Rect, crop, resize_by, without_alpha};
use pentimento_request::{InvalidValue, Picture, Size};
use serde::Deserialize;

/// `config.json` of a `CLIPVisionModel`, or the `vision_config` of a larger one.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct VisionConfig {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_channels: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    pub(crate) projection_dim: usize,
    pub(crate) hidden_act: String,
    pub(crate) layer_norm_eps: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            projection_dim: 512,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// Largest side of the pictures that an encoder takes, far above any model's.
const LARGEST_INPUT: usize = 2048;

impl VisionConfig {
    /// Refuses what no picture encoder has, or what this one cannot do.
    pub(crate) fn check(&self, label: &str) -> Result<(), LoadError> {
        refuse_outside(label, "hidden_size", &[self.hidden_size], 1..=WIDEST)?;
        refuse_outside(label, "intermediate_size", &[self.intermediate_size], 1..=WIDEST)?;
        refuse_outside(label, "projection_dim", &[self.projection_dim], 1..=WIDEST)?;
        refuse_outside(label, "num_hidden_layers", &[self.num_hidden_layers], 1..=DEEPEST)?;
        refuse_outside(label, "num_channels", &[self.num_channels], 3..=3)?;
        refuse_outside(label, "image_size", &[self.image_size], 1..=LARGEST_INPUT)?;
        refuse_outside(label, "patch_size", &[self.patch_size], 1..=self.image_size)?;
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(unsupported(label, "num_attention_heads", &self.num_attention_heads.to_string()));
        }
        Ok(())
    }

    /// The class token and the patches.
    pub(crate) fn tokens(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }
}

/// A CLIP picture encoder.
pub(crate) struct VisionEncoder {
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    norm_in: LayerNorm,
    layers: Vec<Layer>,
    norm_out: LayerNorm,
    projection: Option<Linear>,
}

/// What the encoder says of pictures.
pub(crate) struct Seen {
    /// The tokens before the last layer, `[B, T, hidden]`: transformers' `hidden_states[-2]`.
    pub(crate) penultimate: Tensor,
    /// The class token after the last layer and norm, `[B, hidden]`.
    pub(crate) pooled: Tensor,
}

impl VisionEncoder {
    /// Binds the weights, at whichever depth of the names they lie.
    pub(crate) fn load(root: &Scope, config: &VisionConfig, label: &str) -> Result<Self, LoadError> {
        config.check(label)?;
        let activation = Activation::from_name(&config.hidden_act)
            .ok_or_else(|| unsupported(label, "hidden_act", &config.hidden_act))?;
        let (hidden, epsilon) = (config.hidden_size, config.layer_norm_eps);
        let scope = model_scope(root);
        let embeddings = scope.at("embeddings");
        let shape = LayerShape {
            hidden,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            epsilon,
            activation,
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&scope.at("encoder.layers").at(index), shape, Mask::None))
            .collect::<Result<_, _>>()?;
        let projection = root.at("visual_projection");
        Ok(Self {
            patches: Conv2d::patches(&embeddings.at("patch_embedding"), 3, hidden, config.patch_size)?,
            class: embeddings.tensor("class_embedding", &[hidden])?,
            positions: embeddings.tensor("position_embedding.weight", &[config.tokens(), hidden])?,
            // The name is misspelt in every checkpoint.
            norm_in: LayerNorm::load(&scope.at("pre_layrnorm"), hidden, epsilon)?,
            layers,
            norm_out: LayerNorm::load(&scope.at("post_layernorm"), hidden, epsilon)?,
            projection: match projection.contains("weight") {
                true => Some(Linear::without_bias(&projection, hidden, config.projection_dim)?),
                false => None,
            },
        })
    }

    /// `[B, 3, S, S]` -> what is seen
    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<Seen> {
        let patches = self.patches.forward(pixels)?;
        let (batch, hidden, _, _) = patches.dims4()?;
        // [B, hidden, S/P, S/P] -> [B, (S/P)², hidden]
        let patches = patches.flatten_from(2)?.transpose(1, 2)?;
        let class = self.class.reshape((1, 1, hidden))?.broadcast_as((batch, 1, hidden))?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let mut penultimate = self.norm_in.forward(&tokens)?;
        let mut x = penultimate.clone();
        for layer in &self.layers {
            penultimate = x;
            x = layer.forward(&penultimate)?;
        }
        let pooled = self.norm_out.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?;
        Ok(Seen { penultimate, pooled })
    }

    /// The pooled state where CLIP compares pictures and texts: `[B, hidden] -> [B, projection]`; `None` where the
    /// checkpoint has no projection.
    pub(crate) fn project(&self, pooled: &Tensor) -> Result<Option<Tensor>> {
        self.projection.as_ref().map(|projection| projection.forward(pooled)).transpose()
    }
}

/// Where the encoder's tensors begin: transformers 5 drops one level of names that older versions write, and some
/// models hold an encoder inside another.
pub(crate) fn model_scope<'a>(root: &Scope<'a>) -> Scope<'a> {
    let candidates = [root.clone(), root.at("vision_model"), root.at("vision_model.vision_model")];
    let found = candidates.iter().find(|scope| scope.contains("embeddings.class_embedding"));
    found.cloned().unwrap_or_else(|| root.at("vision_model"))
}

/// `preprocessor_config.json` of a `CLIPImageProcessor`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct ImageProcessor {
    size: Sides,
    crop_size: Sides,
    resample: u32,
    rescale_factor: f64,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
}

/// A size as processors write it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Sides {
    One(usize),
    Shortest { shortest_edge: usize },
    Both { height: usize, width: usize },
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self {
            size: Sides::Shortest { shortest_edge: 224 },
            crop_size: Sides::Both { height: 224, width: 224 },
            resample: BICUBIC,
            rescale_factor: 1.0 / 255.0,
            // transformers' OPENAI_CLIP_MEAN and OPENAI_CLIP_STD.
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
        }
    }
}

/// Pillow's number of the filter.
const BICUBIC: u32 = 3;

impl ImageProcessor {
    /// CLIP's own, for encoders that come without a configuration.
    pub(crate) fn for_side(side: usize) -> Self {
        Self {
            size: Sides::Shortest { shortest_edge: side },
            crop_size: Sides::Both { height: side, width: side },
            ..Self::default()
        }
    }

    /// Reads and checks a configuration for an encoder of pictures with sides of `side` pixels.
    pub(crate) fn read(files: &dyn ModelFiles, path: &str, side: usize) -> Result<Self, LoadError> {
        let processor: Self = read_json(files, path)?;
        let label = files.describe(path);
        let refused = |name: &str, value: String| Err(unsupported(&label, name, &value));
        let Self { do_resize, do_center_crop, do_rescale, do_normalize, .. } = processor;
        for (name, used) in [
            ("do_resize", do_resize),
            ("do_center_crop", do_center_crop),
            ("do_rescale", do_rescale),
            ("do_normalize", do_normalize),
        ] {
            if !used {
                return refused(name, used.to_string());
            }
        }
        if processor.resample != BICUBIC {
            return refused("resample", processor.resample.to_string());
        }
        match processor.size {
            Sides::One(edge) | Sides::Shortest { shortest_edge: edge }
                if (side..=LARGEST_INPUT).contains(&edge) => {}
            other => return refused("size", format!("{other:?}")),
        }
        match processor.crop_size {
            Sides::One(edge) if edge == side => {}
            Sides::Both { height, width } if (height, width) == (side, side) => {}
            other => return refused("crop_size", format!("{other:?}")),
        }
        if processor.image_std.iter().any(|deviation| !deviation.is_normal()) {
            return refused("image_std", format!("{:?}", processor.image_std));
        }
        Ok(processor)
    }

    /// The picture as an encoder takes it, `[1, 3, S, S]`: its shorter side brought to size, its middle cut out, its
    /// bytes normalised. An alpha channel is not looked at.
    pub(crate) fn pixels(&self, picture: &Picture) -> Result<Tensor> {
        let cut = self.cut(picture).map_err(candle_core::Error::wrap)?;
        let (width, height) = (cut.size().width() as usize, cut.size().height() as usize);
        let mut planes = vec![0f32; 3 * width * height];
        for (index, pixel) in cut.pixels().chunks_exact(3).enumerate() {
            for channel in 0..3 {
                let share = (f64::from(pixel[channel]) * self.rescale_factor) as f32;
                let value = (share - self.image_mean[channel]) / self.image_std[channel];
                planes[channel * width * height + index] = value;
            }
        }
        Tensor::from_vec(planes, (1, 3, height, width), &Device::Cpu)
    }

    fn cut(&self, picture: &Picture) -> Result<Picture, InvalidValue> {
        let (Sides::One(edge) | Sides::Shortest { shortest_edge: edge } | Sides::Both { height: edge, .. }) =
            self.size;
        let (Sides::One(side) | Sides::Shortest { shortest_edge: side } | Sides::Both { height: side, .. }) =
            self.crop_size;
        let (edge, side) = (edge as u32, side as u32);
        let picture = middle(&without_alpha(picture), Size::MAX_SIDE / edge)?;
        let (width, height) = (picture.size().width(), picture.size().height());
        // The longer side is cut to whole pixels, as transformers does.
        let scaled = |given: u32| (u64::from(edge) * u64::from(given) / u64::from(width.min(height))) as u32;
        let size = Size::new(scaled(width), scaled(height))?;
        let scaled = resize_by(Filter::Cubic, &picture, size);
        let rect =
            Rect { x: (size.width() - side) / 2, y: (size.height() - side) / 2, width: side, height: side };
        crop(&scaled, rect)
    }
}

/// The picture, or the middle of one that is more than `most` times as long as wide, whose ends no cut can show.
fn middle(picture: &Picture, most: u32) -> Result<Picture, InvalidValue> {
    let (width, height) = (picture.size().width(), picture.size().height());
    let longest = width.min(height).saturating_mul(most);
    if width.max(height) <= longest {
        return Ok(picture.clone());
    }
    let (shown_width, shown_height) = (width.min(longest), height.min(longest));
    let rect = Rect {
        x: (width - shown_width) / 2,
        y: (height - shown_height) / 2,
        width: shown_width,
        height: shown_height,
    };
    crop(picture, rect)
}
