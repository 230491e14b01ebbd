//! CLIP's picture encoder and its preprocessing against transformers.

use super::{Golden, against, assert_close, f32_root, reference};
use crate::{
    config::read_json,
    files::{Folder, ModelFiles},
    vision::{ImageProcessor, VisionConfig, VisionEncoder},
    weights::Weights,
};
use candle_core::Tensor;
use pentimento_request::{Channels, Picture, Size};

fn model() -> impl ModelFiles {
    Folder::new(reference().join("goldens/models/tiny-vision"))
}

/// `[H, W, 3]` bytes as numbers -> a picture
pub(super) fn picture(golden: &Golden, name: &str) -> Picture {
    let (height, width, _) = golden.tensor(name).dims3().expect("a picture");
    let size = Size::new(width as u32, height as u32).expect("a size");
    let bytes = golden.f64s(name).into_iter().map(|byte| byte as u8).collect();
    Picture::new(size, Channels::Rgb, bytes).expect("a picture")
}

#[test]
fn pictures_are_prepared_and_seen_as_in_transformers() {
    against("transformers CLIPVisionModelWithProjection, CLIPImageProcessor", "picture encoder");
    let golden = Golden::open("vision");
    let files = model();
    let config: VisionConfig = read_json(&files, "image_encoder/config.json").expect("a configuration");
    let weights = Weights::open(&files, "image_encoder", "model").expect("weights");
    let encoder = VisionEncoder::load(&f32_root(&weights), &config, "tiny-vision").expect("an encoder");
    let path = "image_encoder/preprocessor_config.json";
    let processor = ImageProcessor::read(&files, path, config.image_size).expect("a processor");
    for index in 0..golden.case.as_array().expect("sizes").len() {
        let expected = |part: &str| golden.tensor(&format!("{index}.{part}"));
        let pixels = processor.pixels(&picture(&golden, &format!("{index}.picture"))).expect("pixels");
        assert_close(&format!("{index}.pixels"), &pixels, &expected("pixels"), 1e-6);
        let seen = encoder.forward(&pixels).expect("states");
        assert_close(&format!("{index}.penultimate"), &seen.penultimate, &expected("penultimate"), 1e-4);
        assert_close(&format!("{index}.pooled"), &seen.pooled, &expected("pooled"), 1e-4);
        let embeds = encoder.project(&seen.pooled).expect("arithmetic").expect("a projection");
        assert_close(&format!("{index}.embeds"), &embeds, &expected("embeds"), 1e-4);
    }
}

#[test]
fn pictures_of_a_batch_are_seen_as_they_are_alone() {
    against("transformers CLIPVisionModelWithProjection", "picture encoder, in a batch");
    let golden = Golden::open("vision");
    let files = model();
    let config: VisionConfig = read_json(&files, "image_encoder/config.json").expect("a configuration");
    let weights = Weights::open(&files, "image_encoder", "model").expect("weights");
    let encoder = VisionEncoder::load(&f32_root(&weights), &config, "tiny-vision").expect("an encoder");
    let both = Tensor::cat(&[golden.tensor("1.pixels"), golden.tensor("2.pixels")], 0).expect("a batch");
    let seen = encoder.forward(&both).expect("states");
    for (item, name) in ["1.pooled", "2.pooled"].into_iter().enumerate() {
        let pooled = seen.pooled.narrow(0, item, 1).expect("an item");
        assert_close(name, &pooled, &golden.tensor(name), 1e-4);
    }
}

#[test]
fn a_picture_of_any_proportions_is_prepared() {
    let processor = ImageProcessor::for_side(224);
    for (width, height) in [(1, 1), (16384, 1), (1, 16384), (5, 700)] {
        let size = Size::new(width, height).expect("a size");
        let bytes = vec![100; 3 * size.pixels() as usize];
        let picture = Picture::new(size, Channels::Rgb, bytes).expect("a picture");
        let pixels = processor.pixels(&picture).expect("pixels");
        assert_eq!(pixels.dims(), [1, 3, 224, 224]);
    }
}
