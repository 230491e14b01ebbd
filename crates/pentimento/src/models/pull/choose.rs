//! Which of a repository's files a model needs: a diffusers folder's, or one checkpoint.
//!
//! Never pickled ones, and of several forms of the same weights only one: the plain file before shards, both before
//! variants (`fp16`), unless a variant is asked for.

use super::hub::RemoteFile;
use anyhow::{Result, bail};
use std::collections::BTreeSet;

/// What a repository holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A folder in diffusers layout.
    Folder(Vec<RemoteFile>),
    /// One file in another layout.
    File(RemoteFile),
}

/// Small files of a model, by their names; `*` stands for `.json` files' beginnings in [`is_small`].
const TOKENIZER: [&str; 5] =
    ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Parts of a model that have weights, with the stem of their files' names.
const PARTS: [(&str, &str); 7] = [
    ("text_encoder", "model"),
    ("text_encoder_2", "model"),
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
    ("safety_checker", "model"),
    ("image_encoder", "model"),
    ("controlnet", "diffusion_pytorch_model"),
];

/// Endings of files that hold pickled objects, whose reading would run their code.
const PICKLES: [&str; 5] = [".bin", ".ckpt", ".pt", ".pth", ".pkl"];

/// Chooses what to fetch: `file` names a checkpoint, `variant` the form of a folder's weights.
///
/// # Errors
/// When there is nothing to fetch, or a choice to make; the message lists it.
pub(super) fn choose(files: &[RemoteFile], file: Option<&str>, variant: Option<&str>) -> Result<Wanted> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    if let Some(wanted) = file {
        return match find(wanted) {
            Some(_) if !is_checkpoint(wanted) => {
                bail!("{wanted} is no .safetensors or .gguf file, and nothing else is fetched")
            }
            Some(file) => Ok(Wanted::File(file.clone())),
            None => bail!("there is no file {wanted}; {}", offered(files)),
        };
    }
    if find("model_index.json").is_some() {
        return Ok(Wanted::Folder(folder(files, variant)?));
    }
    let checkpoints: Vec<_> =
        files.iter().filter(|file| is_checkpoint(&file.path) && !file.path.contains('/')).collect();
    match checkpoints.as_slice() {
        [only] => Ok(Wanted::File((*only).clone())),
        [] => bail!("it holds no model in diffusers layout; {}", offered(files)),
        _ => bail!("it holds several checkpoints: name one with --file; {}", offered(files)),
    }
}

fn folder(files: &[RemoteFile], variant: Option<&str>) -> Result<Vec<RemoteFile>> {
    let mut wanted = BTreeSet::new();
    for file in files.iter().filter(|file| is_small(&file.path)) {
        wanted.insert(file.path.as_str());
    }
    for (part, stem) in PARTS {
        let names: Vec<&str> = files
            .iter()
            .filter_map(|file| file.path.strip_prefix(part)?.strip_prefix('/'))
            .filter(|name| !name.contains('/'))
            .collect();
        // A folder without a configuration is none of the model's parts.
        if !names.contains(&"config.json") {
            continue;
        }
        match weights(&names, stem, variant) {
            Some(chosen) => wanted.extend(files.iter().map(|file| file.path.as_str()).filter(|path| {
                path.strip_prefix(part)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .is_some_and(|name| chosen.contains(&name))
            })),
            None => bail!(no_weights(part, &names, variant)),
        }
    }
    Ok(files.iter().filter(|file| wanted.contains(file.path.as_str())).cloned().collect())
}

/// The names that make up a part's weights.
fn weights<'a>(names: &[&'a str], stem: &str, variant: Option<&str>) -> Option<Vec<&'a str>> {
    if let Some(variant) = variant {
        return form(names, stem, &format!(".{variant}"));
    }
    if let Some(plain) = form(names, stem, "") {
        return Some(plain);
    }
    let mut variants: Vec<_> = names
        .iter()
        .filter_map(|name| name.strip_prefix(stem)?.strip_prefix('.')?.split(['.', '-']).next())
        .filter(|variant| *variant != "safetensors")
        .collect();
    variants.sort_unstable();
    variants.into_iter().find_map(|variant| form(names, stem, &format!(".{variant}")))
}

/// The names of one form: a whole file, or shards with their index.
fn form<'a>(names: &[&'a str], stem: &str, variant: &str) -> Option<Vec<&'a str>> {
    let whole = format!("{stem}{variant}.safetensors");
    if let Some(name) = names.iter().find(|name| **name == whole) {
        return Some(vec![name]);
    }
    // diffusers: stem.safetensors.index.fp16.json; transformers: stem.fp16.safetensors.index.json
    let indices = [
        format!("{stem}{variant}.safetensors.index.json"),
        format!("{stem}.safetensors.index{variant}.json"),
    ];
    let index = names.iter().find(|name| indices.iter().any(|index| index == *name))?;
    // stem-00001-of-00002.fp16.safetensors, or stem.fp16-00001-of-00002.safetensors
    let shard = |name: &&&str| {
        let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors"));
        rest.is_some_and(|rest| {
            let numbers =
                rest.strip_prefix(variant).or_else(|| rest.strip_suffix(variant)).unwrap_or_default();
            numbers.starts_with('-') && numbers.contains("-of-") && !numbers.contains('.')
        })
    };
    Some(names.iter().filter(shard).copied().chain([*index]).collect())
}

fn no_weights(part: &str, names: &[&str], variant: Option<&str>) -> String {
    let pickle = names.iter().find(|name| PICKLES.iter().any(|ending| name.ends_with(ending)));
    match (variant, pickle) {
        (Some(variant), _) => format!("{part} has no safetensors weights of the variant {variant}"),
        (None, Some(pickle)) => {
            format!(
                "{part}/{pickle} is a pickle file, which can run code when it is read, and there is no other form of it"
            )
        }
        (None, None) => format!("{part} has no safetensors weights"),
    }
}

/// Whether a path is one of a folder's configurations and vocabularies.
fn is_small(path: &str) -> bool {
    let Some((folder, name)) = path.split_once('/') else { return path == "model_index.json" };
    match folder {
        "scheduler" => name == "scheduler_config.json",
        "feature_extractor" => name == "preprocessor_config.json",
        "tokenizer" | "tokenizer_2" => TOKENIZER.contains(&name),
        _ => name == "config.json" && PARTS.iter().any(|(part, _)| *part == folder),
    }
}

fn is_checkpoint(path: &str) -> bool {
    [".safetensors", ".gguf"].iter().any(|ending| path.ends_with(ending))
}

/// The checkpoints to choose from, for messages; or that there are only pickled ones.
fn offered(files: &[RemoteFile]) -> String {
    let paths: Vec<&str> =
        files.iter().map(|file| file.path.as_str()).filter(|path| is_checkpoint(path)).collect();
    let pickled = files.iter().find(|file| PICKLES.iter().any(|ending| file.path.ends_with(ending)));
    match (paths.is_empty(), pickled) {
        (false, _) => format!("it has {}", paths.join(", ")),
        (true, Some(pickle)) => {
            format!("{} is a pickle file, which can run code when it is read", pickle.path)
        }
        (true, None) => "it has no .safetensors or .gguf file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(paths: &[&str]) -> Vec<RemoteFile> {
        paths.iter().map(|path| RemoteFile { path: (*path).to_owned(), size: None, hash: None }).collect()
    }

    fn chosen(paths: &[&str], variant: Option<&str>) -> Vec<String> {
        match choose(&remote(paths), None, variant).expect("there is a model") {
            Wanted::Folder(files) => files.into_iter().map(|file| file.path).collect(),
            Wanted::File(file) => vec![file.path],
        }
    }

    fn refusal(paths: &[&str], file: Option<&str>, variant: Option<&str>) -> String {
        choose(&remote(paths), file, variant).expect_err("nothing to fetch").to_string()
    }

    const SD15: [&str; 16] = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ];

    #[test]
    fn of_a_folder_only_one_form_of_the_weights_is_taken() {
        let small = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        ];
        let expect = |rest: [&'static str; 4]| [small, rest].concat();
        let plain = [
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ];
        assert_eq!(chosen(&SD15, None), expect(plain));
        let half = [
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(chosen(&SD15, Some("fp16")), expect(half));
        assert!(refusal(&SD15, None, Some("bf16")).contains("bf16"));
    }

    #[test]
    fn shards_come_with_their_index_and_a_lone_variant_is_taken() {
        let paths = [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(chosen(&paths, None), [&paths[..4], &paths[5..6], &paths[7..]].concat());
        assert_eq!(chosen(&paths, Some("fp16")), [&paths[..2], &paths[4..5], &paths[6..]].concat());
    }

    #[test]
    fn pickles_are_never_taken() {
        let paths = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"];
        assert!(refusal(&paths, None, None).contains("pickle"));
        assert!(refusal(&["a.ckpt"], None, None).contains("pickle"));
        assert!(refusal(&SD15, Some("v1-5-pruned.ckpt"), None).contains(".safetensors or .gguf"));
    }

    #[test]
    fn of_several_checkpoints_one_has_to_be_named() {
        let two = ["a-q8_0.gguf", "b.safetensors", "README.md"];
        let message = refusal(&two, None, None);
        assert!(message.contains("--file") && message.contains("a-q8_0.gguf, b.safetensors"), "{message}");
        let named = choose(&remote(&two), Some("a-q8_0.gguf"), None).expect("it is there");
        assert!(matches!(named, Wanted::File(file) if file.path == "a-q8_0.gguf"));
        assert_eq!(chosen(&["only.gguf", "x/other.gguf"], None), ["only.gguf"]);
        assert!(refusal(&two, Some("c.gguf"), None).contains("no file c.gguf"));
        assert!(refusal(&["README.md"], None, None).contains("no model"));
    }
}
