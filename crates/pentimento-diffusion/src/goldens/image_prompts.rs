//! IP-Adapter and its kin against diffusers: `reference/ip_adapter.py` tells what lies in the golden files.

use super::{Golden, against, assert_close, f32_root, files, part, reference};
use crate::{
    ControlFile, LoadError,
    config::UnetConfig,
    files::{Bytes, Folder, ModelFiles},
    image_prompt::{FaceReader, ImagePromptFile, Shown, Sight},
    library::Library,
    lora::{LoraFile, WantedLora},
    unet::{AddedInputs, Conditions, Stream, Unet},
};
use crate::{LoadOptions, Model};
use candle_core::Tensor;
use pentimento_faces::{Detector, Embedder};
use pentimento_imaging::{Limits, decode};
use pentimento_request::{
    Conditioning, ErrorKind, Faces, GenerateError, GenerationRequest, Generator, Identity, ImagePrompt, Lora,
    Picture, Quiet,
};
use std::sync::Arc;

/// The adapters, with the tiny picture encoder beside them.
struct WithEncoder {
    adapters: Folder,
    encoder: Folder,
}

impl WithEncoder {
    fn new() -> Self {
        let goldens = reference().join("goldens");
        Self {
            adapters: Folder::new(goldens.join("ip_adapter")),
            encoder: Folder::new(goldens.join("models/tiny-vision")),
        }
    }

    fn of(&self, path: &str) -> &Folder {
        if path.starts_with("image_encoder") { &self.encoder } else { &self.adapters }
    }
}

impl ModelFiles for WithEncoder {
    fn describe(&self, path: &str) -> String {
        self.of(path).describe(path)
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, LoadError> {
        self.of(path).read(path)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
        self.of(folder).list(folder)
    }
}

pub(super) fn photo(name: &str) -> Picture {
    let path = reference().join(format!("goldens/faces/photos/{name}.webp"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    decode(&bytes, &Limits { bytes: 1 << 20, pixels: 1 << 20 }).expect("a picture")
}

fn adapter(kind: &str) -> ImagePromptFile {
    ImagePromptFile::open(&WithEncoder::new(), &format!("{kind}.safetensors")).expect("an adapter")
}

/// What the reference shows an adapter: both photographs, both faces.
fn shown(golden: &Golden, adapter: &ImagePromptFile) -> Vec<Shown> {
    let names = golden.case["photos"].as_array().expect("photos");
    let one = |(index, name): (usize, &serde_json::Value)| Shown {
        picture: match adapter.sight() {
            Sight::Faces => None,
            Sight::Pictures | Sight::FacesAndPictures => {
                let picture = photo(name.as_str().expect("a name"));
                adapter.look(&[&picture]).expect("a look").pop()
            }
        },
        face: Some(golden.tensor("faces").narrow(0, index, 1).expect("a face")),
    };
    names.iter().enumerate().map(one).collect()
}

/// Models with their golden cases.
const CASES: [(&str, &str); 2] = [("tiny-sd15", "ip_adapter/cases"), ("tiny-xl", "ip_adapter/cases_xl")];

fn predict(golden: &Golden, unet: &Unet, streams: Vec<Stream>) -> Tensor {
    let sample = golden.tensor("sample");
    let mut context = unet.context(&golden.tensor("context")).expect("keys and values");
    context.streams = streams;
    let pooled = golden.has("pooled").then(|| golden.tensor("pooled"));
    let sizes = [64.0, 64.0, 0.0, 0.0, 64.0, 64.0];
    let added = AddedInputs { pooled: pooled.as_ref(), sizes, guidance_scale: 1.0 };
    let added = unet.added(&added).expect("what is added");
    let both = Tensor::cat(&[&sample, &sample], 0).expect("a batch");
    let timestep = golden.case["timestep"].as_f64().expect("a timestep");
    let conditions = Conditions { added: added.as_ref(), ..Conditions::of(&context) };
    unet.forward(&both, timestep, &conditions).expect("a prediction")
}

#[test]
fn adapters_steer_as_in_diffusers() {
    against(
        "diffusers load_ip_adapter",
        "IP-Adapter, Full, Plus, FaceID, FaceID-Plus and PlusV2, 1.x and XL",
    );
    for (model, cases) in CASES {
        let golden = Golden::open(cases);
        let (config, weights) = part::<UnetConfig>(model, "unet", "diffusion_pytorch_model");
        let unet = Unet::load(&f32_root(&weights), &config, model).expect("a UNet");
        for kind in golden.case["kinds"].as_array().expect("kinds") {
            let kind = kind.as_str().expect("a kind");
            let adapter = adapter(kind);
            assert!(adapter.fits(&config), "{kind}");
            let shown = shown(&golden, &adapter);
            let tokens = adapter.tokens(&shown, true).expect("tokens");
            let expected = golden.tensor(&format!("{kind}.tokens"));
            let expected = expected.reshape(tokens.dims()).expect("as many tokens");
            assert_close(&format!("{kind} tokens"), &tokens, &expected, 1e-3);
            let stream = adapter.stream(&config, &shown, true, 0.7).expect("a stream");
            let output = match kind.starts_with("faceid") {
                true => format!("{kind}.output_without"),
                false => format!("{kind}.output"),
            };
            assert_close(kind, &predict(&golden, &unet, vec![stream]), &golden.tensor(&output), 1e-3);
        }
    }
}

#[test]
fn several_adapters_add_up() {
    against("diffusers load_ip_adapter", "several picture adapters at once");
    let golden = Golden::open("ip_adapter/cases");
    let (config, weights) = part::<UnetConfig>("tiny-sd15", "unet", "diffusion_pytorch_model");
    let unet = Unet::load(&f32_root(&weights), &config, "tiny-sd15").expect("a UNet");
    let stream = |kind: &str, scale: f64| {
        let adapter = adapter(kind);
        adapter.stream(&config, &shown(&golden, &adapter), true, scale).expect("a stream")
    };
    let streams = vec![stream("plain", 0.7), stream("faceid", 0.4)];
    assert_close("both", &predict(&golden, &unet, streams), &golden.tensor("both.output"), 1e-3);
}

#[test]
fn adapters_of_other_models_are_refused_by_name() {
    let (config, _) = part::<UnetConfig>("default", "unet", "diffusion_pytorch_model");
    let adapter = adapter("faceid");
    assert!(!adapter.fits(&config));
    let golden = Golden::open("ip_adapter/cases");
    let error = adapter.stream(&config, &shown(&golden, &adapter), true, 1.0).err().expect("it does not fit");
    assert!(error.to_string().contains("faceid.safetensors"), "{error}");
    let other = ImagePromptFile::open(&files("tiny-sd15"), "unet/diffusion_pytorch_model.safetensors");
    let error = other.expect_err("a UNet is no adapter").to_string();
    assert!(error.contains("no IP-Adapter"), "{error}");
}

/// All golden adapters and networks by name, and a face reader with the random embedder.
#[derive(Debug)]
pub(super) struct Shelf;

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(reference().join("goldens").join(folder)).expect("a folder");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().replace(".safetensors", "");
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("an entry"))).collect();
    names.sort();
    names
}

impl Library for Shelf {
    fn lora(&self, name: &str) -> Result<Option<Arc<LoraFile>>, LoadError> {
        let known = self.lora_names().iter().any(|known| known == name);
        let folder = Folder::new(reference().join("goldens/lora"));
        let open = || LoraFile::open(&folder, &format!("{name}.safetensors")).map(Arc::new);
        known.then(open).transpose()
    }

    fn lora_names(&self) -> Vec<String> {
        names_in("lora")
    }

    fn control(&self, name: &str) -> Result<Option<Arc<ControlFile>>, LoadError> {
        let known = self.control_names().iter().any(|known| known == name);
        let folder = Folder::new(reference().join("goldens/controls"));
        known.then(|| ControlFile::open(&folder, name).map(Arc::new)).transpose()
    }

    fn control_names(&self) -> Vec<String> {
        names_in("controls")
    }

    fn image_prompt(&self, name: &str) -> Result<Option<Arc<ImagePromptFile>>, LoadError> {
        Ok(match name {
            "plain" | "plus" | "plus_xl" => Some(Arc::new(adapter(name))),
            "face" => Some(Arc::new(adapter("faceid_512"))),
            _ => None,
        })
    }

    fn image_prompt_names(&self) -> Vec<String> {
        ["face", "plain", "plus", "plus_xl"].map(str::to_owned).to_vec()
    }

    fn faces(&self) -> Result<Option<Arc<FaceReader>>, LoadError> {
        let path = reference().join("goldens/faces/networks/w600k_tiny.onnx");
        let embedder = Embedder::load(&std::fs::read(path).expect("a file"), "w600k_tiny.onnx");
        let detector = Detector::built_in().expect("the built-in networks");
        Ok(Some(Arc::new(FaceReader::new(detector, embedder.expect("an embedder")))))
    }
}

pub(super) fn model() -> Model {
    let options = LoadOptions { library: Arc::new(Shelf), ..LoadOptions::new("tiny", 1 << 20) };
    Model::load(&files("tiny-sd15"), options).expect("a model")
}

pub(super) fn draw(model: &Model, conditioning: Conditioning) -> Result<Vec<u8>, GenerateError> {
    let mut cases = super::pipelines::cases("pipelines").into_iter();
    let case = cases.find(|case| case.name == "text_euler_4").expect("the case");
    let request = GenerationRequest { model: "tiny".to_owned(), conditioning, ..case.request() };
    model.generate(&request, &mut Quiet).map(|image| image.picture.into_pixels())
}

pub(super) fn with_pictures(scale: f32) -> Conditioning {
    let pictures = vec![Arc::new(photo("face")), Arc::new(photo("two"))];
    let prompt = ImagePrompt { adapter: "plain".to_owned(), pictures, scale };
    Conditioning { image_prompts: vec![prompt], ..Conditioning::none() }
}

pub(super) fn with_face(name: &str, scale: f32) -> Conditioning {
    let identity = Identity { adapter: None, faces: Faces::Of(vec![Arc::new(photo(name))]), scale };
    Conditioning { identity: Some(identity), ..Conditioning::none() }
}

#[test]
fn pictures_and_faces_steer_and_at_scale_0_change_nothing() {
    let model = model();
    let bare = draw(&model, Conditioning::none()).expect("a picture");
    for nothing in [with_pictures(0.0), with_face("face", 0.0), with_face("nobody", 0.0)] {
        assert!(draw(&model, nothing).expect("a picture") == bare);
    }
    let (pictures, face) = (draw(&model, with_pictures(0.8)), draw(&model, with_face("face", 0.8)));
    let (pictures, face) = (pictures.expect("a picture"), face.expect("a picture"));
    assert!(pictures != bare && face != bare && pictures != face);
    // Nothing stays behind.
    assert!(draw(&model, Conditioning::none()).expect("a picture") == bare);
}

#[test]
fn what_cannot_be_shown_is_refused_by_kind() {
    let model = model();
    let kind = |conditioning| draw(&model, conditioning).expect_err("it cannot be").kind();
    assert_eq!(kind(with_face("nobody", 0.5)), ErrorKind::NoFace);
    assert_eq!(kind(with_pictures(1.5)), ErrorKind::InvalidRequest);
    let mut unknown = with_pictures(0.5);
    unknown.image_prompts[0].adapter = "../plain".to_owned();
    assert_eq!(kind(unknown), ErrorKind::InvalidRequest);
    let of_input = Identity { adapter: None, faces: Faces::OfInput, scale: 0.5 };
    assert_eq!(
        kind(Conditioning { identity: Some(of_input), ..Conditioning::none() }),
        ErrorKind::InvalidRequest
    );
    let bare = Model::load(&files("tiny-sd15"), LoadOptions::new("tiny", 1 << 20)).expect("a model");
    // Made for another family: no face adapter fits, and one for pictures is refused by name.
    let xl =
        ImagePrompt { adapter: "plus_xl".to_owned(), pictures: vec![Arc::new(photo("face"))], scale: 1.0 };
    let error =
        draw(&model, Conditioning { image_prompts: vec![xl], ..Conditioning::none() }).expect_err("XL");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("plus_xl.safetensors: the adapter was made for a network of more layers"),
        "{error}"
    );
    let named = |name: &str| {
        let mut conditioning = with_face("face", 0.5);
        conditioning.identity.as_mut().expect("a face").adapter = Some(name.to_owned());
        draw(&model, conditioning).expect_err("it is not there").to_string()
    };
    assert!(named("nobody").contains("known are face, plain"), "{}", named("nobody"));
    assert!(named("plain").contains("pictures, not faces"));
    let error = draw(&bare, with_face("face", 0.5)).expect_err("there is no adapter");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("FaceID"), "{error}");
}

#[test]
fn the_low_rank_part_of_faceid_acts_as_in_diffusers() {
    against("diffusers load_ip_adapter", "FaceID with its low-rank part, 1.x and XL");
    for (name, cases) in CASES {
        let golden = Golden::open(cases);
        let model = Model::load(&files(name), LoadOptions::new("tiny", 1 << 20)).expect("a model");
        let config = model.unet_config();
        let kinds = golden.case["kinds"].as_array().expect("kinds").iter().filter_map(|kind| kind.as_str());
        for kind in kinds.filter(|kind| kind.starts_with("faceid")) {
            let adapter = adapter(kind);
            let file = Arc::new(adapter.low_rank(config).expect("it can be read").expect("there is one"));
            let lora = Lora { name: kind.to_owned(), weight: 1.0, text_weight: None };
            let bound = model.bound(&[WantedLora { lora: &lora, file }]).expect("it fits");
            let unet = bound.unet.as_ref().expect("it changes the network");
            let stream = adapter.stream(config, &shown(&golden, &adapter), true, 0.7).expect("a stream");
            let got = predict(&golden, unet, vec![stream]);
            assert_close(kind, &got, &golden.tensor(&format!("{kind}.output")), 1e-3);
        }
    }
}
