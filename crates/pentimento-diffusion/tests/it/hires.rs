//! A second pass at a larger size: sizes, progress, cancellation, and what cannot be.

use crate::{
    TINY,
    requests::{mask, picture, text_to_image},
};
use pentimento_request::{
    Canvas, Channels, ErrorKind, GenerationRequest, Generator, Hires, Progress, Quiet, Region, Size, Span,
    Stage, StepReport, Steps, Strength, Task, Untouched,
};
use std::ops::ControlFlow;

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).expect("a size")
}

fn hires(scale: f64, strength: f64, steps: Option<usize>) -> Option<Hires> {
    let strength = Strength::new(strength).expect("a strength");
    Some(Hires { scale, strength, steps: steps.map(|steps| Steps::new(steps).expect("steps")) })
}

fn base() -> GenerationRequest {
    GenerationRequest {
        canvas: Canvas::Exact(Some(size(32, 40))),
        hires: hires(1.5, 0.5, Some(4)),
        ..text_to_image(&[("a cat", 1.0)])
    }
}

/// Notes each step, and the previews' sizes; breaks off after some.
#[derive(Default)]
struct Watcher {
    steps: Vec<(usize, usize, Option<Size>)>,
    stages: Vec<Stage>,
    break_after: Option<usize>,
}

impl Progress for Watcher {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.stages.push(stage);
        ControlFlow::Continue(())
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.steps.push((report.step, report.of, (report.preview)().map(|preview| preview.size())));
        match self.break_after {
            Some(step) if step == report.step => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[test]
fn both_passes_are_told_and_shown() {
    let mut watcher = Watcher::default();
    let image = TINY.generate(&base(), &mut watcher).expect("a picture");
    let (small, large) = (Some(size(4, 5)), Some(size(6, 8)));
    let expected = [(1, 5, small), (2, 5, small), (3, 5, small), (4, 5, large), (5, 5, large)];
    assert_eq!(watcher.steps, expected);
    assert_eq!(watcher.stages, [Stage::Text, Stage::Sample, Stage::Decode]);
    assert_eq!(image.picture.size(), size(48, 64));
    let second = image.receipt.hires.expect("a second pass");
    assert_eq!((second.steps, second.steps_run, second.worked_at), (4, 2, size(48, 64)));
    assert_eq!((second.scale, second.strength, second.sigmas.len()), (1.5, 0.5, 3));
    assert_eq!((image.receipt.steps_run, image.receipt.worked_at), (3, size(32, 40)));
}

#[test]
fn breaking_off_in_either_pass_ends_it() {
    for break_after in [2, 4] {
        let mut watcher = Watcher { break_after: Some(break_after), ..Watcher::default() };
        let error = TINY.generate(&base(), &mut watcher).expect_err("broken off");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(watcher.steps.len(), break_after);
        assert!(!watcher.stages.contains(&Stage::Decode));
    }
}

#[test]
fn a_size_that_was_asked_for_stays() {
    let native = GenerationRequest { canvas: Canvas::Native(Some(size(100, 60))), ..base() };
    let image = TINY.generate(&native, &mut Quiet).expect("a picture");
    assert_eq!(image.picture.size(), size(100, 60));
    let (first, second) = (image.receipt.worked_at, image.receipt.hires.expect("a second pass").worked_at);
    assert!(second.width() > first.width() && second.height() > first.height());
}

#[test]
fn a_picture_that_is_drawn_on_is_enlarged_too() {
    let init = picture(size(32, 32), Channels::Rgb);
    let span = Span::of(Strength::new(0.7).expect("a strength"));
    let request = GenerationRequest {
        task: Task::ImageToImage { init, span },
        canvas: Canvas::Exact(None),
        hires: hires(2.0, 0.5, None),
        ..base()
    };
    let image = TINY.generate(&request, &mut Quiet).expect("a picture");
    assert_eq!(image.picture.size(), size(64, 64));
}

#[test]
fn a_masked_picture_keeps_what_is_not_painted() {
    let init = picture(size(32, 32), Channels::Rgb);
    let task = |untouched| Task::Repaint {
        init: init.clone(),
        mask: mask(size(32, 32)),
        span: Span::of(Strength::FULL),
        region: Region::Whole,
        untouched,
    };
    let request =
        |untouched, canvas, hires| GenerationRequest { task: task(untouched), canvas, hires, ..base() };
    let native = request(Untouched::Restored, Canvas::Native(None), hires(2.0, 0.5, None));
    let image = TINY.generate(&native, &mut Quiet).expect("a picture");
    let (before, after) = (&init, &image.picture);
    assert_eq!(before.size(), after.size());
    let painted = mask(size(32, 32));
    let pixels = before.pixels().chunks_exact(3).zip(after.pixels().chunks_exact(3)).zip(painted.values());
    assert!(pixels.clone().all(|((before, after), value)| *value > 0 || before == after));
    assert!(pixels.clone().any(|((before, after), _)| before != after));
    let one_pass = TINY.generate(&request(Untouched::Restored, Canvas::Native(None), None), &mut Quiet);
    assert!(one_pass.expect("a picture").picture != image.picture);
    // With nothing but the bare pipeline the result has the larger size.
    let exact = request(Untouched::AsDecoded, Canvas::Exact(None), hires(2.0, 0.5, None));
    assert_eq!(TINY.generate(&exact, &mut Quiet).expect("a picture").picture.size(), size(64, 64));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let cases = [
        (GenerationRequest { hires: hires(1.0, 0.5, None), ..base() }, ErrorKind::InvalidRequest, "hires"),
        (GenerationRequest { hires: hires(4.1, 0.5, None), ..base() }, ErrorKind::InvalidRequest, "hires"),
        (
            GenerationRequest { hires: hires(f64::NAN, 0.5, None), ..base() },
            ErrorKind::InvalidRequest,
            "hires",
        ),
        (GenerationRequest { hires: hires(2.0, 0.1, None), ..base() }, ErrorKind::InvalidRequest, "hires"),
        (
            GenerationRequest {
                canvas: Canvas::Exact(Some(size(512, 512))),
                hires: hires(2.0, 0.5, None),
                ..base()
            },
            ErrorKind::InvalidRequest,
            "size",
        ),
    ];
    for (request, kind, field) in cases {
        let error = TINY.generate(&request, &mut Quiet).expect_err("it cannot be");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
    }
}
