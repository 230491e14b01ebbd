//! Models fetched from a hub that cuts connections, knows no ranges, sends other bytes or asks for a token.

use crate::{
    hub::{COMMIT, Hub, Manners},
    program::{Folder, Outcome, finish, picture, program, repository, run},
};
use std::{fs, path::Path};

/// The embedded model's files and what else lies in repositories.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    let needed = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    let folder = repository("models/default");
    let file = |path: &'static str| (path, fs::read(folder.join(path)).expect("it is there"));
    let other = ["README.md", "unet/diffusion_pytorch_model.bin", "model.ckpt", "images/a.png"];
    needed.into_iter().map(file).chain(other.map(|path| (path, b"not wanted".to_vec()))).collect()
}

fn pull(hub: &Hub, folder: &Folder, words: &[&str], token: Option<&str>) -> Outcome {
    let mut command = program();
    command.args(["models", "pull", "someone/tiny", "--data-dir", &folder.path("")]).args(words);
    command.env("HF_ENDPOINT", &hub.url).envs(token.map(|token| ("HF_TOKEN", token)));
    finish(command, b"")
}

#[test]
fn a_model_is_fetched_through_broken_connections_and_draws() {
    let hub = Hub::start(&model(), Manners { cut_after: Some(2_500_000), cuts: 2, ..Manners::default() });
    let folder = Folder::new();
    let outcome = pull(&hub, &folder, &[], None).ended_well();
    let place = folder.path("models/tiny");
    assert_eq!(outcome.text().trim_end(), place);
    let seen = hub.seen();
    assert!(seen[0].target.contains("/api/models/someone/tiny/revision/main"), "{seen:?}");
    let resumed = seen.iter().filter(|request| request.range.is_some()).count();
    assert_eq!(resumed, 2, "each cut connection is gone on with: {seen:?}");
    for unwanted in ["README", ".bin", ".ckpt", ".png"] {
        assert!(!seen.iter().any(|request| request.target.contains(unwanted)), "{unwanted}");
    }
    assert!(seen[1..].iter().all(|request| request.target.contains(COMMIT)), "{seen:?}");
    for (path, bytes) in model().iter().take(10) {
        assert!(fs::read(Path::new(&place).join(path)).expect("it is there") == *bytes, "{path}");
    }
    assert_eq!(fs::read_dir(folder.path("models")).expect("a folder").count(), 1, "nothing else is left");

    // It is called by its name, and draws what the embedded one draws.
    let (one, other) = (folder.path("one.png"), folder.path("other.png"));
    let draw = |out: &str, options: &[&str]| {
        let words = ["generate", "-p", "x", "--seed", "1", "--steps", "2", "--out", out];
        run(&[&words, options].concat()).ended_well();
    };
    draw(&one, &["--data-dir", &folder.path(""), "--model", "tiny"]);
    draw(&other, &[]);
    assert!(picture(&one).pixels() == picture(&other).pixels());
}

#[test]
fn what_broke_off_goes_on_in_the_next_run() {
    let hub = Hub::start(&model(), Manners { cut_after: Some(0), cuts: usize::MAX, ..Manners::default() });
    let folder = Folder::new();
    pull(&hub, &folder, &[], None).is_an_error(1, &["cannot fetch"]);
    // Every connection gives a piece, and one gives none.
    hub.behave(Manners { cut_after: Some(3_000_000), cuts: 2, ..Manners::default() });
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let hidden = folder.path("models/.pull-tiny/model/unet/diffusion_pytorch_model.safetensors.part");
    assert!(!Path::new(&folder.path("models/tiny")).exists());
    fs::create_dir_all(Path::new(&hidden).parent().expect("it has one")).expect("a folder");
    let whole = fs::read(repository("models/default").join(weights)).expect("it is there");
    fs::write(&hidden, &whole[..4_000_000]).expect("it is written");
    hub.seen();
    pull(&hub, &folder, &[], None).ended_well();
    let seen = hub.seen();
    let first = seen.iter().find(|request| request.target.ends_with(weights)).expect("it is asked for");
    assert_eq!(first.range.as_deref(), Some("bytes=4000000-"));
    assert!(
        fs::read(folder.path("models/tiny/unet/diffusion_pytorch_model.safetensors"))
            .is_ok_and(|bytes| bytes == whole)
    );
}

#[test]
fn a_hub_without_ranges_and_hashes_serves_too() {
    let manners =
        Manners { cut_after: Some(3_000_000), cuts: 1, no_ranges: true, silent: true, ..Manners::default() };
    let hub = Hub::start(&model(), manners);
    let folder = Folder::new();
    let outcome = pull(&hub, &folder, &[], None);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no hash"), "{}", outcome.stderr);
    pull(&hub, &folder, &["--quiet"], None).is_an_error(1, &["is there already", "--force"]);
    pull(&hub, &folder, &["--quiet", "--force"], None).ended_well();
}

#[test]
fn other_bytes_than_promised_never_become_a_model() {
    let wrong = "vae/diffusion_pytorch_model.safetensors";
    let hub = Hub::start(&model(), Manners { wrong: Some(wrong.to_owned()), ..Manners::default() });
    let folder = Folder::new();
    pull(&hub, &folder, &[], None).is_an_error(1, &[wrong, "hash"]);
    assert!(!Path::new(&folder.path("models/tiny")).exists());
    hub.behave(Manners::default());
    pull(&hub, &folder, &[], None).ended_well();
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let store = Hub::start(&model(), Manners::default());
    let token = Some("hf_secret".to_owned());
    let manners = Manners { store: Some(store.url.clone()), token, ..Manners::default() };
    let hub = Hub::start(&model(), manners);
    let folder = Folder::new();
    pull(&hub, &folder, &[], None).is_an_error(1, &["401", "HF_TOKEN"]);
    pull(&hub, &folder, &[], Some("hf_other")).is_an_error(1, &["401", "HF_TOKEN"]);
    hub.seen();
    pull(&hub, &folder, &["--quiet"], Some("hf_secret")).ended_well();
    assert!(hub.seen().iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
    let at_the_store = store.seen();
    assert_eq!(at_the_store.len(), 10);
    assert!(at_the_store.iter().all(|request| request.authorization.is_none()), "{at_the_store:?}");
}

#[test]
fn a_checkpoint_is_named_where_there_are_several() {
    let files = [("a.gguf", b"a".to_vec()), ("b.safetensors", b"b".to_vec()), ("c.ckpt", b"c".to_vec())];
    let hub = Hub::start(&files, Manners::default());
    let folder = Folder::new();
    pull(&hub, &folder, &[], None).is_an_error(1, &["--file", "a.gguf, b.safetensors"]);
    pull(&hub, &folder, &["--file", "c.ckpt"], None).is_an_error(1, &["c.ckpt"]);
    pull(&hub, &folder, &["--file", "a.gguf", "--as", "mine", "--quiet"], None).ended_well();
    assert!(fs::read(folder.path("models/mine.gguf")).is_ok_and(|bytes| bytes == b"a"));
}

#[test]
fn what_names_no_repository_is_refused_before_anything_is_asked() {
    for wrong in ["../x", "a/b/c", "https://x/y", "a b"] {
        run(&["models", "pull", wrong]).is_an_error(2, &[wrong, "OWNER/NAME"]);
    }
    run(&["models", "pull", "a/b", "--as", "../c"]).is_an_error(2, &["--as"]);
    run(&["models", "pull", "a/b", "--revision", "../c"]).is_an_error(2, &["--revision"]);
    let mut command = program();
    command.args(["models", "pull", "a/b"]).env("HF_ENDPOINT", "nowhere");
    finish(command, b"").is_an_error(1, &["HF_ENDPOINT", "nowhere"]);
}
