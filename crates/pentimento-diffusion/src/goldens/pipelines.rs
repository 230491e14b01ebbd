//! Whole pictures against diffusers' pipelines.
//!
//! Every case is asked for as `generate --raw` asks. Expected is the reference's picture, or its last latent
//! decoded here where the picture was not kept (the decoder has goldens of its own).

use super::{Golden, against, control::Shelf, files, measured, reference};
use crate::{LoadOptions, Model, pixels};
use pentimento_imaging as imaging;
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, Control, ControlNetwork, GenerationRequest,
    Generator, GuidanceInterval, GuidanceScale, Hint, NoiseSource, Picture, Prompt, PromptSyntax, Quiet,
    Region, Size, SolverOptions, Span, Steps, Strength, Task, TokenMerging, Untouched,
};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) model: String,
    width: u32,
    height: u32,
    prompts: Vec<(String, f32)>,
    sampler: String,
    spacing: Option<String>,
    steps: usize,
    strength: Option<f64>,
    cfg: f32,
    guidance_rescale: f32,
    seed: u64,
    init: Option<String>,
    mask: Option<String>,
    picture: bool,
    guidance_interval: Option<String>,
    step_cache: Option<String>,
    token_merging: Option<f64>,
    control: Option<String>,
    hint: Option<String>,
    #[serde(default)]
    steps_run: usize,
}

impl Case {
    pub(super) fn request(&self) -> GenerationRequest {
        let prompts =
            self.prompts.iter().map(|(text, weight)| Prompt { text: text.clone(), weight: *weight });
        GenerationRequest {
            model: self.model.clone(),
            prompts: prompts.collect(),
            task: self.task(),
            canvas: Canvas::Exact(Some(Size::new(self.width, self.height).expect("a size"))),
            sampler: Some(self.sampler.parse().expect("a sampler")),
            schedule: self.spacing.as_ref().map(|name| name.parse().expect("a schedule")),
            steps: Steps::new(self.steps).expect("steps"),
            guidance_scale: GuidanceScale::new(self.cfg).expect("a scale"),
            guidance_rescale: self.guidance_rescale,
            accelerations: self.accelerations(),
            syntax: PromptSyntax::Plain,
            clip_skip: ClipSkip::LAST,
            hires: None,
            solver: SolverOptions::USUAL,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning {
                controls: controls(&self.control, &self.hint),
                ..Conditioning::none()
            },
            filter: None,
            seed: self.seed,
        }
    }

    fn accelerations(&self) -> Accelerations {
        let interval = self.guidance_interval.as_ref().map(|text| text.parse().expect("an interval"));
        Accelerations {
            guidance_interval: interval.unwrap_or(GuidanceInterval::WHOLE),
            step_cache: self.step_cache.as_ref().map(|text| text.parse().expect("a step cache")),
            token_merging: TokenMerging::new(self.token_merging.unwrap_or(0.0)).expect("a share"),
        }
    }

    fn task(&self) -> Task {
        let Some(init) = &self.init else { return Task::TextToImage };
        let init = Arc::new(read(&format!("inputs/{init}")));
        let span = Span::of(Strength::new(self.strength.expect("a strength")).expect("a strength"));
        let Some(mask) = &self.mask else { return Task::ImageToImage { init, span } };
        let mask = imaging::mask::from_picture(&read(&format!("inputs/{mask}")), imaging::MaskSource::White);
        Task::Repaint {
            init,
            mask: Arc::new(mask.expect("a mask")),
            span,
            region: Region::Whole,
            untouched: Untouched::AsDecoded,
        }
    }
}

/// A control network of the goldens that is shown an input picture.
pub(super) fn controls(network: &Option<String>, hint: &Option<String>) -> Vec<Control> {
    let control = |(network, hint): (&String, &String)| Control {
        network: ControlNetwork::Named(network.clone()),
        hint: Hint::Picture(Arc::new(read(&format!("inputs/{hint}.png")))),
        weight: 1.0,
        start: Strength::new(0.0).expect("a share"),
        end: Strength::FULL,
    };
    network.iter().zip(hint).map(control).collect()
}

pub(super) fn read(name: &str) -> Picture {
    let path = reference().join("goldens/pipelines").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let limits = imaging::Limits { bytes: 1 << 20, pixels: 1 << 20 };
    imaging::decode(&bytes, &limits).expect("a picture")
}

pub(super) fn load(model: &str) -> Model {
    let options = LoadOptions { library: Arc::new(Shelf), ..LoadOptions::new(model, 1 << 20) };
    Model::load(&files(model), options).expect("a model")
}

pub(super) fn cases(folder: &str) -> Vec<Case> {
    let path = reference().join(format!("goldens/{folder}/cases.json"));
    let text = std::fs::read(path).expect("the cases");
    serde_json::from_slice(&text).expect("cases in JSON")
}

/// Holds a picture to what is allowed, and gives the share of equal bytes.
pub(super) fn assert_alike(name: &str, got: &Picture, expected: &Picture) -> f64 {
    assert_eq!(got.channels(), Channels::Rgb);
    let (same, near, largest) = compare(got, expected);
    // design: 99.9 % of bytes within 1, none off by more than 3.
    measured(name, f64::from(largest), "of 255", 3.0);
    measured(name, 100.0 * (1.0 - near), "% of bytes off by more than 1", 0.1);
    same
}

/// Equal bytes, bytes within 1, and the largest difference.
pub(super) fn compare(got: &Picture, expected: &Picture) -> (f64, f64, u8) {
    assert_eq!((got.size(), got.channels()), (expected.size(), expected.channels()));
    let differences: Vec<u8> =
        got.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).collect();
    let share = |limit| differences.iter().filter(|difference| **difference <= limit).count() as f64;
    let count = differences.len() as f64;
    (share(0) / count, share(1) / count, differences.iter().copied().max().unwrap_or_default())
}

#[test]
fn pictures_are_those_of_the_reference() {
    against("diffusers pipelines, k-diffusion", "whole pictures");
    compare_pictures("pipelines", 50);
}

#[test]
fn pictures_of_all_families_are_those_of_the_reference() {
    against("diffusers pipelines", "whole pictures of all families");
    compare_pictures("families", 30);
}

#[test]
fn accelerated_pictures_are_those_of_the_reference() {
    against("diffusers, DeepCache, tomesd, k-diffusion", "whole pictures, accelerated");
    compare_pictures("accelerations", 25);
}

/// Compares the pictures of all cases in a folder of goldens; at least so many must be there.
fn compare_pictures(folder: &str, at_least: usize) {
    let latents = Golden::open(&format!("{folder}/latents"));
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    let (mut equal, mut count) = (0.0, 0.0);
    for case in cases(folder) {
        let model = models.entry(case.model.clone()).or_insert_with(|| load(&case.model));
        let image = model.generate(&case.request(), &mut Quiet).expect("a picture");
        assert_eq!(image.receipt.steps_run, case.steps_run, "{}", case.name);
        let expected = if case.picture {
            read(&format!("pictures/{}.png", case.name))
        } else {
            let decoded = model.networks.vae.decode(&latents.tensor(&case.name));
            decoded.and_then(|decoded| pixels::to_picture(&decoded)).expect("a picture")
        };
        let same = assert_alike(&case.name, &image.picture, &expected);
        (equal, count) = (equal + same, count + 1.0);
    }
    println!("{:.3} % of bytes equal over {count} pictures", 100.0 * equal / count);
    assert!(count >= at_least as f64);
}

#[test]
fn threads_change_no_byte() {
    let case =
        cases("pipelines").into_iter().find(|case| case.name == "default_masked_ddim_20").expect("the case");
    let request = GenerationRequest { steps: Steps::new(4).expect("steps"), ..case.request() };
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let model = pool.install(|| load("default"));
        let image = pool.install(|| model.generate(&request, &mut Quiet).expect("a picture"));
        (image.picture, image.receipt.pixels_hash)
    };
    let one = with_threads(1);
    assert!(one == with_threads(2) && one == with_threads(3));
}
