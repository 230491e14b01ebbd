//! What makes drawing faster, off, on, and with any number of threads. What it draws is compared with the references in the goldens.

use crate::{
    TINY, options,
    requests::{draw, hash, text_to_image},
    tiny_folder,
};
use pentimento_diffusion::{Folder, Model};
use pentimento_request::{
    Accelerations, GenerationRequest, Generator, GuidanceInterval, GuidanceScale, Quiet, Sampler, Steps,
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
    Accelerations { guidance_interval: text.parse().expect("an interval") }
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
fn the_receipt_tells_what_was_done_faster() {
    assert_eq!(draw(&base()).receipt.accelerations, None);
    let report = draw(&with(interval("0.2:0.8"))).receipt.accelerations.expect("something was asked for");
    assert_eq!(report.asked, interval("0.2:0.8"));
    assert_eq!(report.guided_steps, 3);
    let guidance_scale = GuidanceScale::new(1.0).expect("a scale");
    let unguided = GenerationRequest { guidance_scale, ..with(interval("0.2:0.8")) };
    assert_eq!(draw(&unguided).receipt.accelerations.map(|report| report.guided_steps), Some(0));
}

#[test]
fn threads_change_no_byte_of_what_is_drawn_faster() {
    let request =
        with(Accelerations { guidance_interval: GuidanceInterval::new(0.0, 0.8).expect("an interval") });
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
