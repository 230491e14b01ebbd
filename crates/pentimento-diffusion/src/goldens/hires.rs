//! Pictures drawn in two passes against the same composed from diffusers' pipelines.

use super::{
    pipelines::{compare, load, read},
    reference,
};
use pentimento_request::{
    Canvas, ClipSkip, Conditioning, GenerationRequest, Generator, GuidanceScale, Hires, NoiseSource, Prompt,
    PromptSyntax, Quiet, Size, SolverOptions, Span, Steps, Strength, Task,
};
use serde::Deserialize;
use std::sync::Arc;

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
            seed: self.seed,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning::none(),
            filter: None,
        }
    }

    fn task(&self) -> Task {
        let Some(init) = &self.init else { return Task::TextToImage };
        let init = Arc::new(read(&format!("inputs/{init}.png")));
        let strength = Strength::new(self.init_strength.expect("a strength")).expect("a strength");
        Task::ImageToImage { init, span: Span::of(strength) }
    }
}

#[test]
fn two_passes_are_those_of_the_reference() {
    let path = reference().join("goldens/hires/cases.json");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(path).expect("the cases")).expect("cases in JSON");
    let model = load("tiny-sd15");
    for case in cases {
        let image = model.generate(&case.request(), &mut Quiet).expect("a picture");
        let second = image.receipt.hires.as_ref().expect("a second pass");
        assert_eq!(second.worked_at, image.picture.size());
        let expected = read(&format!("../hires/pictures/{}.png", case.name));
        let (_, near, largest) = compare(&image.picture, &expected);
        // design: 99.9 % of bytes within 1, none off by more than 3.
        assert!(near >= 0.999 && largest <= 3, "{}: {near:.4} within 1, largest {largest}", case.name);
    }
}
