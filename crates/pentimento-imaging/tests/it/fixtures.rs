//! Pictures and receipts to test with.

use pentimento_imaging::{Limits, decode};
use pentimento_request::{
    Accelerations, AccelerationsReport, Channels, ClipGuidance, ClipGuidanceReport, ClipSkip, ControlReport,
    GuidanceInterval, LookReport, LoraReport, Mask, NoiseSource, Picture, PromptReport, PromptSyntax,
    Receipt, Sampler, Schedule, SecondPassReport, Size, SolverOptions, Stage, StageTiming, StepCache,
    TokenMerging, Verdict,
};
use std::{fs, path::Path, time::Duration};

/// Limits that no test picture meets.
pub(crate) const GENEROUS: Limits = Limits { bytes: 1 << 20, pixels: 1 << 20 };

/// A file that `reference/imaging.py` wrote.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../reference/goldens/imaging");
    let path = Path::new(root).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A picture that `reference/imaging.py` wrote.
pub(crate) fn golden_picture(name: &str) -> Picture {
    decode(&golden(name), &GENEROUS).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn size(width: u32, height: u32) -> Size {
    Size::new(width, height).expect("a valid size")
}

/// Even noise, the same for the same seed.
pub(crate) struct Bytes(pub(crate) u64);

impl Bytes {
    /// The next byte (the upper bits of Knuth's MMIX generator).
    pub(crate) fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next()).collect()
    }

    pub(crate) fn picture(&mut self, size: Size, channels: Channels) -> Picture {
        let pixels = self.take(size.pixels() as usize * channels.count());
        Picture::new(size, channels, pixels).expect("as many bytes as asked for")
    }

    /// Noise in which the two ends are frequent.
    pub(crate) fn mask(&mut self, size: Size) -> Mask {
        let values = self.take(size.pixels() as usize).into_iter().map(|value| match value {
            0..80 => 0,
            80..160 => 255,
            _ => value,
        });
        Mask::new(size, values.collect()).expect("as many bytes as asked for")
    }
}

/// A receipt with something in every field.
pub(crate) fn receipt() -> Receipt {
    Receipt {
        engine: "0.1.0".to_owned(),
        model: "tiny".to_owned(),
        model_hash: "0123456789abcdef".repeat(4),
        task: "image-to-image",
        seed: u64::MAX,
        sampler: Sampler::KDpmpp2m,
        schedule: Schedule::Trailing,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        syntax: PromptSyntax::Plain,
        clip_skip: ClipSkip::LAST,
        steps: 20,
        steps_run: 12,
        sigmas: vec![f64::INFINITY, 1.5, 0.0],
        guidance_scale: 7.1,
        guidance_rescale: 0.7,
        accelerations: Some(AccelerationsReport {
            asked: Accelerations {
                step_cache: StepCache::new(3, 1).ok(),
                token_merging: TokenMerging::new(0.4).expect("a share"),
                guidance_interval: GuidanceInterval::new(0.2, 0.8).expect("an interval"),
            },
            guided_steps: 7,
            whole_steps: 4,
        }),
        strength: 0.6,
        hires: Some(SecondPassReport {
            scale: 1.5,
            strength: 0.25,
            steps: 8,
            steps_run: 2,
            sigmas: vec![2.5, 0.0],
            worked_at: size(192, 96),
        }),
        worked_at: size(128, 64),
        region: Some([1, 2, 3, 4]),
        size: size(129, 65),
        precision: "bf16",
        prompts: vec![prompt("a red house", 1.0), prompt("fog", -1.0)],
        verdict: Verdict::Clean,
        loras: vec![LoraReport {
            name: "style".to_owned(),
            hash: "aa".to_owned(),
            weight: 0.4,
            text_weight: -0.2,
            flavours: vec!["LoRA".to_owned()],
            matched: vec!["unet.conv_in".to_owned()],
            unmatched: vec!["lora_unet_strange.alpha".to_owned()],
        }],
        controls: vec![ControlReport {
            name: "canny".to_owned(),
            hash: None,
            hint: "edges 100:200".to_owned(),
            weight: 0.0,
            steps_run: 0,
        }],
        looks: vec![LookReport {
            name: "faceid".to_owned(),
            hash: "bb".to_owned(),
            scale: 0.7,
            pictures: 1,
            faces: vec![[1, 2, 30, 40]],
        }],
        clip_guidance: Some(ClipGuidanceReport {
            preset: ClipGuidance::FastBlue,
            strength: 0.1,
            steps: vec![0, 2],
        }),
        notes: vec!["decoded again in f32".to_owned()],
        pixels_hash: "00ff".to_owned(),
        timings: vec![StageTiming { stage: Stage::Sample, took: Duration::from_millis(1250) }],
        peak_memory: Some(1 << 33),
    }
}

pub(crate) fn prompt(text: &str, weight: f32) -> PromptReport {
    PromptReport { text: text.to_owned(), weight, chunks: vec![3], truncated: 0 }
}
