//! Models in one file against the folders that diffusers makes of them.
//!
//! The weights follow from a formula (`reference/single_files.py`), so both are made here, from lists of names.

use super::{
    Golden, against,
    manifest::{Manifest, Store, write, write_f16},
    pipelines::{Case, assert_alike},
    reference,
};
use crate::{
    Bytes, Folder, LoadOptions, Model, ModelFiles, SingleFile, WithVae,
    config::read_json,
    error::{LoadError, LoadErrorKind},
    pixels,
    source::{SafetensorsFiles, StoredTensor, WeightSource},
    tokenizer::Tokenizer,
    weights::Weights,
};
use candle_core::Tensor;
use pentimento_request::{GeneratedImage, Generator, Quiet};
use safetensors::Dtype;
use serde_json::Value;
use sha2::Sha256;
use std::{collections::BTreeMap, sync::Arc};
use tempfile::TempDir;

/// Draws a list's case with these files.
pub(super) fn draw(manifest: &Manifest, files: &dyn ModelFiles) -> (Model, GeneratedImage) {
    let case: Case = serde_json::from_value(manifest.case.clone().expect("a case")).expect("a case");
    let options = LoadOptions::new(&case.model, 1 << 20);
    let model = Model::load(files, options).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let image = model.generate(&case.request(), &mut Quiet).expect("a picture");
    (model, image)
}

/// A model both ways.
pub(super) struct Pair {
    pub(super) manifest: Manifest,
    pub(super) folder: TempDir,
}

impl Pair {
    pub(super) fn new(name: &str) -> Self {
        let manifest = Manifest::open(name);
        let pair = Self { manifest, folder: tempfile::tempdir().expect("a folder") };
        write_f16(&pair.path(), &pair.manifest.file());
        pair.write_folder();
        pair
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn write_folder(&self) {
        let single = SingleFile::open(self.path()).expect("a model in one file");
        let put = |path: &str, bytes: &[u8]| {
            let path = self.folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, bytes).expect("a written file");
        };
        for (part, config) in &self.manifest.configs {
            put(&format!("{part}/config.json"), config.to_string().as_bytes());
            let stem = if part.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
            let path = self.folder.path().join(format!("{part}/{stem}.safetensors"));
            write_f16(&path, &self.manifest.folder(part));
        }
        // Nothing that a conversion would change.
        for folder in ["", "scheduler", "tokenizer", "tokenizer_2"] {
            for name in [
                "model_index.json",
                "scheduler_config.json",
                "vocab.json",
                "merges.txt",
                "tokenizer_config.json",
            ] {
                let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                if let Some(bytes) = single.read(&path).expect("a document") {
                    put(&path, &bytes);
                }
            }
        }
    }

    pub(super) fn draw(&self, files: &dyn ModelFiles) -> (Model, GeneratedImage) {
        draw(&self.manifest, files)
    }
}

#[test]
fn one_file_draws_the_bytes_of_its_folder_and_the_picture_of_the_reference() {
    against("diffusers pipelines", "whole pictures of models in one file");
    let latents = Golden::open("single_files/latents");
    for name in ["sd1", "sd2", "sdxl", "sd1-inpaint"] {
        let pair = Pair::new(name);
        let (_, of_folder) = pair.draw(&Folder::new(pair.folder.path()));
        let (model, of_file) = pair.draw(&SingleFile::open(pair.path()).expect("a model in one file"));
        assert!(of_file.picture == of_folder.picture, "{name}: the file's picture is another");
        let decoded = model.networks.vae.decode(&latents.tensor(name)).expect("pixels");
        assert_alike(name, &of_file.picture, &pixels::to_picture(&decoded).expect("a picture"));
    }
}

#[test]
fn a_vae_of_its_own_takes_the_place_of_the_models() {
    let pair = Pair::new("sd1");
    let (_, expected) = pair.draw(&Folder::new(pair.folder.path()));
    let of_whole = pair.manifest.file();
    let without: BTreeMap<_, _> =
        of_whole.clone().into_iter().filter(|(name, _)| !name.starts_with("first_stage_model.")).collect();
    let path = |name: &str| pair.folder.path().join(name);
    write_f16(&path("without.safetensors"), &without);
    let alone = SingleFile::open(path("without.safetensors")).expect("a model");
    let error = alone.weights("vae").err().expect("no VAE");
    assert_eq!(error.kind(), LoadErrorKind::Missing);
    assert!(error.to_string().contains("first_stage_model."), "{error}");

    let bare = of_whole
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("first_stage_model.")?.to_owned(), value)));
    write_f16(&path("bare.safetensors"), &bare.collect());
    for vae in ["bare.safetensors", "vae/diffusion_pytorch_model.safetensors", "model.safetensors"] {
        let model = SingleFile::open(path("without.safetensors")).expect("a model");
        let (_, image) = pair.draw(&WithVae::open(Box::new(model), path(vae)).expect("a VAE"));
        assert!(image.picture == expected.picture, "{vae}");
    }
    let model = Box::new(Folder::new(pair.folder.path()));
    let wrong = WithVae::open(model, path("unet/diffusion_pytorch_model.safetensors")).err().expect("no VAE");
    assert!(wrong.to_string().contains("holds no VAE"), "{wrong}");
}

#[test]
fn storage_changes_no_more_than_its_own_rounding() {
    let pair = Pair::new("sd1");
    let file = pair.manifest.file();
    // What the coarsest format can hold is held by all of them alike.
    let coarse = |value: half::f16| half::f16::from_bits(value.to_bits() & 0xff00);
    let file: BTreeMap<_, _> = file
        .into_iter()
        .map(|(name, (shape, data))| (name, (shape, data.into_iter().map(coarse).collect::<Vec<_>>())))
        .collect();
    let stores: [(Dtype, Store); 4] = [
        (Dtype::F16, |value| value.to_le_bytes().to_vec()),
        (Dtype::F32, |value| value.to_f32().to_le_bytes().to_vec()),
        (Dtype::BF16, |value| half::bf16::from_f32(value.to_f32()).to_le_bytes().to_vec()),
        (Dtype::F8_E5M2, |value| vec![(value.to_bits() >> 8) as u8]),
    ];
    let pictures = stores.map(|(dtype, store)| {
        let path = pair.folder.path().join(format!("{dtype:?}.safetensors"));
        write(&path, &file, dtype, store);
        pair.draw(&SingleFile::open(path).expect("a model")).1.picture
    });
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
}

#[test]
fn eight_bit_floats_have_the_values_that_torch_gives_them() {
    let folder = Folder::new(reference().join("goldens/single_files"));
    let source = SafetensorsFiles::open(&folder, &["floats.safetensors".to_owned()]).expect("a file");
    for kind in ["e4m3", "e5m2"] {
        let got = source.read(kind).expect("values");
        let expected = source.read(&format!("{kind}.values")).expect("values");
        let alike = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        assert!(got.len() == 256 && got.iter().zip(&expected).all(alike), "{kind}");
    }
}

#[test]
fn the_tokenizer_carried_along_gives_the_ids_of_transformers() {
    let text = std::fs::read(reference().join("goldens/single_files/tokens.json")).expect("the ids");
    let golden: Value = serde_json::from_slice(&text).expect("ids");
    let model = SingleFile::of(Arc::new(Names::of(&Manifest::open("true_sdxl")))).expect("a model");
    for (folder, kind) in [("tokenizer", "texts"), ("tokenizer_2", "exclaimed")] {
        let tokenizer = Tokenizer::load(&model, folder).expect("a tokenizer");
        assert_eq!(tokenizer.largest_id(), 49407);
        for case in golden[kind].as_array().expect("texts") {
            let text = case["text"].as_str().expect("a text");
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
            let ids = tokenizer.ids(text).expect("ids");
            assert_eq!(tokenizer.framed(&ids, ids.len() + 2), expected, "{text:?}");
        }
    }
}

/// Names and shapes without weights: for models of the true size.
pub(super) struct Names(pub(super) BTreeMap<String, StoredTensor>);

impl Names {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let stored = |shape: Vec<usize>| StoredTensor { shape, dtype: "F16".to_owned() };
        let tensors = manifest.tensors.iter();
        let tensors = tensors
            .map(|(name, _, _, shape, how)| (name.clone(), stored(Manifest::stored_shape(shape, how))));
        let extra = manifest.extra.iter().map(|(name, shape)| (name.clone(), stored(shape.clone())));
        Self(tensors.chain(extra).collect())
    }
}

impl WeightSource for Names {
    fn label(&self) -> String {
        "model.safetensors".to_owned()
    }

    fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.0
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        Ok(vec![0.0; self.0[name].shape.iter().product()])
    }

    fn hash_into(&self, _: &mut Sha256) -> Result<(), LoadError> {
        Ok(())
    }
}

#[test]
fn files_of_the_true_size_are_recognised_and_every_tensor_is_found() {
    for (name, family, native) in [
        ("true_sd1", "Stable Diffusion 1.x", 512),
        ("true_sd2", "Stable Diffusion 2.x, inpainting", 512),
        ("true_sdxl", "Stable Diffusion XL", 1024),
        ("true_sdxl-inpaint", "Stable Diffusion XL, inpainting", 1024),
    ] {
        let manifest = Manifest::open(name);
        let model = SingleFile::of(Arc::new(Names::of(&manifest))).expect("a model");
        let summary = Model::inspect(&model).expect("a summary");
        assert_eq!((summary.family.as_str(), summary.native_size.width()), (family, native), "{name}");
        for (part, expected) in &manifest.configs {
            let config: Value = read_json(&model, &format!("{part}/config.json")).expect("a configuration");
            same_settings(&format!("{name} {part}"), &config, expected);
            let weights: Weights = model.weights(part).expect("weights").expect("weights");
            let got: BTreeMap<_, _> =
                weights.shapes().map(|(name, shape)| (bare(name), shape.to_vec())).collect();
            for (_, _, names, shape, _) in manifest.tensors.iter().filter(|(_, of, ..)| of == part) {
                for tensor in names {
                    assert_eq!(got.get(&bare(tensor)), Some(shape), "{name} {part}: {tensor}");
                }
            }
        }
    }
}

/// The name without a level that some versions of transformers write.
fn bare(name: &str) -> String {
    name.strip_prefix("text_model.").unwrap_or(name).to_owned()
}

/// Every setting of ours that the reference has too means the same there.
fn same_settings(what: &str, got: &Value, expected: &Value) {
    // Names that do not matter here, or of which one says in a list what the other says at once.
    let ignored = ["_class_name", "architectures", "bos_token_id", "eos_token_id", "projection_dim"];
    for (name, value) in got.as_object().expect("settings") {
        let Some(other) = expected.get(name).filter(|_| !ignored.contains(&name.as_str())) else { continue };
        let as_list = |value: &Value| match value {
            Value::Array(values) => {
                values.iter().map(|v| v.as_f64().map_or(v.to_string(), |n| n.to_string())).collect()
            }
            one => vec![one.as_f64().map_or(one.to_string(), |n| n.to_string())],
        };
        let (ours, theirs): (Vec<String>, Vec<String>) = (as_list(value), as_list(other));
        let same = ours.len() == theirs.len() && ours == theirs
            || theirs.len() == 1 && ours.iter().all(|value| *value == theirs[0]);
        // The reference's level without transformers has a depth that nothing reads.
        assert!(
            same || name == "transformer_layers_per_block" || name == "sample_size",
            "{what}: {name}: {ours:?}, {theirs:?}"
        );
    }
}

#[test]
fn what_is_no_model_is_said_by_what_it_is() {
    let message = |names: &[&str]| {
        let stored =
            |name: &&str| ((*name).to_owned(), StoredTensor { shape: vec![1], dtype: "F16".to_owned() });
        SingleFile::of(Arc::new(Names(names.iter().map(stored).collect())))
            .err()
            .expect("an error")
            .to_string()
    };
    for (names, part) in [
        (&["conditioner.embedders.0.model.ln_final.weight"][..], "refiner"),
        (&["control_model.time_embed.0.weight"], "ControlNet"),
        (&["lora_unet_down_blocks_0.alpha"], "LoRA"),
        (&["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"], "--lora"),
        (&["model.diffusion_model.double_blocks.0.img_attn.proj.weight"], "Flux"),
        (&["down_blocks.0.resnets.0.conv1.weight"], "UNet alone: text encoder"),
        (&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
        (&["encoder.conv_in.weight", "decoder.conv_in.weight"], "autoencoder alone"),
        (&["model_ema.decay"], "model_ema.…"),
        (&["model.diffusion_model.out.0.weight", "scaled_fp8"], "scales beside them"),
        (&["model.diffusion_model.out.0.weight", "other.weight"], "no text encoder"),
        (&["bert.encoder.layer.0.weight"], "bert.…"),
        (&[], "nothing"),
    ] {
        assert!(message(names).contains(part), "{}", message(names));
    }
    let cut: &[&str] = &["model.diffusion_model.out.0.weight", "cond_stage_model.transformer.x.weight"];
    assert!(message(cut).contains("sizes of its unet"), "{}", message(cut));
}

#[test]
fn no_shape_in_a_file_does_harm() {
    let manifest = Manifest::open("sdxl");
    let whole = Names::of(&manifest).0;
    // Every eleventh tensor in turn, so that all kinds come up: each missing, empty, flat, odd, and with sides too many.
    for (index, name) in whole.keys().enumerate().filter(|(index, _)| index % 11 == 0) {
        for shape in [
            None,
            Some(vec![]),
            Some(vec![0, 3]),
            Some(vec![7]),
            Some(vec![5, 64, 2, 2]),
            Some(vec![1 << 40, 2]),
        ] {
            let mut names = whole.clone();
            match shape {
                Some(shape) => names.get_mut(name).expect("a tensor").shape = shape,
                None => drop(names.remove(name)),
            }
            // What is read before any shape is checked must not be as large as a file says.
            let model = SingleFile::of(Arc::new(Names(names)));
            let checked = model.and_then(|model| Model::inspect(&model).map(drop));
            assert!(
                checked.is_ok()
                    || checked.is_err_and(|error| error.to_string().contains("model.safetensors")),
                "{index} {name}"
            );
        }
    }
}

#[test]
fn a_shape_that_does_not_fit_is_an_error_that_names_the_tensor() {
    let pair = Pair::new("sd2");
    for (name, shape) in [
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", vec![191, 64]),
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", vec![191]),
        ("first_stage_model.encoder.mid.attn_1.q.weight", vec![32, 32, 2, 2]),
        ("model.diffusion_model.out.0.weight", vec![63]),
    ] {
        let mut file = pair.manifest.file();
        let data = vec![half::f16::ONE; shape.iter().product()];
        file.insert(name.to_owned(), (shape, data));
        write_f16(&pair.path(), &file);
        let model = SingleFile::open(pair.path()).expect("names enough");
        let error =
            Model::load(&model, LoadOptions::new("odd", 1 << 20)).err().expect("an error").to_string();
        let part = if name.contains("in_proj") { "q_proj" } else { name };
        assert!(error.contains(part) && error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn tensors_are_cut_and_turned_as_their_origin_says() {
    let pair = Pair::new("sdxl");
    let single = SingleFile::open(pair.path()).expect("a model");
    let weights = single.weights("text_encoder_2").expect("weights").expect("weights");
    for (name, (shape, data)) in pair.manifest.folder("text_encoder_2") {
        let expected: Vec<f32> = data.iter().map(|value| value.to_f32()).collect();
        let got: Tensor = weights.tensor(&name, &shape).expect("a tensor");
        assert!(got.flatten_all().and_then(|got| got.to_vec1::<f32>()).expect("f32") == expected, "{name}");
    }
    let _: Option<Bytes> = single.read("nothing").expect("no document");
}
