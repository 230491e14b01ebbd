//! Prompts, masks, sizes, cancellation, receipts.

use crate::TINY;
use pentimento_request::{
    Accelerations, Cancel, Canvas, Channels, ClipSkip, Conditioning, ErrorKind, GeneratedImage,
    GenerationRequest, Generator, GuidanceScale, Mask, NoiseSource, Picture, Progress, Prompt, PromptSyntax,
    Quiet, Region, Sampler, Schedule, Size, SolverOptions, Span, Stage, StepReport, Steps, Strength, Task,
    Untouched,
};
use std::{ops::ControlFlow, sync::Arc};

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).expect("a size")
}

fn prompts(weighted: &[(&str, f32)]) -> Vec<Prompt> {
    weighted.iter().map(|(text, weight)| Prompt { text: (*text).to_owned(), weight: *weight }).collect()
}

pub(crate) fn text_to_image(weighted: &[(&str, f32)]) -> GenerationRequest {
    GenerationRequest {
        model: "tiny".to_owned(),
        prompts: prompts(weighted),
        task: Task::TextToImage,
        canvas: Canvas::Exact(None),
        sampler: None,
        schedule: None,
        steps: Steps::new(3).expect("steps"),
        guidance_scale: GuidanceScale::new(4.0).expect("a scale"),
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        hires: None,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
        seed: 7,
    }
}

pub(crate) fn draw(request: &GenerationRequest) -> GeneratedImage {
    TINY.generate(request, &mut Quiet).expect("a picture")
}

pub(crate) fn hash(request: &GenerationRequest) -> String {
    draw(request).receipt.pixels_hash
}

/// A picture in which no two neighbours are alike.
pub(crate) fn picture(size: Size, channels: Channels) -> Arc<Picture> {
    let count = size.pixels() as usize * channels.count();
    let pixels = (0..count).map(|index| (index * 37 % 251) as u8).collect();
    Arc::new(Picture::new(size, channels, pixels).expect("a picture"))
}

/// White in the middle third of both sides.
pub(crate) fn mask(size: Size) -> Arc<Mask> {
    let inside = |at: u32, side: u32| at >= side / 3 && at < side * 2 / 3;
    let values = (0..size.height()).flat_map(|y| {
        (0..size.width()).map(move |x| 255 * u8::from(inside(x, size.width()) && inside(y, size.height())))
    });
    Arc::new(Mask::new(size, values.collect()).expect("a mask"))
}

fn repaint(init: Arc<Picture>, mask: Arc<Mask>) -> GenerationRequest {
    let task = Task::Repaint {
        init,
        mask,
        span: Span::of(Strength::FULL),
        region: Region::Surroundings { padding: 4 },
        untouched: Untouched::Restored,
    };
    GenerationRequest { task, canvas: Canvas::Native(None), ..text_to_image(&[("a cat", 1.0)]) }
}

#[test]
fn one_positive_prompt_of_any_weight_counts_as_one() {
    let expected = hash(&text_to_image(&[("a cat", 1.0)]));
    for weight in [0.01, 0.5, 100.0] {
        assert_eq!(hash(&text_to_image(&[("a cat", weight)])), expected, "{weight}");
    }
}

#[test]
fn the_order_of_prompts_does_not_matter() {
    let forwards = [("a cat", 1.0), ("a red flower", 0.3), ("dog", 0.7), ("blurry", -1.0), ("dark", -0.2)];
    let mut backwards = forwards;
    backwards.reverse();
    assert_eq!(hash(&text_to_image(&forwards)), hash(&text_to_image(&backwards)));
}

#[test]
fn a_weight_of_zero_counts_for_nothing() {
    let with = hash(&text_to_image(&[("a cat", 1.0), ("a dog", 0.0)]));
    assert_eq!(with, hash(&text_to_image(&[("a cat", 1.0)])));
    assert_eq!(hash(&text_to_image(&[("a dog", 0.0)])), hash(&text_to_image(&[])));
    let long = "a dog, ".repeat(100);
    assert_eq!(with, hash(&text_to_image(&[("a cat", 1.0), (&long, 0.0)])));
}

#[test]
fn without_guidance_negative_prompts_count_for_nothing() {
    let unguided = |weighted: &[(&str, f32)]| GenerationRequest {
        guidance_scale: GuidanceScale::new(1.0).expect("a scale"),
        ..text_to_image(weighted)
    };
    let long = "blurry, ".repeat(100);
    let with = hash(&unguided(&[("a cat", 1.0), (&long, -1.0)]));
    assert_eq!(with, hash(&unguided(&[("a cat", 1.0)])));
}

#[test]
fn weights_and_signs_do_matter() {
    let pictures = [
        hash(&text_to_image(&[("a cat", 1.0)])),
        hash(&text_to_image(&[("a cat", 1.0), ("a dog", -1.0)])),
        hash(&text_to_image(&[("a cat", 1.0), ("a dog", 1.0)])),
        hash(&text_to_image(&[("a cat", 1.0), ("a dog", 3.0)])),
    ];
    for (index, picture) in pictures.iter().enumerate() {
        assert!(!pictures[..index].contains(picture), "{index}");
    }
}

#[test]
fn long_prompts_are_cut_into_chunks_and_counted() {
    let long = "a cat, ".repeat(100);
    let image = draw(&text_to_image(&[(&long, 1.0), ("short", -1.0)]));
    let [first, second] = image.receipt.prompts.as_slice() else { panic!("two reports") };
    assert_eq!(first.chunks, [75, 75, 75, 75]);
    assert_eq!(second.chunks.len(), 1);
    assert_eq!((first.truncated, second.truncated), (0, 0));
}

#[test]
fn no_text_breaks_the_tokenizer() {
    for text in ["", " ", "\0", "(((a)))),", "猫🐈\u{202e}", "\u{fffd}\u{0301}", "<|endoftext|>x", "\n\t\r"]
    {
        draw(&GenerationRequest { steps: Steps::new(1).expect("a step"), ..text_to_image(&[(text, 1.0)]) });
    }
}

#[test]
fn unmasked_pixels_keep_their_bytes() {
    // Smaller than native, native, larger in one side, larger in both, odd sizes.
    for (width, height) in [(40, 24), (64, 64), (200, 50), (190, 131)] {
        for channels in [Channels::Rgb, Channels::Rgba] {
            let (init, mask) = (picture(size(width, height), channels), mask(size(width, height)));
            let image = draw(&repaint(init.clone(), mask.clone()));
            assert_eq!((image.picture.size(), image.picture.channels()), (init.size(), channels));
            let pixels =
                init.pixels().chunks(channels.count()).zip(image.picture.pixels().chunks(channels.count()));
            let mut repainted = 0;
            for ((before, after), mask) in pixels.zip(mask.values()) {
                assert!(*mask > 0 || before == after);
                repainted += usize::from(before != after);
            }
            assert!(repainted > 0, "{width}x{height}: nothing was repainted");
        }
    }
}

#[test]
fn a_large_picture_is_repainted_around_its_mask_at_the_native_size() {
    let (init, mask) = (picture(size(300, 200), Channels::Rgb), mask(size(300, 200)));
    let receipt = draw(&repaint(init, mask)).receipt;
    // The mask is 100x67 and 4 pixels are shown around it: 108x108.
    assert_eq!(receipt.region, Some([96, 45, 108, 108]));
    assert_eq!(receipt.worked_at, size(64, 64));
    assert_eq!(receipt.size, size(300, 200));
}

#[test]
fn an_exact_repaint_of_another_size_is_not_resampled_twice() {
    let request = |untouched| {
        let (init, mask) = (picture(size(100, 90), Channels::Rgb), mask(size(100, 90)));
        let span = Span::of(Strength::FULL);
        let task = Task::Repaint { init, mask, span, region: Region::Whole, untouched };
        GenerationRequest {
            task,
            canvas: Canvas::Exact(Some(size(64, 72))),
            ..text_to_image(&[("a cat", 1.0)])
        }
    };
    let (bare, restored) = (draw(&request(Untouched::AsDecoded)), draw(&request(Untouched::Restored)));
    assert_eq!((bare.picture.size(), restored.picture.size()), (size(64, 72), size(64, 72)));
    // In the middle of the mask both are the decoder's own bytes.
    let middle = 3 * (36 * 64 + 32);
    assert_eq!(bare.picture.pixels()[middle..][..3], restored.picture.pixels()[middle..][..3]);
}

#[test]
fn nothing_to_do_gives_the_input_back() {
    let init = picture(size(64, 64), Channels::Rgb);
    let empty = Arc::new(Mask::new(size(64, 64), vec![0; 64 * 64]).expect("a mask"));
    let untouched = draw(&repaint(init.clone(), empty));
    assert_eq!(untouched.picture, *init);
    assert!(untouched.receipt.notes[0].contains("mask is empty"), "{:?}", untouched.receipt.notes);
    let task =
        Task::ImageToImage { init: init.clone(), span: Span::of(Strength::new(0.2).expect("a strength")) };
    let request = GenerationRequest { task, canvas: Canvas::Native(None), ..text_to_image(&[]) };
    assert_eq!(draw(&request).picture, *init);
}

#[test]
fn sizes_are_exact_or_brought_to_what_was_asked() {
    let exact = |canvas| draw(&GenerationRequest { canvas, ..text_to_image(&[("a cat", 1.0)]) }).receipt;
    let receipt = exact(Canvas::Exact(Some(size(40, 88))));
    assert_eq!((receipt.worked_at, receipt.size), (size(40, 88), size(40, 88)));
    let receipt = exact(Canvas::Native(Some(size(512, 256))));
    assert_eq!((receipt.worked_at, receipt.size), (size(88, 48), size(512, 256)));
    let receipt = exact(Canvas::Native(None));
    assert_eq!((receipt.worked_at, receipt.size), (size(64, 64), size(64, 64)));
}

fn with_solver(solver: SolverOptions) -> GenerationRequest {
    GenerationRequest { solver, ..text_to_image(&[("a cat", 1.0)]) }
}

#[test]
fn every_sampler_draws_with_every_schedule() {
    let init = picture(size(64, 64), Channels::Rgb);
    for sampler in Sampler::ALL {
        for schedule in Schedule::ALL {
            let request = GenerationRequest {
                sampler: Some(sampler),
                schedule: Some(schedule),
                steps: Steps::new(3).expect("steps"),
                solver: SolverOptions { s_churn: 1.0, ..SolverOptions::USUAL },
                guidance_scale: GuidanceScale::new(1.0).expect("a scale"),
                task: Task::ImageToImage {
                    init: init.clone(),
                    span: Span::of(Strength::new(0.7).expect("a strength")),
                },
                ..text_to_image(&[("a cat", 1.0)])
            };
            let receipt = draw(&request).receipt;
            assert_eq!((receipt.sampler, receipt.schedule, receipt.steps_run), (sampler, schedule, 2));
        }
    }
}

#[test]
fn noise_emphasis_and_clip_skip_change_the_picture_and_stand_in_the_receipt() {
    let base =
        || GenerationRequest { syntax: PromptSyntax::Plain, ..text_to_image(&[("a (red:1.4) cat", 1.0)]) };
    let plain = draw(&base());
    let philox = draw(&GenerationRequest { noise: NoiseSource::Philox, ..base() });
    let emphasis = draw(&GenerationRequest { syntax: PromptSyntax::Emphasis, ..base() });
    let skipping = ClipSkip::new(2).expect("a layer");
    let skipped = draw(&GenerationRequest { clip_skip: skipping, ..base() });
    for other in [&philox, &emphasis, &skipped] {
        assert!(other.picture != plain.picture);
    }
    assert_eq!(philox.receipt.noise, NoiseSource::Philox);
    assert_eq!(emphasis.receipt.syntax, PromptSyntax::Emphasis);
    assert_eq!(skipped.receipt.clip_skip, skipping);
    // "a red cat" has three tokens, and what the plain reading sees of the brackets is more.
    assert_eq!(emphasis.receipt.prompts[0].chunks, [3]);
    assert!(plain.receipt.prompts[0].chunks[0] > 3);
}

#[test]
fn requests_that_cannot_be_are_refused_by_field() {
    let base = || text_to_image(&[("a cat", 1.0)]);
    let odd_mask = mask(size(32, 32));
    for (request, kind, word) in [
        (GenerationRequest { model: "x".into(), ..base() }, ErrorKind::ModelNotFound, "'x'"),
        (
            with_solver(SolverOptions { eta: Some(1.5), ..SolverOptions::USUAL }),
            ErrorKind::InvalidRequest,
            "eta",
        ),
        (
            with_solver(SolverOptions { s_churn: f64::NAN, ..SolverOptions::USUAL }),
            ErrorKind::InvalidRequest,
            "s_churn",
        ),
        (
            GenerationRequest { clip_skip: ClipSkip::new(4).expect("a layer"), ..base() },
            ErrorKind::InvalidRequest,
            "clip_skip",
        ),
        (
            GenerationRequest {
                sampler: Some(Sampler::Lcm),
                steps: Steps::new(51).expect("steps"),
                ..base()
            },
            ErrorKind::InvalidRequest,
            "LCM",
        ),
        (
            GenerationRequest { canvas: Canvas::Exact(Some(size(65, 64))), ..base() },
            ErrorKind::InvalidRequest,
            "65x64",
        ),
        (
            GenerationRequest { canvas: Canvas::Exact(Some(size(1024, 1024))), ..base() },
            ErrorKind::InvalidRequest,
            "pixels",
        ),
        (
            GenerationRequest { guidance_rescale: 2.0, ..base() },
            ErrorKind::InvalidRequest,
            "guidance_rescale",
        ),
        (
            GenerationRequest { prompts: prompts(&[("a", f32::NAN)]), ..base() },
            ErrorKind::InvalidRequest,
            "weight",
        ),
        (repaint(picture(size(64, 64), Channels::Rgb), odd_mask), ErrorKind::InvalidRequest, "mask"),
    ] {
        let error = TINY.generate(&request, &mut Quiet).expect_err("a refusal");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// Breaks off at a stage or after a step, and remembers what it heard.
#[derive(Default)]
struct Listener {
    stop_at: Option<Stage>,
    stop_after: Option<usize>,
    stages: Vec<Stage>,
    steps: Vec<usize>,
    previews: Vec<Size>,
}

impl Progress for Listener {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.stages.push(stage);
        if self.stop_at == Some(stage) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.steps.push(report.step);
        self.previews.extend((report.preview)().map(|preview| preview.size()));
        if self.stop_after == Some(report.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn progress_tells_stages_steps_and_previews() {
    let mut listener = Listener::default();
    let request = repaint(picture(size(64, 64), Channels::Rgb), mask(size(64, 64)));
    TINY.generate(&request, &mut listener).expect("a picture");
    assert_eq!(listener.stages, [Stage::Text, Stage::Encode, Stage::Sample, Stage::Decode]);
    assert_eq!(listener.steps, [1, 2, 3]);
    assert_eq!(listener.previews, [size(8, 8); 3]);
}

#[test]
fn breaking_off_skips_everything_behind() {
    let request = text_to_image(&[("a cat", 1.0)]);
    let mut after_a_step = Listener { stop_after: Some(1), ..Listener::default() };
    let error = TINY.generate(&request, &mut after_a_step).expect_err("a cancellation");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(after_a_step.steps, [1]);
    assert!(!after_a_step.stages.contains(&Stage::Decode));
    let mut at_a_stage = Listener { stop_at: Some(Stage::Sample), ..Listener::default() };
    let error = TINY.generate(&request, &mut at_a_stage).expect_err("a cancellation");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(at_a_stage.steps.is_empty());
}

/// Throws its switch when a stage begins, and says nothing when it is asked.
struct LeavesWithin {
    stage: Stage,
    switch: Cancel,
    steps: usize,
}

impl Progress for LeavesWithin {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        if stage == self.stage {
            self.switch.cancel();
        }
        ControlFlow::Continue(())
    }

    fn switch(&self) -> Option<Cancel> {
        Some(self.switch.clone())
    }

    fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
        self.steps += 1;
        ControlFlow::Continue(())
    }
}

#[test]
fn a_thrown_switch_is_obeyed_inside_a_stage() {
    let request = repaint(picture(size(64, 64), Channels::Rgb), mask(size(64, 64)));
    for stage in [Stage::Text, Stage::Encode, Stage::Sample, Stage::Decode] {
        let mut leaving = LeavesWithin { stage, switch: Cancel::default(), steps: 0 };
        let error = TINY.generate(&request, &mut leaving).expect_err("a cancellation");
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{stage:?}");
        assert_eq!(leaving.steps, if stage == Stage::Decode { 3 } else { 0 }, "{stage:?}");
    }
    assert!(TINY.generate(&request, &mut Quiet).is_ok(), "the next request is drawn");
}

#[test]
fn a_receipt_is_enough_to_draw_the_picture_again() {
    let first = draw(&text_to_image(&[("a cat", 1.0)]));
    let receipt = &first.receipt;
    let again = GenerationRequest {
        seed: receipt.seed,
        sampler: Some(receipt.sampler),
        schedule: Some(receipt.schedule),
        steps: Steps::new(receipt.steps).expect("steps"),
        canvas: Canvas::Exact(Some(receipt.worked_at)),
        ..text_to_image(&[("a cat", 1.0)])
    };
    assert_eq!(draw(&again).picture, first.picture);
    assert_eq!(receipt.sigmas.len(), receipt.steps_run + 1);
    assert_eq!((receipt.model.as_str(), receipt.model_hash.len()), ("tiny", 64));
    assert_eq!(receipt.sampler, Sampler::Ddim, "the model's own scheduler names it");
}

#[test]
fn what_ran_before_changes_nothing() {
    let request = text_to_image(&[("a cat", 1.0)]);
    let before = hash(&request);
    draw(&repaint(picture(size(200, 50), Channels::Rgba), mask(size(200, 50))));
    draw(&text_to_image(&[("something else", 2.0)]));
    assert_eq!(hash(&request), before);
}

#[test]
fn skipped_final_steps_are_not_run() {
    let span = Span {
        strength: Strength::new(0.8).expect("a strength"),
        skipped_end: Strength::new(0.2).expect("a share"),
    };
    let task = Task::ImageToImage { init: picture(size(64, 64), Channels::Rgb), span };
    let steps = Steps::new(10).expect("steps");
    let request = GenerationRequest { task, steps, ..text_to_image(&[("a cat", 1.0)]) };
    let receipt = draw(&request).receipt;
    assert_eq!(receipt.steps_run, 6);
    assert_eq!(receipt.sigmas.last(), Some(&0.0));
}

#[test]
fn a_prompt_may_have_many_chunks_and_not_any_number_of_breaks() {
    let draw = |text: &str| TINY.generate(&text_to_image(&[(text, 1.0)]), &mut Quiet);
    let error = draw(&"a BREAK ".repeat(33)).expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().starts_with("prompt: 33 BREAKs are more than the 32"), "{error}");
    let most = draw(&"a BREAK ".repeat(32)).expect("as many as may be");
    assert_eq!(most.receipt.prompts[0].chunks.len(), 32);
    // What a text itself needs it gets.
    let long = draw(&"\u{1f34e}".repeat(2000)).expect("a picture");
    assert!(long.receipt.prompts[0].chunks.len() > 30);
    let plain = GenerationRequest {
        syntax: PromptSyntax::Plain,
        ..text_to_image(&[("BREAK ".repeat(200).as_str(), 1.0)])
    };
    TINY.generate(&plain, &mut Quiet).expect("a word like others");
}
