//! What is told of a model that lacks something, and what is not converted.

use crate::{copy, copy_tree, goldens, precision::rewrite};
use pentimento_diffusion::{Folder, LoadErrorKind, Model, Precision, StoredAs, Survey, convert};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{fs, path::Path};

fn survey(folder: &Path) -> Survey {
    Model::survey(&Folder::new(folder)).expect("a survey")
}

#[test]
fn a_whole_model_lacks_nothing() {
    let folder = copy();
    let Survey { family, native_size, prediction, scheduler, parts, companions: _, missing } =
        survey(folder.path());
    assert_eq!(missing, [""; 0]);
    assert_eq!((family.as_deref(), prediction.as_deref()), (Some("Stable Diffusion 1.x"), Some("epsilon")));
    assert!(native_size.is_some() && scheduler.is_some() && parts.len() == 3);
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let folder = copy();
    let gone = [
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    for file in gone {
        fs::remove_file(folder.path().join(file)).expect("it was there");
    }
    let Survey { family, native_size, prediction, scheduler, parts, companions: _, missing } =
        survey(folder.path());
    for file in gone {
        let told = missing.iter().filter(|missing| missing.contains(file) && missing.ends_with("is missing"));
        assert_eq!(told.count(), 1, "{file}: {missing:?}");
    }
    assert_eq!(missing.len(), gone.len(), "{missing:?}");
    assert_eq!(family.as_deref(), Some("Stable Diffusion 1.x"), "the rest is told all the same");
    assert!(native_size.is_some() && prediction.is_none() && scheduler.is_none());
    assert_eq!(parts.len(), 2);
}

#[test]
fn absent_and_misshapen_tensors_are_told_by_name_and_number() {
    let folder = copy();
    rewrite(&folder.path().join("vae/diffusion_pytorch_model.safetensors"), |tensors| {
        let before = tensors.len();
        tensors.retain(|name, _| !name.starts_with("decoder.mid_block."));
        assert!(tensors.len() + 5 < before);
    });
    rewrite(&folder.path().join("unet/diffusion_pytorch_model.safetensors"), |tensors| {
        let (values, shape) = tensors.get_mut("conv_out.bias").expect("a tensor");
        values.push(0.0);
        shape[0] += 1;
    });
    let missing = survey(folder.path()).missing;
    let (vae, unet) = (&missing[1], &missing[0]);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        vae.contains("vae/config.json") && vae.contains("decoder.mid_block.") && vae.ends_with(", …"),
        "{vae}"
    );
    assert!(vae.contains(" of the ") && vae.contains("are missing"), "{vae}");
    assert!(unet.contains("'conv_out.bias' has shape [5], expected [4]"), "{unet}");
}

#[test]
fn a_folder_that_is_no_model_is_told_for_what_it_is() {
    let folder = copy();
    let message = |folder: &Path| Model::survey(&Folder::new(folder)).expect_err("no model").to_string();
    let unet = message(&folder.path().join("unet"));
    assert!(unet.contains("model_index.json is missing") && unet.contains("one part"), "{unet}");
    fs::write(folder.path().join("dreamy.safetensors"), b"").expect("a file");
    fs::remove_file(folder.path().join("model_index.json")).expect("it was there");
    let file = message(folder.path());
    assert!(file.contains("dreamy.safetensors") && file.contains("name it"), "{file}");
}

#[test]
fn a_checker_counts_in_f32() {
    let folder = copy();
    fs::create_dir(folder.path().join("safety_checker")).expect("a folder");
    copy_tree(&goldens("models/tiny-checked/safety_checker"), &folder.path().join("safety_checker"));
    let summary = Model::inspect(&Folder::new(folder.path())).expect("a summary");
    assert_eq!(summary.parts.len(), 4);
    for part in &summary.parts {
        let each = if part.name == "safety_checker" { 4 } else { 2 };
        assert_eq!(part.memory(Precision::Bf16), each * part.parameters, "{}", part.name);
        assert_eq!(part.memory(Precision::F32), 4 * part.parameters, "{}", part.name);
    }
}

#[test]
fn counts_in_older_files_are_no_weights_and_do_not_stop_a_conversion() {
    let folder = copy();
    let path = folder.path().join("text_encoder/model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let stored = SafeTensors::deserialize(&bytes).expect("safetensors");
    let counts: Vec<u8> = (0..77i64).flat_map(i64::to_le_bytes).collect();
    let counts = TensorView::new(Dtype::I64, vec![1, 77], &counts).expect("a tensor");
    let name = "text_model.embeddings.position_ids".to_owned();
    let tensors = stored.tensors().into_iter().chain([(name, counts)]);
    let written = safetensors::serialize(tensors, None).expect("safetensors");
    fs::write(&path, written).expect("a file");
    for stored_as in [None, Some(StoredAs::F32)] {
        let out = tempfile::tempdir().expect("a folder");
        convert(&Folder::new(folder.path()), out.path(), stored_as).expect("it is converted");
        assert_eq!(survey(out.path()).missing, [""; 0]);
    }
}

#[test]
fn a_value_that_f16_cannot_hold_is_not_converted_to_it() {
    let folder = copy();
    rewrite(&folder.path().join("unet/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.get_mut("conv_in.weight").expect("a tensor").0[7] = -65520.0;
    });
    let into = |stored_as| {
        let out = tempfile::tempdir().expect("a folder");
        convert(&Folder::new(folder.path()), out.path(), stored_as)
    };
    let error = into(Some(StoredAs::F16)).expect_err("it does not fit");
    assert_eq!(error.kind(), LoadErrorKind::Unsupported);
    let message = error.to_string();
    assert!(message.contains("'conv_in.weight'") && message.contains("-65520"), "{message}");
    for stored_as in [None, Some(StoredAs::F32), Some(StoredAs::Bf16)] {
        into(stored_as).expect("these hold it");
    }
    rewrite(&folder.path().join("unet/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.get_mut("conv_in.weight").expect("a tensor").0[7] = 65504.0;
    });
    into(Some(StoredAs::F16)).expect("the largest that f16 holds");
}
