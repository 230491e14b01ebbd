//! Pictures that a model's checker objects to, in each mode.

use crate::{copy, copy_tree, goldens, options, precision::rewrite, requests::text_to_image};
use pentimento_diffusion::{Folder, LoadErrorKind, Model, Precision};
use pentimento_imaging as imaging;
use pentimento_request::{
    ErrorKind, FilterMode, GenerationRequest, Generator, Picture, Progress, Quiet, Stage, StepReport, Verdict,
};
use std::{fs, ops::ControlFlow, path::Path};
use tempfile::TempDir;

/// The tiny model with a checker whose thresholds are all this.
fn checked(threshold: f32) -> TempDir {
    let folder = copy();
    let from = goldens("models/tiny-checked");
    for part in ["safety_checker", "feature_extractor"] {
        fs::create_dir(folder.path().join(part)).expect("a folder");
        copy_tree(&from.join(part), &folder.path().join(part));
    }
    rewrite(&folder.path().join("safety_checker/model.safetensors"), |tensors| {
        let (values, _) = tensors.get_mut("concept_embeds_weights").expect("thresholds");
        values.fill(threshold);
    });
    folder
}

fn load(folder: &Path) -> Model {
    Model::load(&Folder::new(folder), options("tiny")).expect("a model")
}

fn request(filter: Option<FilterMode>) -> GenerationRequest {
    GenerationRequest { filter, ..text_to_image(&[("a cat", 1.0)]) }
}

fn drawn(model: &Model, filter: Option<FilterMode>) -> (Picture, Verdict) {
    let image = model.generate(&request(filter), &mut Quiet).expect("a picture");
    assert_eq!(image.receipt.size, image.picture.size());
    (image.picture, image.receipt.verdict)
}

#[test]
fn each_mode_does_what_its_verdict_says() {
    let folder = checked(-2.0);
    let model = load(folder.path());
    let (plain, verdict) = drawn(&model, Some(FilterMode::Off));
    assert_eq!(verdict, Verdict::Unchecked);
    assert_eq!(drawn(&model, Some(FilterMode::Flag)), (plain.clone(), Verdict::Flagged));
    let blurred = (imaging::blur_away(&plain), Verdict::Blurred);
    assert_eq!(drawn(&model, Some(FilterMode::Blur)), blurred);
    assert_eq!(drawn(&model, None), blurred, "the usual mode of a model with a checker");
    assert_eq!(drawn(&model, Some(FilterMode::Block)), (imaging::black(&plain), Verdict::Blocked));
}

#[test]
fn a_picture_without_objection_is_left_as_it_is() {
    let folder = checked(2.0);
    let model = load(folder.path());
    let (plain, _) = drawn(&model, Some(FilterMode::Off));
    for mode in [FilterMode::Flag, FilterMode::Blur, FilterMode::Block] {
        assert_eq!(drawn(&model, Some(mode)), (plain.clone(), Verdict::Clean));
    }
}

#[test]
fn a_model_without_a_checker_refuses_to_check() {
    let folder = copy();
    let model = load(folder.path());
    assert_eq!(drawn(&model, None).1, Verdict::Unchecked);
    assert_eq!(drawn(&model, Some(FilterMode::Off)).1, Verdict::Unchecked);
    let error = model.generate(&request(Some(FilterMode::Blur)), &mut Quiet).expect_err("no checker");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().starts_with("filter: "), "{error}");
}

/// Counts previews, and notes the stages.
#[derive(Default)]
struct Watcher {
    previews: usize,
    stages: Vec<Stage>,
}

impl Progress for Watcher {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        self.stages.push(stage);
        ControlFlow::Continue(())
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.previews += usize::from((report.preview)().is_some());
        ControlFlow::Continue(())
    }
}

#[test]
fn what_may_be_withheld_has_no_previews() {
    let folder = checked(2.0);
    let model = load(folder.path());
    for (mode, shown) in [(FilterMode::Off, true), (FilterMode::Flag, true), (FilterMode::Blur, false)] {
        let mut watcher = Watcher::default();
        model.generate(&request(Some(mode)), &mut watcher).expect("a picture");
        assert_eq!(watcher.previews > 0, shown, "{mode}");
        assert_eq!(watcher.stages.contains(&Stage::Check), mode != FilterMode::Off);
    }
}

#[test]
fn a_checker_that_gives_no_numbers_lets_nothing_pass() {
    let folder = checked(2.0);
    rewrite(&folder.path().join("safety_checker/model.safetensors"), |tensors| {
        tensors.get_mut("visual_projection.weight").expect("a projection").0.fill(f32::NAN);
    });
    let error = load(folder.path()).generate(&request(None), &mut Quiet).expect_err("no verdict");
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn a_verdict_is_the_same_in_every_precision() {
    let folder = checked(-2.0);
    let options = pentimento_diffusion::LoadOptions { precision: Precision::Bf16, ..options("tiny") };
    let model = Model::load(&Folder::new(folder.path()), options).expect("a model");
    assert_eq!(drawn(&model, None).1, Verdict::Blurred);
}

#[test]
fn a_broken_checker_is_no_checker_that_is_missing() {
    let folder = checked(2.0);
    let file = folder.path().join("safety_checker/model.safetensors");
    fs::rename(&file, file.with_file_name("pytorch_model.bin")).expect("another name");
    let error = Model::load(&Folder::new(folder.path()), options("tiny")).err().expect("pickled");
    assert_eq!(error.kind(), LoadErrorKind::Unsupported);
    assert!(error.to_string().contains("safety_checker"), "{error}");

    let folder = checked(2.0);
    rewrite(&folder.path().join("safety_checker/model.safetensors"), |tensors| {
        tensors.remove("concept_embeds");
    });
    let model = load(folder.path());
    let error = model.bind_filter().expect_err("a tensor is missing");
    assert!(error.to_string().contains("'concept_embeds' is missing"), "{error}");
    let error = model.generate(&request(None), &mut Quiet).expect_err("no picture unchecked");
    assert_eq!(error.kind(), ErrorKind::Internal);
}
