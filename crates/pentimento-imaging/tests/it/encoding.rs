use crate::fixtures::{Bytes, GENEROUS, prompt, receipt, size};
use pentimento_imaging::{Format, ImageErrorKind, decode, encode, parameters, read_receipt, sniff, to_json};
use pentimento_request::{
    Channels, ClipSkip, NoiseSource, Picture, Receipt, Sampler, Schedule, SolverOptions,
};
use serde_json::json;
use std::io::Cursor;

#[test]
fn lossless_formats_give_back_every_byte() {
    for format in [Format::Png, Format::WebP] {
        for channels in [Channels::Rgb, Channels::Rgba] {
            for (width, height) in [(1, 1), (1, 40), (33, 17)] {
                let picture = Bytes(7).picture(size(width, height), channels);
                let file = encode(&picture, format, Some(&receipt())).expect("it fits");
                assert_eq!(sniff(&file), Some(format));
                let back = decode(&file, &GENEROUS).expect("just written");
                assert!(back == picture, "{format} {picture:?}");
            }
        }
    }
}

#[test]
fn the_same_picture_gives_the_same_bytes() {
    let picture = Bytes(8).picture(size(40, 30), Channels::Rgba);
    for format in Format::ALL {
        assert_eq!(
            encode(&picture, format, Some(&receipt())),
            encode(&picture, format, Some(&receipt())),
            "{format}"
        );
    }
}

#[test]
fn a_jpeg_shows_transparent_parts_white() {
    let pixels = [[10, 20, 30, 0], [10, 20, 30, 0]].concat().repeat(32);
    let picture = Picture::new(size(8, 8), Channels::Rgba, pixels).expect("64 pixels");
    let file = encode(&picture, Format::Jpeg, None).expect("it fits");
    let back = decode(&file, &GENEROUS).expect("just written");
    assert_eq!(back.channels(), Channels::Rgb);
    assert!(back.pixels().iter().all(|&sample| sample >= 254), "{:?}", &back.pixels()[..3]);
}

#[test]
fn every_format_carries_the_receipt() {
    let picture = Bytes(9).picture(size(8, 8), Channels::Rgb);
    for format in Format::ALL {
        let file = encode(&picture, format, Some(&receipt())).expect("it fits");
        assert_eq!(read_receipt(&file), Some(to_json(&receipt())), "{format}");
        let bare = encode(&picture, format, None).expect("it fits");
        assert_eq!(read_receipt(&bare), None, "{format}");
    }
    assert_eq!(read_receipt(b"no picture"), None);
}

#[test]
fn a_receipt_that_no_jpeg_holds_is_left_out() {
    let picture = Bytes(9).picture(size(8, 8), Channels::Rgb);
    // The first is too long only together with its JSON.
    for length in [25_000, 100_000] {
        let long = Receipt { prompts: vec![prompt(&"é".repeat(length), 1.0)], ..receipt() };
        let file = encode(&picture, Format::Jpeg, Some(&long)).expect("it fits");
        assert!(decode(&file, &GENEROUS).is_ok());
        assert_eq!(read_receipt(&file), None);
        assert_eq!(file.windows(8).any(|window| window == b"UNICODE\0"), length == 25_000);
        for format in [Format::Png, Format::WebP] {
            let file = encode(&picture, format, Some(&long)).expect("it fits");
            assert_eq!(read_receipt(&file), Some(to_json(&long)), "{format}");
        }
    }
}

#[test]
fn a_side_of_the_largest_size_fits_or_is_told_the_limit() {
    for (width, format) in [(16_384, Format::Png), (16_384, Format::Jpeg), (16_383, Format::WebP)] {
        let picture = Bytes(1).picture(size(width, 1), Channels::Rgb);
        let file = encode(&picture, format, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(decode(&file, &GENEROUS).expect("just written").size(), picture.size(), "{format}");
    }
    let picture = Bytes(1).picture(size(1, 16_384), Channels::Rgb);
    let error = encode(&picture, Format::WebP, None).expect_err("one pixel too long");
    assert_eq!(error.kind(), ImageErrorKind::Unencodable);
    assert!(error.to_string().contains("16383"), "{error}");
}

#[test]
fn json_says_everything() {
    let expected = json!({
        "engine": "0.1.0",
        "model": "tiny",
        "model_hash": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "task": "image-to-image",
        "prompts": [
            { "text": "a red house", "weight": 1.0, "chunks": [3], "truncated": 0 },
            { "text": "fog", "weight": -1.0, "chunks": [3], "truncated": 0 },
        ],
        "seed": 18_446_744_073_709_551_615_u64,
        "sampler": "K_DPMPP_2M",
        "schedule": "trailing",
        "solver": { "eta": null, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": "inf", "s_noise": 1.0 },
        "noise": "torch-cpu",
        "prompt_syntax": "plain",
        "clip_skip": 1,
        "steps": 20,
        "steps_run": 12,
        "sigmas": ["inf", 1.5, 0.0],
        "guidance_scale": 7.1,
        "guidance_rescale": 0.7,
        "accelerations": { "guidance_interval": { "start": 0.2, "end": 0.8, "guided_steps": 7 },
            "step_cache": { "interval": 3, "branch": 1, "whole_steps": 4 },
            "token_merging": 0.4,
        },
        "strength": 0.6,
        "hires": {
            "scale": 1.5,
            "strength": 0.25,
            "steps": 8,
            "steps_run": 2,
            "sigmas": [2.5, 0.0],
            "worked_at": { "width": 192, "height": 96 },
        },
        "size": { "width": 129, "height": 65 },
        "worked_at": { "width": 128, "height": 64 },
        "region": { "x": 1, "y": 2, "width": 3, "height": 4 },
        "precision": "bf16",
        "filter": "clean",
        "loras": [{
            "name": "style", "hash": "aa", "weight": 0.4, "text_weight": -0.2, "flavours": ["LoRA"],
            "matched": ["unet.conv_in"], "unmatched": ["lora_unet_strange.alpha"],
        }],
        "controls": [{
            "name": "canny", "hash": null, "hint": "edges 100:200", "weight": 0.0, "steps_run": 0,
        }],
        "looks": [{ "name": "faceid", "hash": "bb", "scale": 0.7, "pictures": 1, "faces": [[1, 2, 30, 40]] }],
        "clip_guidance": { "preset": "FAST_BLUE", "strength": 0.1, "steps": [0, 2] },
        "notes": ["decoded again in f32"],
        "pixels_hash": "00ff",
        "timings": [{ "stage": "sample", "seconds": 1.25 }],
        "peak_memory_bytes": 8_589_934_592_u64,
    });
    assert_eq!(to_json(&receipt()), expected);
    let unknown = to_json(&Receipt { region: None, peak_memory: None, ..receipt() });
    assert!(unknown["region"].is_null() && unknown["peak_memory_bytes"].is_null());
}

#[test]
fn parameters_read_as_a1111_writes_them() {
    let hires = parameters(&receipt());
    let expected = "Denoising strength: 0.25, Hires upscale: 1.5, Hires steps: 8, Hires upscaler: Latent, ";
    assert!(hires.contains(expected), "{hires}");
    assert_eq!(
        parameters(&Receipt { hires: None, ..receipt() }),
        "a red house\nNegative prompt: fog\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7.1, \
         Seed: 18446744073709551615, Size: 129x65, Model hash: 0123456789, Model: tiny, \
         Denoising strength: 0.6, RNG: CPU, Version: pentimento 0.1.0"
    );
    let plain = Receipt {
        task: "text-to-image",
        hires: None,
        guidance_scale: 7.0,
        model: "a, b".to_owned(),
        prompts: vec![prompt("sea", 1.0), prompt("sky", 0.5), prompt("nothing", 0.0)],
        ..receipt()
    };
    assert_eq!(
        parameters(&plain),
        "sea :1 AND sky :0.5\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7, \
         Seed: 18446744073709551615, Size: 129x65, Model hash: 0123456789, Model: \"a, b\", \
         RNG: CPU, Version: pentimento 0.1.0"
    );
}

#[test]
fn settings_have_the_names_that_a1111_gives_them() {
    let set = Receipt {
        sampler: Sampler::KHeun,
        schedule: Schedule::Karras,
        clip_skip: ClipSkip::new(2).expect("a layer"),
        noise: NoiseSource::Philox,
        solver: SolverOptions { eta: Some(0.5), s_churn: 4.0, ..SolverOptions::USUAL },
        ..receipt()
    };
    let text = parameters(&set);
    for part in
        ["Sampler: Heun, Schedule type: Karras,", "Clip skip: 2, Eta: 0.5, Sigma churn: 4, RNG: NV, Version"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn every_sampler_has_a_name_of_its_own_there() {
    let names = Sampler::ALL.map(|sampler| {
        let text = parameters(&Receipt { sampler, ..receipt() });
        text.split(", ").find_map(|field| field.strip_prefix("Sampler: ").map(str::to_owned))
    });
    for (index, name) in names.iter().enumerate() {
        assert!(name.is_some() && !names[..index].contains(name), "{name:?}");
    }
}

#[test]
fn texts_beyond_latin_1_go_into_an_international_chunk() {
    let picture = Bytes(1).picture(size(2, 2), Channels::Rgb);
    for (text, international) in [("café", false), ("塔", true), ("a\0b", true)] {
        let receipt = Receipt { prompts: vec![prompt(text, 1.0)], ..receipt() };
        let file = encode(&picture, Format::Png, Some(&receipt)).expect("it fits");
        let reader = png::Decoder::new(Cursor::new(&file)).read_info().expect("just written");
        let latin = reader.info().uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == "parameters");
        let wide = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == "parameters");
        assert_eq!((latin.is_some(), wide.is_some()), (!international, international), "{text:?}");
        let stored =
            latin.map_or_else(|| wide.expect("one of both").get_text().expect("text"), |c| c.text.clone());
        assert_eq!(stored, parameters(&receipt).replace('\0', "\u{fffd}"));
        assert_eq!(read_receipt(&file).expect("a receipt")["prompts"][0]["text"], text);
    }
}
