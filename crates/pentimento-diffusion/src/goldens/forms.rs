//! Models in other forms: under other names, with a small autoencoder, converted, without some of their parts.

use super::{
    files,
    gguf::Completed,
    manifest::{Manifest, write_f16},
    pipelines::compare,
    reference,
    single_files::{self, Names, Pair},
};
use crate::{
    Folder, LoadError, LoadErrorKind, LoadOptions, Model, ModelFiles, SingleFile, StoredAs, WithVae, convert,
    source::{StoredTensor, WeightSource},
};
use pentimento_request::Picture;
use std::{collections::BTreeMap, sync::Arc};

/// The picture of a pair's folder, and that of its one file with other names.
fn both(pair: &Pair, rename: impl Fn(&str) -> Option<String>) -> (Picture, Picture) {
    let (_, of_folder) = pair.draw(&Folder::new(pair.folder.path()));
    let tensors =
        pair.manifest.file().into_iter().filter_map(|(name, tensor)| Some((rename(&name)?, tensor)));
    write_f16(&pair.path(), &tensors.collect());
    let (_, of_file) = pair.draw(&SingleFile::open(pair.path()).expect("a model in one file"));
    (of_folder.picture, of_file.picture)
}

/// The name of an averaged weight; of what the files hold of averages already, nothing.
fn averaged(name: &str) -> Option<String> {
    match name.strip_prefix("model.diffusion_model.") {
        Some(rest) => Some(format!("model_ema.diffusion_model{}", rest.replace('.', ""))),
        None => (!name.starts_with("model_ema.diffusion_model")).then(|| name.to_owned()),
    }
}

#[test]
fn averaged_weights_are_used_where_there_are_no_others() {
    let (of_folder, of_file) = both(&Pair::new("sd1"), averaged);
    assert!(of_file == of_folder);
}

#[test]
fn every_name_of_averaged_weights_is_understood() {
    for name in ["true_sd1", "true_sd2", "true_sdxl"] {
        let names = Names::of(&Manifest::open(name));
        let plain = SingleFile::of(Arc::new(Names(names.0.clone()))).expect("a model");
        let flat = names.0.into_iter().filter_map(|(name, tensor)| Some((averaged(&name)?, tensor)));
        let flat = SingleFile::of(Arc::new(Names(flat.collect()))).expect("a model");
        let shapes = |model: &SingleFile| -> BTreeMap<String, Vec<usize>> {
            let unet = model.weights("unet").expect("weights").expect("weights");
            unet.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect()
        };
        assert_eq!(shapes(&flat), shapes(&plain), "{name}");
    }
}

#[test]
fn names_that_stable_diffusion_cpp_gives_are_known() {
    let text = std::fs::read(reference().join("goldens/gguf/renamed.json")).expect("the names");
    let names: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&text).expect("JSON");
    for (model, names) in &names {
        assert!(names.len() > 20, "{model}");
        let rename = |name: &str| names.get(name).cloned().or_else(|| Some(name.to_owned()));
        let (of_folder, of_file) = both(&Pair::new(model), rename);
        assert!(of_file == of_folder, "{model}");
    }
}

#[test]
fn a_small_autoencoder_takes_the_place_of_the_models() {
    let draw = |model: &dyn ModelFiles| single_files::draw(&Manifest::open("sd1"), model).1.picture;
    let tiny = reference().join("goldens/models/tiny-taesd/vae");
    let pair = Pair::new("sd1");
    let of_file = SingleFile::open(pair.path()).expect("a model in one file");
    let weights = tiny.join("diffusion_pytorch_model.safetensors");
    let with_file = WithVae::open(Box::new(of_file), &weights).expect("a small autoencoder");
    // The same as a folder with its own configuration.
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(tiny.join(name), pair.folder.path().join("vae").join(name)).expect("a copy");
    }
    assert!(draw(&with_file) == draw(&Folder::new(pair.folder.path())));
    assert!(WithVae::open(Box::new(files("tiny-sd15")), &weights).is_ok());
}

/// A model converted into a folder.
fn converted(files: &dyn ModelFiles, stored_as: Option<StoredAs>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    convert(files, folder.path(), stored_as).expect("it is converted");
    folder
}

#[test]
fn a_file_that_became_a_folder_draws_the_same_bytes() {
    for name in ["sd1", "sd2", "sdxl", "sd1-inpaint"] {
        let pair = Pair::new(name);
        let file = SingleFile::open(pair.path()).expect("a model in one file");
        let (_, of_file) = pair.draw(&file);
        for stored_as in [None, Some(StoredAs::F32)] {
            let folder = converted(&file, stored_as);
            let (_, of_folder) = pair.draw(&Folder::new(folder.path()));
            assert!(of_folder.picture == of_file.picture, "{name} as {stored_as:?}");
        }
    }
}

#[test]
fn a_quantised_file_that_became_a_folder_draws_the_same_in_f32_and_nearly_in_f16() {
    let manifest = Manifest::open("sd1");
    let quantised = SingleFile::of(Arc::new(Completed::mixed(&manifest))).expect("a model");
    let (_, expected) = single_files::draw(&manifest, &quantised);
    let wide = converted(&quantised, Some(StoredAs::F32));
    assert!(single_files::draw(&manifest, &Folder::new(wide.path())).1.picture == expected.picture);
    let half = converted(&quantised, None);
    let summary = Model::inspect(&Folder::new(half.path())).expect("a model");
    assert!(summary.parts.iter().all(|part| part.dtypes == ["F16"]), "{:?}", summary.parts);
    let (_, near, largest) =
        compare(&single_files::draw(&manifest, &Folder::new(half.path())).1.picture, &expected.picture);
    assert!(near > 0.99 && largest <= 3, "{near} within 1, largest {largest}");
}

#[test]
fn what_one_file_lacks_is_told() {
    let survey = |keep: fn(&str) -> bool| {
        let mut names = Names::of(&Manifest::open("true_sdxl"));
        names.0.retain(|name, _| keep(name));
        Model::survey(&SingleFile::of(Arc::new(names)).expect("a model")).expect("a survey")
    };
    let whole = survey(|_| true);
    assert_eq!(whole.missing, [""; 0]);
    assert_eq!(whole.parts.len(), 4);
    let unet = survey(|name| name.starts_with("model.diffusion_model."));
    assert_eq!(unet.family.as_deref(), Some("Stable Diffusion XL"));
    let parts: Vec<_> = unet.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(parts, ["unet"]);
    let lacks = |words: &str| unet.missing.iter().any(|missing| missing.contains(words));
    assert!(lacks("no text encoder (conditioner.embedders.0.transformer.…)"), "{:?}", unet.missing);
    assert!(lacks("no text encoder (conditioner.embedders.1.model.…)"), "{:?}", unet.missing);
    assert!(lacks("no VAE") && unet.missing.len() == 3, "{:?}", unet.missing);
    let holed = survey(|name| !name.contains("middle_block.1.transformer_blocks.3."));
    assert!(
        matches!(&*holed.missing, [one] if one.starts_with("20 of the ") && one.contains("mid_block.attentions.0")),
        "{:?}",
        holed.missing
    );
    let alone = SingleFile::of(Arc::new({
        let mut names = Names::of(&Manifest::open("true_sd1"));
        names.0.retain(|name, _| name.starts_with("model.diffusion_model."));
        names
    }));
    let error =
        Model::load(&alone.expect("a model"), LoadOptions::new("x", 1 << 20)).err().expect("no texts");
    assert_eq!(error.kind(), LoadErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("no text encoder"), "{error}");
}

#[test]
fn a_survey_reads_no_weights() {
    /// A source whose tensors are there and cannot be read.
    struct Unread(Names);
    impl WeightSource for Unread {
        fn label(&self) -> String {
            self.0.label()
        }

        fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
            self.0.tensors()
        }

        fn read(&self, name: &str) -> Result<Vec<f32>, LoadError> {
            Err(LoadError::new(LoadErrorKind::Malformed, format!("{name} was read")))
        }

        fn hash_into(&self, _: &mut sha2::Sha256) -> Result<(), LoadError> {
            Ok(())
        }
    }
    let source = Unread(Names::of(&Manifest::open("true_sd1")));
    let survey = Model::survey(&SingleFile::of(Arc::new(source)).expect("a model")).expect("a survey");
    assert_eq!(survey.missing, [""; 0]);
}
