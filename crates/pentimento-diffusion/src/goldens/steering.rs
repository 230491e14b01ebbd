//! Everything that steers beside the prompts, in whole pictures: weights of 0, threads, neighbours, and what is refused.

use super::{
    files,
    image_prompts::{Shelf, draw, model, photo, with_face, with_pictures},
};
use crate::{
    Brought, LoadOptions, LoraFile, Model, Precision, files::Folder, library::Library, lora::WantedLora,
};
use pentimento_imaging as imaging;
use pentimento_request::{
    CannyThresholds, Canvas, ClipGuidance, Conditioning, Control, ControlNetwork, ErrorKind, GeneratedImage,
    GenerationRequest, Generator, Hint, Lora, Picture, Quiet, Span, Strength, Task, Texture,
};
use safetensors::{Dtype, tensor::TensorView};
use std::{sync::Arc, thread};

fn lora(name: &str, weight: f32) -> Lora {
    Lora { name: name.to_owned(), weight, text_weight: None }
}

fn control(network: ControlNetwork, hint: Hint, weight: f32) -> Control {
    Control { network, hint, weight, start: Strength::new(0.0).expect("a share"), end: Strength::FULL }
}

fn named(name: &str, weight: f32) -> Control {
    control(ControlNetwork::Named(name.to_owned()), Hint::Picture(Arc::new(photo("face"))), weight)
}

/// Adapters of both ways to act, a control network and pictures at once.
fn everything() -> Conditioning {
    Conditioning {
        loras: vec![lora("kohya", 0.4), lora("lokr", 0.2), lora("locon", -0.2)],
        controls: vec![named("canny", 0.8), named("depth", 0.3)],
        ..with_pictures(0.5)
    }
}

fn with_loras(loras: Vec<Lora>) -> Conditioning {
    Conditioning { loras, ..Conditioning::none() }
}

fn with_control(control: Control) -> Conditioning {
    Conditioning { controls: vec![control], ..Conditioning::none() }
}

#[test]
fn weights_of_0_give_the_very_bytes_without() {
    let model = model();
    let bare = draw(&model, Conditioning::none()).expect("a picture");
    let names = Shelf.lora_names();
    let zeros = names.iter().filter(|name| !name.contains("xl")).map(|name| lora(name, 0.0)).collect();
    for (what, nothing) in [
        ("adapters", with_loras(zeros)),
        ("a control network", with_control(named("canny", 0.0))),
        ("a network that is not there", with_control(named("nosuch", 0.0))),
        ("pictures", with_pictures(0.0)),
        ("a face", with_face("nobody", 0.0)),
    ] {
        assert!(draw(&model, nothing).expect(what) == bare, "{what}");
    }
    let half = Lora { text_weight: Some(0.0), ..lora("kohya", 0.5) };
    assert!(draw(&model, with_loras(vec![half])).expect("a picture") != bare);
}

#[test]
fn threads_and_neighbours_change_nothing() {
    let model = model();
    let (all, face) = (draw(&model, everything()), draw(&model, with_face("face", 0.6)));
    let (all, face) = (all.expect("a picture"), face.expect("a picture"));
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let again = pool.install(|| draw(&model, everything())).expect("a picture");
        assert!(again == all, "{threads} threads");
    }
    // Side by side, on one model.
    thread::scope(|scope| {
        let others = [
            scope.spawn(|| draw(&model, with_face("face", 0.6)).expect("a picture") == face),
            scope.spawn(|| draw(&model, everything()).expect("a picture") == all),
        ];
        assert!(others.map(|other| other.join().expect("no panic")) == [true, true]);
    });
}

/// Image-to-image from a photograph.
fn image_to_image(model: &Model, conditioning: Conditioning) -> Picture {
    image_from_image(model, conditioning).picture
}

fn image_from_image(model: &Model, conditioning: Conditioning) -> GeneratedImage {
    let mut cases = super::pipelines::cases("pipelines").into_iter();
    let case = cases.find(|case| case.name == "text_euler_4").expect("the case");
    let span = Span::of(Strength::new(0.75).expect("a share"));
    let request = GenerationRequest {
        model: "tiny".to_owned(),
        task: Task::ImageToImage { init: Arc::new(photo("face")), span },
        canvas: Canvas::Native(None),
        conditioning,
        ..case.request()
    };
    model.generate(&request, &mut Quiet).expect("a picture")
}

#[test]
fn a_models_own_networks_are_shown_the_input() {
    let own = |name: &str| {
        let options = LoadOptions {
            library: Arc::new(Shelf),
            canny: Some(name.to_owned()),
            tile: Some("depth".to_owned()),
            ..LoadOptions::new("tiny", 1 << 20)
        };
        Model::load(&files("tiny-sd15"), options).expect("a model")
    };
    let (with_networks, without) = (own("canny"), model());
    let seen = Arc::new(photo("face"));
    // The texture's network runs where the texture is kept, and only there.
    let tile = control(ControlNetwork::Named("depth".to_owned()), Hint::Picture(seen), 1.0);
    let kept = image_to_image(&with_networks, Conditioning::none());
    assert!(kept == image_to_image(&without, with_control(tile)));
    let smoothed = Conditioning { texture: Texture::Smoothed, ..Conditioning::none() };
    let smooth = image_to_image(&with_networks, smoothed.clone());
    assert!(smooth == image_to_image(&without, smoothed) && smooth != kept);
    // Edges are those of the input as the model sees it.
    let edges = control(ControlNetwork::Canny, Hint::Edges(CannyThresholds::USUAL), 0.8);
    let smoothed = |control| Conditioning { texture: Texture::Smoothed, ..with_control(control) };
    let by_input = image_from_image(&with_networks, smoothed(edges));
    let (by_input, work) = (by_input.picture, by_input.receipt.worked_at);
    let drawn = imaging::canny(&imaging::resize(&photo("face"), work), CannyThresholds::USUAL);
    let drawn = control(ControlNetwork::Named("canny".to_owned()), Hint::Picture(Arc::new(drawn)), 0.8);
    assert!(by_input != smooth);
    let by_picture = image_to_image(&without, smoothed(drawn));
    assert!(by_picture == by_input, "edges of the input, or the same edges as a picture");
}

#[test]
fn what_does_not_fit_is_refused_by_kind_and_name() {
    let model = model();
    let edges = control(ControlNetwork::Canny, Hint::Edges(CannyThresholds::USUAL), 0.5);
    let backwards = Control {
        start: Strength::new(0.6).expect("a share"),
        end: Strength::new(0.4).expect("a share"),
        ..named("canny", 1.0)
    };
    for (conditioning, kind, expected) in [
        (with_loras(vec![lora("nosuch", 1.0)]), ErrorKind::InvalidRequest, "known are "),
        (with_loras(vec![lora("../kohya", 1.0)]), ErrorKind::InvalidRequest, "no lora '../kohya'"),
        (with_loras(vec![lora("kohya", f32::NAN)]), ErrorKind::InvalidRequest, "NaN"),
        (with_loras(vec![lora("kohya_xl", 1.0)]), ErrorKind::Unsupported, "kohya_xl"),
        (with_control(named("nosuch", 1.0)), ErrorKind::InvalidRequest, "known are canny"),
        (with_control(named("canny", 2.5)), ErrorKind::InvalidRequest, "from 0 to 2"),
        (with_control(named("canny_xl", 1.0)), ErrorKind::Unsupported, "cross_attention_dim"),
        (with_control(backwards), ErrorKind::InvalidRequest, "start at 0.6"),
        (with_control(edges), ErrorKind::InvalidRequest, "input picture"),
    ] {
        let error = draw(&model, conditioning).expect_err(expected);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A low rank whose way up is infinite in bf16, and small behind its way down.
fn overflowing() -> LoraFile {
    let place = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    let bytes = |value: f32, count: usize| value.to_le_bytes().repeat(count);
    let tensors = [
        (format!("{place}.lora_down.weight"), vec![1, 16], bytes(2e-38, 16)),
        (format!("{place}.lora_up.weight"), vec![16, 1], bytes(f32::MAX, 16)),
        (format!("{place}.alpha"), vec![], bytes(1.0, 1)),
    ];
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = safetensors::serialize(views, None).expect("a file");
    std::fs::write(folder.path().join("large.safetensors"), file).expect("written");
    LoraFile::open(&Folder::new(folder.path()), "large.safetensors").expect("an adapter")
}

/// A library with that adapter alone.
#[derive(Debug)]
struct Overflowing;

impl Library for Overflowing {
    fn lora(&self, _name: &str) -> Result<Option<Arc<LoraFile>>, crate::LoadError> {
        Ok(Some(Arc::new(overflowing())))
    }

    fn lora_names(&self) -> Vec<String> {
        vec!["large".to_owned()]
    }

    fn control(&self, _name: &str) -> Result<Option<Arc<crate::ControlFile>>, crate::LoadError> {
        Ok(None)
    }

    fn control_names(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn adapters_that_leave_the_range_of_bf16_run_in_f32() {
    let load = |precision| {
        let library = Arc::new(Overflowing);
        let options = LoadOptions { library, precision, ..LoadOptions::new("tiny", 1 << 20) };
        Model::load(&files("tiny-sd15"), options).expect("a model")
    };
    let mut cases = super::pipelines::cases("pipelines").into_iter();
    let case = cases.find(|case| case.name == "text_euler_4").expect("the case");
    let conditioning = with_loras(vec![lora("large", 1.0)]);
    let request = GenerationRequest { model: "tiny".to_owned(), conditioning, ..case.request() };
    let image = load(Precision::Bf16).generate(&request, &mut Quiet).expect("a picture");
    let notes = &image.receipt.notes;
    assert!(notes.iter().any(|note| note == "the steps overflowed and ran again in f32"), "{notes:?}");
    let exact = load(Precision::F32).generate(&request, &mut Quiet).expect("a picture");
    assert_eq!(exact.receipt.notes, [] as [&str; 0]);
}

#[test]
fn the_changes_of_many_sets_are_not_all_kept() {
    let model = model();
    let file = Shelf.lora("lokr").expect("it can be read").expect("it is there");
    for number in 0..20 {
        let lora = lora("lokr", 0.1 + number as f32 / 100.0);
        model.bound(&[WantedLora { lora: &lora, file: file.clone() }]).expect("it fits");
    }
    assert!(model.kept_adapters() <= 8, "{}", model.kept_adapters());
}

#[test]
fn what_a_request_brings_counts_with_the_parameters_of_its_files() {
    let summary = Model::inspect(&files("tiny-clip")).expect("a summary");
    let parameters = |of: Option<u64>| of.expect("it is there");
    let mut cases = super::pipelines::cases("pipelines").into_iter();
    let base = cases.find(|case| case.name == "text_euler_4").expect("the case").request();
    let bytes = |conditioning, precision| {
        let request = GenerationRequest { conditioning, ..base.clone() };
        let shelf =
            Brought { library: &Shelf, canny: Some("canny"), tile: None, face: Some("face"), precision };
        summary.picture_memory.brought(&request, shelf)
    };
    let brought = |conditioning| bytes(conditioning, Precision::F32);
    assert_eq!(brought(Conditioning::none()), 0);
    let nothing = [
        with_loras(vec![lora("kohya", 0.0), lora("nosuch", 1.0)]),
        with_pictures(0.0),
        with_face("face", 0.0),
    ];
    assert!(nothing.into_iter().all(|conditioning| brought(conditioning) == 0));
    let kohya = Shelf.lora("kohya").expect("it can be read").expect("it is there");
    assert!(!kohya.merges() && kohya.parameters() > 0);
    assert_eq!(brought(with_loras(vec![lora("kohya", 0.5)])), kohya.length() + 4 * kohya.parameters());
    // Merged flavours make copies of what they change.
    let unet = parameters(summary.parts.iter().find(|part| part.name == "unet").map(|part| part.parameters));
    assert!(brought(with_loras(vec![lora("loha", 0.5)])) > 4 * unet);
    let canny = Shelf.control("canny").expect("it can be read").expect("it is there").parameters();
    assert_eq!(brought(with_control(named("canny", 0.5))), 4 * canny);
    assert_eq!(bytes(with_control(named("canny", 0.5)), Precision::Bf16), 2 * canny);
    assert_eq!(bytes(with_control(named("canny", 0.5)), Precision::Int8), canny * 3 / 2);
    let own = control(ControlNetwork::Canny, Hint::Edges(CannyThresholds::USUAL), 0.5);
    assert_eq!(brought(with_control(own)), 4 * canny);
    let plain = Shelf.image_prompt("plain").expect("it can be read").expect("it is there");
    assert_eq!(brought(with_pictures(0.5)), 4 * plain.parameters());
    assert!(brought(with_face("face", 0.5)) > 0);
    let guided = Conditioning { clip_guidance: Some(ClipGuidance::Slow), ..Conditioning::none() };
    assert!(brought(guided) > 1 << 20);
}
