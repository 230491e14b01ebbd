//! Pictures from the embedded model. Two steps are enough to see that everything is connected.

use crate::program::{Folder, LIMITS, picture, program, repository, run, run_with};
use pentimento_imaging::{Format, MaskSource, decode, encode, mask, read_receipt, sniff};
use pentimento_request::{Channels, Picture, Size};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    process::{Command, Stdio},
};

/// The precision is said, since the fastest one is measured, and a busy machine may measure otherwise the
/// next time.
const TEXT: [&str; 9] =
    ["generate", "--prompt", "a red apple, 3d model", "--steps", "2", "--seed", "7", "--dtype", "f32"];

fn receipt_of(path: &str) -> Value {
    read_receipt(&fs::read(path).expect("the picture is there")).expect("it holds a receipt")
}

#[test]
fn a_picture_comes_with_its_receipt_and_the_same_seed_brings_it_again() {
    let folder = Folder::new();
    let (one, two) = (folder.path("one.png"), folder.path("two.png"));
    run(&[&TEXT[..], &["--out", &one, "--threads", "1"]].concat()).ended_well();
    run(&[&TEXT[..], &["--out", &two, "--threads", "2"]].concat()).ended_well();
    assert_eq!(picture(&one).size().to_string(), "128x128");
    assert!(picture(&one) == picture(&two), "the number of threads changes nothing");
    let receipt = receipt_of(&one);
    assert_eq!((&receipt["seed"], &receipt["steps"]), (&7.into(), &2.into()));
    assert_eq!(receipt["prompts"][0]["text"], "a red apple, 3d model");
    assert_eq!(receipt["timings"][0]["stage"], "load");
    assert_eq!(receipt["model"], "default");
    assert_eq!(folder.names().len(), 2, "nothing is left beside the pictures");
}

#[test]
fn a_vae_from_a_file_takes_the_place_of_the_models() {
    let folder = Folder::new();
    let [plain, same, other] = ["plain.png", "same.png", "other.png"].map(|name| folder.path(name));
    let own = repository("models/default/vae/diffusion_pytorch_model.safetensors").display().to_string();
    let unet = repository("models/default/unet/diffusion_pytorch_model.safetensors").display().to_string();
    run(&[&TEXT[..], &["--out", &plain]].concat()).ended_well();
    run(&[&TEXT[..], &["--out", &same, "--vae", &own]].concat()).ended_well();
    assert!(picture(&plain) == picture(&same));
    let refused = run(&[&TEXT[..], &["--out", &other, "--vae", &unet]].concat());
    refused.is_an_error(1, &["diffusion_pytorch_model.safetensors", "holds no VAE"]);
}

#[test]
fn without_a_seed_every_picture_is_another() {
    let folder = Folder::new();
    let seeds = ["a.png", "b.png"].map(|name| {
        let out = folder.path(name);
        run(&["generate", "--prompt", "x", "--steps", "1", "--size", "64x64", "--out", &out]).ended_well();
        receipt_of(&out)["seed"].as_u64().expect("a number")
    });
    assert!(
        seeds[0] != seeds[1] && seeds.iter().all(|seed| (1..=u64::from(u32::MAX)).contains(seed)),
        "{seeds:?}"
    );
}

#[test]
fn receipts_previews_and_formats_go_where_they_are_sent() {
    let folder = Folder::new();
    let [out, receipt, preview] = ["out.jpg", "receipt.json", "preview.png"].map(|name| folder.path(name));
    let options = ["--out", &out, "--receipt", &receipt, "--preview", &preview, "--json", "--size", "64x128"];
    let outcome = run(&[&TEXT[..], &options].concat()).ended_well();
    let printed: Value = serde_json::from_str(outcome.text()).expect("one JSON object");
    assert_eq!(outcome.text().lines().count(), 1);
    let saved: Value = serde_json::from_slice(&fs::read(&receipt).expect("it is there")).expect("it is JSON");
    assert_eq!(printed, saved);
    assert_eq!(saved["size"]["height"], 128);
    assert_eq!(sniff(&fs::read(&out).expect("it is there")), Some(Format::Jpeg));
    assert_eq!(picture(&preview).size().to_string(), "64x128");
}

#[test]
fn standard_streams_carry_pictures_and_nothing_else() {
    let small = encode(&flat(48, 40), Format::Png, None).expect("it is encoded");
    let words =
        ["generate", "--prompt", "x", "--steps", "2", "--init", "-", "--strength", "0.5", "--out", "-"];
    let outcome = run_with(&words, &small).ended_well();
    assert_eq!(decode(&outcome.stdout, &LIMITS).expect("a picture").size().to_string(), "48x40");
    let outcome = run_with(&[&words[..], &["--json"]].concat(), &small);
    let receipt: Value = serde_json::from_str(&outcome.stderr).expect("the receipt goes to standard error");
    assert_eq!(receipt["task"], "image-to-image");
    assert!(decode(&outcome.stdout, &LIMITS).is_ok());
}

#[test]
fn only_what_the_mask_covers_changes() {
    let folder = Folder::new();
    let out = folder.path("out.png");
    let [scene, painted] =
        ["examples/scene.png", "examples/mask.png"].map(|path| repository(path).display().to_string());
    let options =
        ["--prompt", "a strawberry", "--init", &scene, "--mask", &painted, "--steps", "2", "--out", &out];
    run(&[&["generate"], &options[..]].concat()).ended_well();
    let mask = mask::from_picture(&picture(&painted), MaskSource::White).expect("a mask");
    assert_kept_outside(&picture(&scene), &picture(&out), mask.values());
    let receipt = receipt_of(&out);
    assert_eq!((&receipt["task"], &receipt["steps_run"]), (&"repaint".into(), &2.into()));
    assert!(receipt["region"].is_object(), "a scene larger than the model is shown in part");
}

#[test]
fn transparency_can_be_the_mask_and_black_too() {
    let folder = Folder::new();
    let mut picture_with_hole = flat(64, 64);
    let pixels = picture_with_hole.pixels().chunks_exact(3).enumerate().flat_map(|(index, pixel)| {
        let opacity = if index % 64 < 32 { 0 } else { 255 };
        [pixel[0], pixel[1], pixel[2], opacity]
    });
    picture_with_hole = Picture::new(size(64, 64), Channels::Rgba, pixels.collect()).expect("a picture");
    let init = folder.write("hole.png", &encode(&picture_with_hole, Format::Png, None).expect("encoded"));
    let black =
        Picture::new(size(64, 64), Channels::Rgb, [[0; 96], [255; 96]].concat().repeat(64)).expect("a mask");
    let black = folder.write("black.png", &encode(&black, Format::Png, None).expect("encoded"));
    let generate = |options: &[&str]| {
        let out = folder.path("out.png");
        let words = ["generate", "--prompt", "x", "--steps", "2", "--seed", "1", "--dtype", "f32"];
        let words = [&words[..], &["--init", &init, "--out", &out]].concat();
        run(&[&words[..], options].concat()).ended_well();
        picture(&out)
    };
    let by_alpha = generate(&["--mask-source", "alpha"]);
    let by_black = generate(&["--mask", &black, "--mask-source", "black"]);
    let colours = |picture: &Picture| -> Vec<[u8; 3]> {
        let count = picture.channels().count();
        picture.pixels().chunks_exact(count).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    };
    let kept = |picture: &Picture| -> Vec<[u8; 3]> {
        colours(picture)
            .into_iter()
            .enumerate()
            .filter(|(index, _)| index % 64 >= 32)
            .map(|(_, pixel)| pixel)
            .collect()
    };
    assert!(kept(&by_alpha) == kept(&picture_with_hole) && kept(&by_black) == kept(&picture_with_hole));
    assert!(colours(&by_alpha) == colours(&by_black), "both name the same half");
}

/// The previews go to a named pipe, so that the test knows when the first step is done.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_breaks_off_between_steps_and_leaves_no_picture() {
    let folder = Folder::new();
    let (out, previews) = (folder.path("out.png"), folder.path("previews"));
    assert!(Command::new("mkfifo").arg(&previews).status().expect("mkfifo is a program").success());
    // Open for both, so that neither side ever waits for the other to come.
    let mut pipe = fs::OpenOptions::new().read(true).write(true).open(&previews).expect("it is there");
    let child = program()
        .args(["generate", "--prompt", "x", "--steps", "1000", "--preview", &previews, "--out", &out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    pipe.read_exact(&mut [0; 8]).expect("a preview begins");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill is a program").success());
    std::thread::spawn(move || io::copy(&mut pipe, &mut io::sink()));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(output.stderr, b"error: broken off; no picture was written\n");
    assert_eq!(folder.names(), ["previews"]);
}

#[test]
fn raw_is_the_bare_pipeline() {
    let folder = Folder::new();
    let out = folder.path("out.png");
    let init = folder.write("init.png", &encode(&flat(64, 72), Format::Png, None).expect("encoded"));
    let mask =
        Picture::new(size(64, 72), Channels::Rgb, [[0; 96], [255; 96]].concat().repeat(72)).expect("a mask");
    let mask = folder.write("mask.png", &encode(&mask, Format::Png, None).expect("encoded"));
    let words = [
        "generate", "--prompt", "x", "--steps", "2", "--init", &init, "--mask", &mask, "--raw", "--out", &out,
    ];
    run(&words).ended_well();
    let receipt = receipt_of(&out);
    assert_eq!((&receipt["worked_at"], &receipt["region"]), (&receipt["size"], &Value::Null));
    assert!(picture(&out).pixels() != picture(&init).pixels());
}

/// Fails unless every byte is kept where the mask is 0, and most are not where it is 255.
fn assert_kept_outside(before: &Picture, after: &Picture, mask: &[u8]) {
    assert_eq!(before.size(), after.size());
    let pairs = before.pixels().chunks_exact(3).zip(after.pixels().chunks_exact(after.channels().count()));
    let (mut painted, mut changed) = (0, 0);
    for ((before, after), value) in pairs.zip(mask) {
        assert!(*value != 0 || before == &after[..3], "a pixel outside of the mask changed");
        painted += usize::from(*value == 255);
        changed += usize::from(*value == 255 && before != &after[..3]);
    }
    assert!(painted > 0 && changed * 2 > painted, "{changed} of {painted} painted pixels changed");
}

fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).expect("a size")
}

/// A picture of even colour.
fn flat(width: u32, height: u32) -> Picture {
    let pixels = [200, 120, 40].repeat((width * height) as usize);
    Picture::new(size(width, height), Channels::Rgb, pixels).expect("a picture")
}
