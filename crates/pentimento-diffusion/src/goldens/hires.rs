//! Pictures drawn in two passes against the same composed from diffusers' pipelines, and from loops by hand.

use super::{
    against,
    pipelines::{assert_alike, controls, load, read},
    reference,
};
use pentimento_imaging as imaging;
use pentimento_request::{
    Accelerations, Canvas, ClipSkip, Conditioning, GenerationRequest, Generator, GuidanceScale, Hires,
    NoiseSource, Prompt, PromptSyntax, Quiet, Region, Size, SolverOptions, Span, Steps, Strength, Task,
    Untouched,
};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    prompt: String,
    negative: String,
    cfg: f32,
    seed: u64,
    sampler: String,
    size: (u32, u32),
    steps: usize,
    scale: f64,
    strength: f64,
    second_steps: Option<usize>,
    init: Option<String>,
    init_strength: Option<f64>,
    mask: Option<String>,
    control: Option<String>,
    hint: Option<String>,
}

impl Case {
    fn request(&self) -> GenerationRequest {
        let prompt = |text: &str, weight| Prompt { text: text.to_owned(), weight };
        GenerationRequest {
            model: self.model.clone(),
            prompts: vec![prompt(&self.prompt, 1.0), prompt(&self.negative, -1.0)],
            syntax: PromptSyntax::Plain,
            clip_skip: ClipSkip::LAST,
            task: self.task(),
            canvas: Canvas::Exact(Some(Size::new(self.size.0, self.size.1).expect("a size"))),
            hires: Some(Hires {
                scale: self.scale,
                strength: Strength::new(self.strength).expect("a strength"),
                steps: self.second_steps.map(|steps| Steps::new(steps).expect("steps")),
            }),
            sampler: Some(self.sampler.parse().expect("a sampler")),
            schedule: None,
            solver: SolverOptions::USUAL,
            steps: Steps::new(self.steps).expect("steps"),
            guidance_scale: GuidanceScale::new(self.cfg).expect("a scale"),
            guidance_rescale: 0.0,
            accelerations: Accelerations::NONE,
            seed: self.seed,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning {
                controls: controls(&self.control, &self.hint),
                ..Conditioning::none()
            },
            filter: None,
        }
    }

    fn task(&self) -> Task {
        let Some(init) = &self.init else { return Task::TextToImage };
        let init = Arc::new(read(&format!("inputs/{init}.png")));
        let strength = Strength::new(self.init_strength.expect("a strength")).expect("a strength");
        let span = Span::of(strength);
        let Some(mask) = &self.mask else { return Task::ImageToImage { init, span } };
        let mask = read(&format!("inputs/{mask}.png"));
        let mask = imaging::mask::from_picture(&mask, imaging::MaskSource::White).expect("a mask");
        Task::Repaint {
            init,
            mask: Arc::new(mask),
            span,
            region: Region::Whole,
            untouched: Untouched::AsDecoded,
        }
    }
}

#[test]
fn two_passes_are_those_of_the_reference() {
    let path = reference().join("goldens/hires/cases.json");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(path).expect("the cases")).expect("cases in JSON");
    against("diffusers pipelines, by hand", "whole pictures in two passes");
    let mut models = BTreeMap::new();
    for case in cases {
        let model = models.entry(case.model.clone()).or_insert_with(|| load(&case.model));
        let image = model.generate(&case.request(), &mut Quiet).expect("a picture");
        let second = image.receipt.hires.as_ref().expect("a second pass");
        assert_eq!(second.worked_at, image.picture.size());
        let expected = read(&format!("../hires/pictures/{}.png", case.name));
        assert_alike(&case.name, &image.picture, &expected);
    }
}
