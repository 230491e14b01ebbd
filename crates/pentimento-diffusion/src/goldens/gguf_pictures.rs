//! Pictures of GGUF files against stable-diffusion.cpp's own.
//!
//! That program knows the true sizes only, so its files take gigabytes: `reference/gguf_pictures.py FOLDER` makes them where
//! they are wanted, and `PENTIMENTO_GGUF_PICTURES=FOLDER` before `cargo test … stable_diffusion_cpp -- --nocapture` compares.
//!
//! Noise (Philox), sigmas and Euler's method are the same in both programs; what is left is arithmetic. Of an f16 file ggml
//! multiplies what the engine multiplies, but in f16. Of a quantised file it also rounds what goes into a matrix to 8 bits, in
//! blocks of 32 or 256, which costs about as much as the rounding of the weights did.

use super::{against, measured, pipelines::compare};
use crate::{LoadOptions, Model, SingleFile};
use pentimento_imaging as imaging;
use pentimento_request::{
    Accelerations, Canvas, ClipSkip, Conditioning, GenerationRequest, Generator, GuidanceScale, NoiseSource,
    Picture, Prompt, PromptSyntax, Quiet, Sampler, Schedule, Size, SolverOptions, Steps, Task,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `request.json`.
#[derive(Deserialize)]
struct Asked {
    prompt: String,
    negative: String,
    seed: u64,
    steps: usize,
    cfg: f32,
    side: u32,
}

impl Asked {
    fn request(&self) -> GenerationRequest {
        let prompt = |text: &str, weight| Prompt { text: text.to_owned(), weight };
        GenerationRequest {
            model: "gguf".to_owned(),
            prompts: vec![prompt(&self.prompt, 1.0), prompt(&self.negative, -1.0)],
            syntax: PromptSyntax::Plain,
            clip_skip: ClipSkip::LAST,
            task: Task::TextToImage,
            canvas: Canvas::Exact(Some(Size::new(self.side, self.side).expect("a size"))),
            hires: None,
            sampler: Some(Sampler::KEuler),
            schedule: Some(Schedule::Linspace),
            solver: SolverOptions::USUAL,
            steps: Steps::new(self.steps).expect("steps"),
            guidance_scale: GuidanceScale::new(self.cfg).expect("a scale"),
            guidance_rescale: 0.0,
            accelerations: Accelerations::NONE,
            seed: self.seed,
            noise: NoiseSource::Philox,
            conditioning: Conditioning::none(),
            filter: None,
        }
    }
}

fn picture(path: &Path) -> Picture {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    imaging::decode(&bytes, &imaging::Limits { bytes: 1 << 20, pixels: 1 << 20 }).expect("a picture")
}

/// Root of the mean square of the differences, of 255.
fn deviation(one: &Picture, other: &Picture) -> f64 {
    let pairs = one.pixels().iter().zip(other.pixels());
    let squares: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    (squares / one.pixels().len() as f64).sqrt()
}

#[test]
fn pictures_of_gguf_files_are_those_of_stable_diffusion_cpp() {
    let Some(folder) = std::env::var_os("PENTIMENTO_GGUF_PICTURES").map(PathBuf::from) else {
        println!("skipped: PENTIMENTO_GGUF_PICTURES names no folder (see reference/gguf_pictures.py)");
        return;
    };
    let asked = std::fs::read(folder.join("request.json")).expect("what was asked for");
    let asked: Asked = serde_json::from_slice(&asked).expect("JSON");
    for kind in ["F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"] {
        let file = SingleFile::open(folder.join(format!("{kind}.gguf"))).expect("a model");
        let model = Model::load(&file, LoadOptions::new("gguf", 1 << 20)).expect("a model");
        let ours = model.generate(&asked.request(), &mut Quiet).expect("a picture").picture;
        let theirs = picture(&folder.join(format!("{kind}.png")));
        let (_, near, largest) = compare(&ours, &theirs);
        let deviation = deviation(&ours, &theirs);
        println!("{kind}: deviation {deviation:.3}, {:.2} % within 1, largest {largest}", 100.0 * near);
        match kind {
            "F16" => {
                against("stable-diffusion.cpp", "pictures of an f16 GGUF file");
                measured(kind, f64::from(largest), "of 255", 3.0);
            }
            _ => {
                against("stable-diffusion.cpp", "pictures of quantised GGUF files, root mean square");
                measured(kind, deviation, "of 255", 2.0);
            }
        }
    }
}
