//! CLIP guidance: its gradient against torch's autograd, and what it does to whole pictures. `reference/clip_guidance.py` tells
//! what lies in the golden file.

use super::{Golden, against, assert_close, files, pipelines};
use crate::{LoadOptions, Model, clip_guidance::Guide};
use pentimento_request::{
    ClipGuidance, Conditioning, ErrorKind, GenerateError, GeneratedImage, GenerationRequest, Generator,
    Prompt, PromptSyntax, Quiet, Sampler, Steps,
};

fn model(name: &str) -> Model {
    Model::load(&files(name), LoadOptions::new("tiny", 1 << 20)).expect("a model")
}

fn request(preset: Option<ClipGuidance>, sampler: Option<Sampler>) -> GenerationRequest {
    let mut cases = pipelines::cases("pipelines").into_iter();
    let case = cases.find(|case| case.name == "text_euler_4").expect("the case");
    let conditioning = Conditioning { clip_guidance: preset, ..Conditioning::none() };
    let steps = Steps::new(6).expect("possible");
    GenerationRequest {
        model: "tiny".to_owned(),
        conditioning,
        sampler,
        steps,
        schedule: None,
        ..case.request()
    }
}

fn draw(model: &Model, request: &GenerationRequest) -> Result<GeneratedImage, GenerateError> {
    model.generate(request, &mut Quiet)
}

#[test]
fn the_gradient_is_that_of_autograd() {
    against("torch autograd", "gradient of CLIP guidance");
    let (golden, model) = (Golden::open("clip_guidance"), model("tiny-clip"));
    let prompts = golden.case["prompts"].as_array().expect("prompts").iter().map(|prompt| Prompt {
        text: prompt[0].as_str().expect("a text").to_owned(),
        weight: prompt[1].as_f64().expect("a weight") as f32,
    });
    let request = GenerationRequest {
        prompts: prompts.collect(),
        syntax: PromptSyntax::Emphasis,
        ..request(Some(ClipGuidance::Slow), None)
    };
    let parts = model.clip_parts().expect("it carries one");
    let guide = Guide::new(parts, ClipGuidance::Slow, &request).expect("it binds").expect("prompts attract");
    assert_close("target", guide.target(), &golden.tensor("target"), 1e-4);
    for index in 0..golden.case["count"].as_u64().expect("a count") {
        let tensor = |name: &str| golden.tensor(&format!("{index}.{name}"));
        let (cosine, gradient) = guide.gradient(&tensor("latents")).expect("a gradient");
        assert!((cosine - golden.f64s(&format!("{index}.cosine"))[0]).abs() < 1e-5, "{cosine}");
        assert_close("gradient", &gradient, &tensor("gradient"), 1e-3);
    }
}

#[test]
fn presets_steer_and_say_so() {
    let model = model("tiny-clip");
    let sampler = Some(Sampler::KEulerAncestral);
    let plain = draw(&model, &request(None, sampler)).expect("a picture");
    assert_eq!(plain.receipt.clip_guidance, None);
    let mut seen = vec![plain.picture];
    for preset in ClipGuidance::ALL {
        let image = draw(&model, &request(Some(preset), sampler)).expect("a picture");
        let report = image.receipt.clip_guidance.expect("it steered");
        assert_eq!(report.preset, preset);
        assert!(!report.steps.is_empty() && report.steps.iter().all(|step| *step < 6), "{report:?}");
        assert!(seen.iter().all(|other| *other != image.picture), "{preset} is like another");
        seen.push(image.picture);
    }
}

#[test]
fn guided_pictures_follow_from_the_seed_whatever_the_threads() {
    let model = model("tiny-clip");
    for sampler in [None, Some(Sampler::KDpm2Ancestral), Some(Sampler::Ddim)] {
        let request = request(Some(ClipGuidance::Slowest), sampler);
        let first = draw(&model, &request).expect("a picture");
        assert_eq!(first.receipt.sampler, sampler.unwrap_or(Sampler::KDpmpp2sAncestral));
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let again = pool.install(|| draw(&model, &request)).expect("a picture");
            assert!(again.picture == first.picture, "{threads} threads, {sampler:?}");
        }
    }
}

#[test]
fn what_cannot_be_guided_is_refused_or_told() {
    let refused = draw(&model("tiny-clip"), &request(Some(ClipGuidance::Simple), Some(Sampler::KHeun)));
    let error = refused.expect_err("it is no ancestral sampler");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.message().contains("K_EULER_ANCESTRAL"), "{error}");
    for (name, why) in [("tiny-sd15", "carries no CLIP"), ("tiny-xl", "XL family")] {
        let model = model(name);
        let plain = draw(&model, &request(None, None)).expect("a picture");
        let image = draw(&model, &request(Some(ClipGuidance::Slow), None)).expect("a picture");
        assert!(image.picture == plain.picture && image.receipt.clip_guidance.is_none());
        assert!(image.receipt.notes.iter().any(|note| note.contains(why)), "{:?}", image.receipt.notes);
    }
}
