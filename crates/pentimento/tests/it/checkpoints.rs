//! Checkpoints in one file, quantised or not, as people have them: inspected, verified, converted and drawn with.

#[expect(dead_code, reason = "the engine's tests need more of it")]
#[path = "../../../pentimento-diffusion/src/goldens/manifest.rs"]
mod manifest;

use crate::program::{Folder, picture, run};
use manifest::{Manifest, Tensors, write_f16};
use pentimento_request::Picture;
use std::path::Path;

/// ggml's types.
const F16: u32 = 1;
const Q8_0: u32 = 8;

/// What stands between a GGUF file's tensors.
const ALIGNMENT: usize = 32;

fn draw(folder: &Folder, model: &str) -> Picture {
    let out = folder.path("out.png");
    let options = ["--steps", "2", "--seed", "5", "--size", "32x32", "--raw", "--dtype", "f32"];
    let words = ["generate", "-p", "a (cat:1.3)", "-n", "blurry", "--model", model, "--out", &out];
    run(&[&words[..], &options].concat()).ended_well();
    picture(&out)
}

/// Converts a file, and holds the folder to the same picture.
fn assert_converts(folder: &Folder, file: &str, dtype: &str) {
    let target = format!("{file}-{dtype}");
    run(&["models", "convert", file, &target, "--dtype", dtype]).ended_well();
    let inspected = run(&["models", "inspect", &target]).ended_well();
    assert!(inspected.text().contains(&dtype.to_uppercase()), "{}", inspected.text());
    assert!(!inspected.text().contains("cannot be drawn"), "{}", inspected.text());
    run(&["models", "verify", &target]).ended_well();
    let (of_file, of_folder) = (draw(folder, file), draw(folder, &target));
    assert!(of_file == of_folder, "{file} as {dtype}");
    let (lightest, darkest) = (of_file.pixels().iter().max(), of_file.pixels().iter().min());
    assert!(lightest > darkest, "a picture of one colour");
}

#[test]
fn one_file_is_drawn_with_and_becomes_a_folder_with_the_same_picture() {
    let folder = Folder::new();
    for (name, family) in [
        ("sd1", "Stable Diffusion 1.x"),
        ("sd2", "Stable Diffusion 2.x"),
        ("sdxl", "Stable Diffusion XL"),
        ("sd1-inpaint", "inpainting"),
    ] {
        let file = folder.path(&format!("{name}.safetensors"));
        write_f16(Path::new(&file), &Manifest::open(name).file());
        let inspected = run(&["models", "inspect", &file]).ended_well();
        assert!(inspected.text().contains(family), "{}", inspected.text());
        assert_converts(&folder, &file, "f16");
    }
}

#[test]
fn a_gguf_file_is_drawn_with_and_becomes_a_folder_with_the_same_picture() {
    let folder = Folder::new();
    for name in ["sd1", "sdxl"] {
        let tensors = Manifest::open(name).file();
        let file = folder.write(&format!("{name}.gguf"), &gguf(&tensors));
        let inspected = run(&["models", "inspect", &file]).ended_well();
        assert!(inspected.text().contains("Q8_0"), "{}", inspected.text());
        // What a block means need not be a number of f16.
        assert_converts(&folder, &file, "f32");
    }
}

/// The tensors as a GGUF file: matrices whose rows are whole blocks in Q8_0, the others in F16.
fn gguf(tensors: &Tensors) -> Vec<u8> {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend(0u64.to_le_bytes());
    let mut data = Vec::new();
    for (name, (shape, values)) in tensors {
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        let quantised = shape.len() == 2 && shape[1] % 32 == 0;
        head.extend((name.len() as u64).to_le_bytes());
        head.extend(name.as_bytes());
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| head.extend((*side as u64).to_le_bytes()));
        head.extend(if quantised { Q8_0 } else { F16 }.to_le_bytes());
        head.extend((data.len() as u64).to_le_bytes());
        match quantised {
            true => values.as_chunks().0.iter().for_each(|block| quantise(block, &mut data)),
            false => values.iter().for_each(|value| data.extend(value.to_le_bytes())),
        }
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    [head, data].concat()
}

/// A block of Q8_0: a scale, and 32 multiples of it.
fn quantise(block: &[half::f16; 32], data: &mut Vec<u8>) {
    let largest = block.iter().map(|value| value.to_f32().abs()).fold(0.0, f32::max);
    let scale = half::f16::from_f32(largest / 127.0);
    data.extend(scale.to_le_bytes());
    let times = |value: &half::f16| (value.to_f32() / scale.to_f32().max(f32::MIN_POSITIVE)).round() as i8;
    data.extend(block.iter().map(|value| times(value) as u8));
}
