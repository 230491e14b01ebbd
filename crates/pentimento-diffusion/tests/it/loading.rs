//! What is said of broken, missing and refused model files.

use crate::{TINY, copy, default_folder, options, requests::text_to_image};
use pentimento_diffusion::{Embedded, Folder, LoadErrorKind, Model, ModelFiles, convert};
use pentimento_request::{Generator, Quiet};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::TempDir;

#[track_caller]
fn assert_refused(folder: &Path, kind: LoadErrorKind, words: &[&str]) {
    let error = match Model::load(&Folder::new(folder), options("broken")) {
        Ok(_) => panic!("a broken model was loaded"),
        Err(error) => error,
    };
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    assert!(!message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

/// Replaces part of a JSON file.
fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).expect("a text");
    assert!(text.contains(from), "{from} is not in {file}");
    fs::write(path, text.replacen(from, to, 1)).expect("a file");
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn every_missing_file_is_named() {
    for file in [
        "model_index.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        UNET,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ] {
        let folder = copy();
        fs::remove_file(folder.path().join(file)).expect("a file");
        assert_refused(folder.path(), LoadErrorKind::Missing, &[file, "missing"]);
    }
}

/// A folder whose tokenizer is in one file; merges as pairs, or as texts as older versions wrote them.
fn with_one_tokenizer_file(pairs: bool) -> TempDir {
    let folder = copy();
    let path = |name: &str| folder.path().join("tokenizer").join(name);
    let vocabulary: Value =
        serde_json::from_slice(&fs::read(path("vocab.json")).expect("a vocabulary")).expect("JSON");
    let merges = fs::read_to_string(path("merges.txt")).expect("merges");
    let merges = merges.lines().filter(|line| !line.starts_with("#version"));
    let merges: Vec<Value> =
        merges.map(|line| if pairs { json!(line.split_once(' ')) } else { json!(line) }).collect();
    let model = json!({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges});
    fs::write(path("tokenizer.json"), json!({"version": "1.0", "model": model}).to_string()).expect("a file");
    for name in ["vocab.json", "merges.txt"] {
        fs::remove_file(path(name)).expect("it was there");
    }
    folder
}

#[test]
fn a_tokenizer_in_one_file_gives_the_same_picture() {
    let expected = TINY.generate(&text_to_image(&[("a cat", 1.0)]), &mut Quiet).expect("a picture").picture;
    for pairs in [true, false] {
        let folder = with_one_tokenizer_file(pairs);
        let files = Folder::new(folder.path());
        assert_eq!(Model::survey(&files).expect("a survey").missing, [""; 0]);
        let model = Model::load(&files, options("tiny")).expect("a model");
        assert!(
            model.generate(&text_to_image(&[("a cat", 1.0)]), &mut Quiet).expect("a picture").picture
                == expected
        );
        let written = tempfile::tempdir().expect("a folder");
        convert(&files, written.path(), None).expect("a copy");
        Model::load(&Folder::new(written.path()), options("tiny")).expect("its tokenizer came along");
    }
}

#[test]
fn a_tokenizer_of_another_kind_or_without_bounds_is_refused() {
    let folder = with_one_tokenizer_file(true);
    let file = "tokenizer/tokenizer.json";
    edit(folder.path(), file, "\"BPE\"", "\"Unigram\"");
    assert_refused(folder.path(), LoadErrorKind::Unsupported, &[file, "CLIP", "Unigram"]);
    edit(folder.path(), file, "\"Unigram\"", "\"BPE\"");
    let strange =
        "\"added_tokens\": [{\"id\": 9999, \"content\": \"new\", \"special\": true, \"normalized\": false,
        \"single_word\": false, \"lstrip\": false, \"rstrip\": false}], \"model\":";
    edit(folder.path(), file, "\"model\":", strange);
    assert_refused(folder.path(), LoadErrorKind::Malformed, &[file, "'new'", "9999"]);
    let long = fs::File::options().write(true).open(folder.path().join(file)).expect("a file");
    long.set_len(65 << 20).expect("a long file");
    assert_refused(folder.path(), LoadErrorKind::Malformed, &[file, "bytes", "at most"]);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    assert_refused(Path::new("/no/such/model"), LoadErrorKind::Missing, &["/no/such/model/model_index.json"]);
}

#[test]
fn a_weight_file_cut_anywhere_is_refused() {
    let folder = copy();
    let path = folder.path().join(UNET);
    let whole = fs::read(&path).expect("weights");
    for length in [0, 1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("a file");
        assert_refused(folder.path(), LoadErrorKind::Malformed, &[UNET, "cut off"]);
    }
    let longer = [whole.as_slice(), &[0; 5]].concat();
    fs::write(&path, longer).expect("a file");
    assert_refused(folder.path(), LoadErrorKind::Malformed, &[UNET]);
}

#[test]
fn a_header_that_lies_is_refused() {
    let folder = copy();
    let path = folder.path().join(UNET);
    let mut bytes = fs::read(&path).expect("weights");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, bytes).expect("a file");
    assert_refused(folder.path(), LoadErrorKind::Malformed, &[UNET]);
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let folder = copy();
    edit(folder.path(), "unet/config.json", "\"cross_attention_dim\": 32", "\"cross_attention_dim\": 48");
    edit(folder.path(), "text_encoder/config.json", "\"hidden_size\": 32", "\"hidden_size\": 48");
    let words = ["text_encoder/model.safetensors", "layer_norm1.weight", "has shape [32], expected [48]"];
    assert_refused(folder.path(), LoadErrorKind::Tensor, &words);
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = copy();
    edit(folder.path(), "unet/config.json", "\"layers_per_block\": 1", "\"layers_per_block\": 2");
    let words = [UNET, "down_blocks.0.resnets.1", "missing"];
    assert_refused(folder.path(), LoadErrorKind::Tensor, &words);
}

#[test]
fn parts_that_do_not_fit_one_another_are_refused() {
    let folder = copy();
    edit(folder.path(), "unet/config.json", "\"cross_attention_dim\": 32", "\"cross_attention_dim\": 48");
    assert_refused(folder.path(), LoadErrorKind::Malformed, &["unet/config.json", "cross_attention_dim"]);
}

#[test]
fn pickles_are_refused_by_name() {
    let folder = copy();
    let name = "unet/diffusion_pytorch_model.bin";
    fs::rename(folder.path().join(UNET), folder.path().join(name)).expect("a file");
    assert_refused(folder.path(), LoadErrorKind::Unsupported, &[name, "pickle"]);
}

#[test]
fn settings_that_would_change_the_picture_are_refused_by_name() {
    for (file, from, to, word) in [
        ("unet/config.json", "\"act_fn\": \"silu\"", "\"act_fn\": \"mish\"", "act_fn"),
        ("unet/config.json", "\"in_channels\": 4", "\"in_channels\": 5", "in_channels"),
        (
            "unet/config.json",
            "\"class_embed_type\": null",
            "\"class_embed_type\": \"timestep\"",
            "class_embed_type",
        ),
        (
            "unet/config.json",
            "\"layers_per_block\": 1",
            "\"layers_per_block\": 1000000000000",
            "layers_per_block",
        ),
        (
            "unet/config.json",
            "\"resnet_skip_time_act\": false",
            "\"resnet_skip_time_act\": true",
            "resnet_skip_time_act",
        ),
        (
            "unet/config.json",
            "\"downsample_padding\": 1",
            "\"downsample_padding\": 1000000000000",
            "downsample_padding",
        ),
        ("vae/config.json", "\"act_fn\": \"silu\"", "\"act_fn\": \"relu\"", "act_fn"),
        ("scheduler/scheduler_config.json", "\"epsilon\"", "\"sample\"", "prediction_type"),
        ("scheduler/scheduler_config.json", "\"scaled_linear\"", "\"sigmoid\"", "beta_schedule"),
        ("scheduler/scheduler_config.json", "\"leading\"", "\"sideways\"", "timestep_spacing"),
        ("model_index.json", "\"StableDiffusionPipeline\"", "\"StableDiffusion3Pipeline\"", "_class_name"),
        (
            "model_index.json",
            "\"StableDiffusionPipeline\"",
            "\"StableDiffusionXLPipeline\"",
            "text_encoder_2",
        ),
        (
            "model_index.json",
            "\"StableDiffusionPipeline\"",
            "\"StableDiffusionXLImg2ImgPipeline\", \"requires_aesthetics_score\": true",
            "refiner",
        ),
    ] {
        let folder = copy();
        edit(folder.path(), file, from, to);
        assert_refused(folder.path(), LoadErrorKind::Unsupported, &[file, word]);
    }
}

#[test]
fn the_plain_file_is_meant_where_a_variant_lies_beside_it() {
    let folder = copy();
    let variant = "unet/diffusion_pytorch_model.fp16.safetensors";
    fs::write(folder.path().join(variant), b"not weights").expect("a file");
    assert!(Model::load(&Folder::new(folder.path()), options("plain")).is_ok());
    // Alone, the variant is what there is.
    fs::rename(folder.path().join(UNET), folder.path().join(variant)).expect("a file");
    assert!(Model::load(&Folder::new(folder.path()), options("variant")).is_ok());
}

#[test]
fn noise_that_does_not_rise_is_refused() {
    for (from, to) in [("0.00085", "0.0"), ("0.012", "0.99")] {
        let folder = copy();
        edit(folder.path(), "scheduler/scheduler_config.json", from, to);
        assert_refused(folder.path(), LoadErrorKind::Malformed, &["scheduler_config.json", "beta_start"]);
    }
}

#[test]
fn a_shard_outside_the_folder_is_refused() {
    let folder = copy();
    fs::remove_file(folder.path().join(UNET)).expect("a file");
    let index =
        r#"{"metadata": {}, "weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}"#;
    fs::write(folder.path().join(format!("{UNET}.index.json")), index).expect("a file");
    assert_refused(folder.path(), LoadErrorKind::Malformed, &["outside"]);
}

#[test]
fn inspection_counts_what_is_there() {
    let summary = Model::inspect(&Folder::new(default_folder())).expect("a summary");
    assert_eq!(summary.native_size.to_string(), "128x128");
    assert_eq!(summary.prediction, "v_prediction");
    let parts: Vec<_> = summary.parts.iter().map(|part| (part.name.as_str(), part.parameters)).collect();
    assert_eq!(parts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["text_encoder", "unet", "vae"]);
    assert!(parts.iter().all(|(_, parameters)| (1_000_000..20_000_000).contains(parameters)), "{parts:?}");
}

#[test]
fn embedded_files_are_listed_by_folder() {
    static FILES: [(&str, &[u8]); 3] = [("a/x", b"1"), ("a/b/y", b"2"), ("z", b"3")];
    let files = Embedded(&FILES);
    assert_eq!(files.list("a").expect("names"), ["x"]);
    assert_eq!(files.read("a/b/y").expect("bytes").as_deref(), Some(b"2".as_slice()));
    assert!(files.read("a/nothing").expect("bytes").is_none());
}
