//! What leaves the range of bf16 is drawn again in f32, and what leaves that of f32 is no picture.

use crate::{copy, options};
use pentimento_diffusion::{Folder, LoadOptions, Model, Precision};
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, ErrorKind, GenerateError, GeneratedImage,
    GenerationRequest, Generator, GuidanceScale, Hires, NoiseSource, Picture, Prompt, PromptSyntax, Quiet,
    Sampler, Size, SolverOptions, Span, Steps, Strength, Task,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

/// A stage: its weights, a layer whose first output is made 0, the layer behind it, and how notes call the stage.
const STAGES: [(&str, &str, &str, &str); 4] = [
    ("text_encoder/model.safetensors", "encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc2", "the texts"),
    ("vae/diffusion_pytorch_model.safetensors", "encoder.conv_norm_out", "encoder.conv_out", "the encoding"),
    (
        "unet/diffusion_pytorch_model.safetensors",
        "mid_block.resnets.1.norm2",
        "mid_block.resnets.1.conv2",
        "the steps",
    ),
    ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_norm_out", "decoder.conv_out", "the decoding"),
];

/// The values and shape of a tensor of f16 values.
pub(crate) type Values = (Vec<f32>, Vec<usize>);

/// Rewrites a file of weights in f32, changed.
pub(crate) fn rewrite(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Values>)) {
    let bytes = fs::read(path).expect("weights");
    let stored = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors = BTreeMap::new();
    for (name, view) in stored.tensors() {
        let values: Vec<f32> = match view.dtype() {
            Dtype::F16 => {
                view.data().as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
            }
            Dtype::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            other => panic!("{name} is stored as {other:?}"),
        };
        tensors.insert(name, (values, view.shape().to_vec()));
    }
    change(&mut tensors);
    let data: Vec<_> = tensors
        .into_iter()
        .map(|(name, (values, shape))| {
            (name, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>(), shape)
        })
        .collect();
    let views = data.iter().map(|(name, bytes, shape)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a view"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("safetensors")).expect("a file");
}

/// Weights that multiply a 0: the largest f32 numbers, which bf16 rounds to infinity.
fn widen(folder: &Path, (file, before, behind, _): (&str, &str, &str, &str)) {
    rewrite(&folder.join(file), |tensors| {
        for name in [format!("{before}.weight"), format!("{before}.bias")] {
            let (values, shape) = tensors.get_mut(&name).expect(&name);
            let row = values.len() / shape[0];
            values[..row].fill(0.0);
        }
        let (values, shape) = tensors.get_mut(&format!("{behind}.weight")).expect(behind);
        let taps: usize = shape[2..].iter().product();
        let row = shape[1] * taps;
        for output in 0..shape[0] {
            // The last tap of a kernel, which every transform of kernels leaves as it is.
            values[output * row + taps - 1] = f32::MAX;
        }
    });
}

fn draw(folder: &Path, precision: Precision) -> Result<GeneratedImage, GenerateError> {
    answer(folder, precision, &request())
}

fn answer(
    folder: &Path,
    precision: Precision,
    request: &GenerationRequest,
) -> Result<GeneratedImage, GenerateError> {
    let model = Model::load(&Folder::new(folder), LoadOptions { precision, ..options("wide") });
    model.expect("a model").generate(request, &mut Quiet)
}

fn request() -> GenerationRequest {
    let size = Size::new(32, 32).expect("a size");
    let pixels = (0..3072u32).map(|index| (index * 37 % 251) as u8).collect();
    let init = Arc::new(Picture::new(size, Channels::Rgb, pixels).expect("a picture"));
    GenerationRequest {
        model: "wide".to_owned(),
        prompts: vec![Prompt { text: "a cat".to_owned(), weight: 1.0 }],
        task: Task::ImageToImage { init, span: Span::of(Strength::new(0.5).expect("a strength")) },
        canvas: Canvas::Exact(None),
        sampler: None,
        schedule: None,
        steps: Steps::new(4).expect("steps"),
        guidance_scale: GuidanceScale::new(4.0).expect("a scale"),
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        hires: None,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
        seed: 7,
    }
}

#[test]
fn a_stage_that_overflows_in_bf16_runs_again_in_f32() {
    for stage in STAGES {
        let folder = copy();
        widen(folder.path(), stage);
        let reference = draw(folder.path(), Precision::F32).expect("f32 holds it");
        assert!(reference.receipt.notes.is_empty(), "{:?}", reference.receipt.notes);
        let again = draw(folder.path(), Precision::Bf16).expect("f32 helps");
        assert_eq!(again.receipt.notes, [format!("{} overflowed and ran again in f32", stage.3)]);
        let pairs = reference.picture.pixels().iter().zip(again.picture.pixels());
        let off = pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).max();
        // What the other stages round to bf16.
        assert!(off < Some(16), "{}: off by {off:?}", stage.3);
    }
}

#[test]
fn a_second_pass_that_overflows_runs_again_in_f32_from_the_same_noise() {
    let folder = copy();
    let [_, _, steps, _] = STAGES;
    widen(folder.path(), steps);
    let hires = Some(Hires {
        scale: 1.5,
        strength: Strength::new(0.6).expect("a strength"),
        steps: Some(Steps::new(5).expect("steps")),
    });
    // A sampler that draws noise at every step: were the draws not taken back, the picture would be another.
    let request = GenerationRequest { hires, sampler: Some(Sampler::KEulerAncestral), ..request() };
    let reference = answer(folder.path(), Precision::F32, &request).expect("f32 holds it");
    assert!(reference.receipt.notes.is_empty(), "{:?}", reference.receipt.notes);
    let again = answer(folder.path(), Precision::Bf16, &request).expect("f32 helps");
    let told = ["the steps", "the second pass"].map(|pass| format!("{pass} overflowed and ran again in f32"));
    assert_eq!(again.receipt.notes, told);
    assert_eq!(again.receipt.hires.expect("a second pass").steps_run, 3);
    let pairs = reference.picture.pixels().iter().zip(again.picture.pixels());
    let off = pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).max();
    assert!(off < Some(16), "off by {off:?}");
    let other = GenerationRequest { seed: 8, ..request };
    let other = answer(folder.path(), Precision::F32, &other).expect("another picture");
    let pairs = reference.picture.pixels().iter().zip(other.picture.pixels());
    assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max() > Some(32), "other noise would hardly show");
}

#[test]
fn values_that_are_no_numbers_are_no_picture() {
    for (file, layer, _, name) in STAGES {
        let folder = copy();
        rewrite(&folder.path().join(file), |tensors| {
            tensors.get_mut(&format!("{layer}.bias")).expect(layer).0.fill(f32::NAN);
        });
        for precision in Precision::ALL {
            let error = draw(folder.path(), precision).expect_err("no picture");
            assert_eq!(error.kind(), ErrorKind::Internal);
            let message = error.to_string();
            assert!(message.contains("no numbers"), "{name}, {precision:?}: {message}");
        }
    }
}

#[test]
fn eight_bits_draw_nearly_the_same_whatever_the_threads() {
    let folder = copy();
    let draw = |precision| draw(folder.path(), precision).expect("a picture");
    let exact = draw(Precision::F32);
    let pixels = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let image = pool.install(|| draw(Precision::Int8));
        assert!(image.receipt.precision.starts_with("int8+"), "{}", image.receipt.precision);
        assert!(image.receipt.notes.is_empty(), "{:?}", image.receipt.notes);
        image.picture.pixels().to_vec()
    };
    let eight_bits = pixels(1);
    for threads in [2, 3] {
        assert!(pixels(threads) == eight_bits, "{threads} threads");
    }
    let squares = exact.picture.pixels().iter().zip(&eight_bits);
    let squares = squares.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
    let error = (squares / eight_bits.len() as f64).sqrt();
    println!("eight bits: off by {error:.2} levels of 255 (root mean square)");
    assert!(0.0 < error && error < 8.0, "{error}");
}

#[test]
fn activations_beyond_the_range_of_f16_are_drawn_as_they_are() {
    // Products are bf16, sums and all between layers f32: nothing ends at 65504. The norms behind take the factor out.
    let scaled = |factor: f32| {
        let folder = copy();
        rewrite(&folder.path().join("vae/diffusion_pytorch_model.safetensors"), |tensors| {
            for name in ["decoder.conv_in.weight", "decoder.conv_in.bias"] {
                tensors.get_mut(name).expect(name).0.iter_mut().for_each(|value| *value *= factor);
            }
        });
        draw(folder.path(), Precision::Bf16).expect("a picture")
    };
    let huge = scaled(1e9);
    assert!(huge.receipt.notes.is_empty(), "{:?}", huge.receipt.notes);
    let pixels = huge.picture.pixels();
    let (darkest, lightest) = (pixels.iter().min(), pixels.iter().max());
    assert!(darkest < lightest, "a picture of one colour");
}

#[test]
fn weights_that_f16_could_not_hold_are_no_picture() {
    for (file, layer, _, name) in STAGES {
        let folder = copy();
        let path = folder.path().join(file);
        // As a conversion to f16 stores what is beyond 65504.
        let tensor = format!("{layer}.weight");
        store_infinity_in_f16(&path, &tensor);
        for precision in Precision::ALL {
            let error = draw(folder.path(), precision).expect_err("no picture");
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.to_string().contains("no numbers"), "{name}, {precision:?}: {error}");
        }
    }
}

/// Overwrites the first value of a tensor that is stored in f16.
fn store_infinity_in_f16(path: &Path, tensor: &str) {
    let mut bytes = fs::read(path).expect("weights");
    let (header_length, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
    let info = header.info(tensor).expect(tensor);
    assert_eq!(info.dtype, Dtype::F16);
    let at = 8 + header_length + info.data_offsets.0;
    bytes[at..at + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    fs::write(path, bytes).expect("a file");
}
