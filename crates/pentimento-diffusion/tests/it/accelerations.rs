//! What makes drawing faster, off, on, and with any number of threads. What it draws is compared with the references in the goldens.

use crate::{
    TINY, options,
    requests::{draw, hash, text_to_image},
    tiny_folder,
};
use pentimento_diffusion::{Folder, Model};
use pentimento_request::{
    Accelerations, ErrorKind, GenerationRequest, Generator, GuidanceScale, Quiet, Sampler, StepCache, Steps,
};

fn base() -> GenerationRequest {
    let steps = Steps::new(5).expect("steps");
    GenerationRequest {
        steps,
        sampler: Some(Sampler::KEuler),
        ..text_to_image(&[("a cat", 1.0), ("fog", -1.0)])
    }
}

fn interval(text: &str) -> Accelerations {
    Accelerations { guidance_interval: text.parse().expect("an interval"), ..Accelerations::NONE }
}

fn cache(text: &str) -> Accelerations {
    Accelerations { step_cache: Some(text.parse().expect("a step cache")), ..Accelerations::NONE }
}

fn merging(text: &str) -> Accelerations {
    Accelerations { token_merging: text.parse().expect("a share"), ..Accelerations::NONE }
}

fn with(accelerations: Accelerations) -> GenerationRequest {
    GenerationRequest { accelerations, ..base() }
}

#[test]
fn guidance_in_every_step_is_guidance() {
    // 0.1 of 5 steps is less than one.
    assert_eq!(hash(&with(interval("0.1:1"))), hash(&base()));
    assert_ne!(hash(&with(interval("0.2:1"))), hash(&base()));
}

#[test]
fn guidance_in_no_step_is_the_positive_half_alone() {
    let guidance_scale = GuidanceScale::new(1.0).expect("a scale");
    let unguided = GenerationRequest { guidance_scale, ..base() };
    assert_eq!(hash(&with(interval("0.5:0.55"))), hash(&unguided));
}

#[test]
fn a_cache_that_nothing_is_taken_from_changes_nothing() {
    for sampler in [Sampler::KEuler, Sampler::KHeun] {
        let with = |accelerations| GenerationRequest { sampler: Some(sampler), ..with(accelerations) };
        let plain = hash(&with(Accelerations::NONE));
        assert_eq!(hash(&with(cache("1:2"))), plain);
        assert_ne!(hash(&with(cache("2:0"))), plain);
    }
    // Nothing is left of one request for the next.
    assert_eq!(hash(&with(cache("2:0"))), hash(&with(cache("2:0"))));
}

#[test]
fn tokens_are_merged_where_a_share_is_asked_for_by_the_seed_alone() {
    let plain = hash(&base());
    assert_eq!(hash(&with(merging("0"))), plain);
    // Of 64 tokens less than one.
    assert_eq!(hash(&with(merging("0.015"))), plain);
    let merged = hash(&with(merging("0.5")));
    assert_ne!(merged, plain);
    assert_eq!(hash(&with(merging("0.5"))), merged);
}

#[test]
fn branches_that_the_model_does_not_have_are_refused() {
    draw(&with(cache("2:3")));
    let error = TINY.generate(&with(cache("2:4")), &mut Quiet).expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("step_cache: a branch of 4"), "{error}");
}

#[test]
fn the_receipt_tells_what_was_done_faster() {
    assert_eq!(draw(&base()).receipt.accelerations, None);
    let report = draw(&with(interval("0.2:0.8"))).receipt.accelerations.expect("something was asked for");
    assert_eq!(report.asked, interval("0.2:0.8"));
    assert_eq!((report.guided_steps, report.whole_steps), (3, 5));
    let report = draw(&with(cache("2"))).receipt.accelerations.expect("something was asked for");
    assert_eq!((report.guided_steps, report.whole_steps), (5, 3));
    let guidance_scale = GuidanceScale::new(1.0).expect("a scale");
    let unguided = GenerationRequest { guidance_scale, ..with(interval("0.2:0.8")) };
    assert_eq!(draw(&unguided).receipt.accelerations.map(|report| report.guided_steps), Some(0));
}

#[test]
fn threads_change_no_byte_of_what_is_drawn_faster() {
    let request = with(Accelerations {
        step_cache: StepCache::new(2, 1).ok(),
        token_merging: merging("0.4").token_merging,
        ..interval("0:0.8")
    });
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let model = Model::load(&Folder::new(tiny_folder()), options("tiny")).expect("the tiny model");
            model.generate(&request, &mut Quiet).expect("a picture").receipt.pixels_hash
        })
    };
    let one = with_threads(1);
    assert_eq!([with_threads(2), with_threads(3)], [one.clone(), one.clone()]);
    assert_eq!(TINY.generate(&request, &mut Quiet).expect("a picture").receipt.pixels_hash, one);
}
