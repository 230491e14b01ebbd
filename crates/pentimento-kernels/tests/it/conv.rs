use pentimento_kernels::{
    ChannelNorm, ConvOptions, Isa, NormActivation, PackedConv, Padding, Precision, Upsample,
    add_channel_sums, bytes_lead, conv2d, conv2d_output_size, fastest_precision,
};

use crate::{
    Random, assert_close, assert_same_bytes, on_each_isa, same_for_any_threads, to_bf16, to_bytes,
    to_signed_bytes,
};

struct Case {
    /// `[batch, c_in, height, width]`
    shape: [usize; 4],
    c_out: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: Padding,
    upsample: Upsample,
}

fn case(shape: [usize; 4], c_out: usize, kernel: usize, stride: usize, padding: Padding) -> Case {
    Case { shape, c_out, kernel: (kernel, kernel), stride, padding, upsample: Upsample::None }
}

fn cases() -> Vec<Case> {
    vec![
        case([1, 1, 1, 1], 1, 1, 1, Padding::default()),
        case([2, 5, 3, 7], 9, 1, 1, Padding::default()),
        case([2, 3, 8, 8], 7, 3, 1, Padding::all(1)),
        // Groups of tiles of several images, with and without a rest.
        case([5, 3, 12, 12], 7, 3, 1, Padding::all(1)),
        case([40, 2, 3, 2], 3, 3, 1, Padding::all(1)),
        case([1, 40, 16, 16], 13, 3, 1, Padding::all(1)),
        case([1, 4, 5, 37], 8, 3, 1, Padding::all(1)),
        case([2, 31, 9, 64], 6, 3, 1, Padding::all(1)),
        case([1, 3, 12, 10], 8, 3, 2, Padding::all(1)),
        case([2, 3, 12, 11], 8, 3, 2, Padding::BOTTOM_RIGHT),
        case([1, 3, 28, 28], 5, 14, 14, Padding::default()),
        case([1, 2, 9, 9], 3, 5, 3, Padding { top: 2, left: 0, bottom: 1, right: 4 }),
        Case { upsample: Upsample::Nearest2, ..case([2, 6, 5, 9], 7, 3, 1, Padding::all(1)) },
        Case {
            kernel: (3, 1),
            ..case([1, 4, 6, 6], 4, 3, 1, Padding { top: 1, bottom: 1, ..Padding::default() })
        },
    ]
}

fn naive(x: &[f32], w: &[f32], case: &Case, (out_height, out_width): (usize, usize)) -> Vec<f64> {
    let [batch, c_in, height, width] = case.shape;
    let factor = if case.upsample == Upsample::Nearest2 { 2 } else { 1 };
    let mut out = Vec::new();
    for at in 0..batch * case.c_out * out_height * out_width {
        let (image, channel) =
            (at / (case.c_out * out_height * out_width), at / (out_height * out_width) % case.c_out);
        let (y, x_out) = (at / out_width % out_height, at % out_width);
        let mut sum = 0.0;
        for c in 0..c_in {
            for ky in 0..case.kernel.0 {
                for kx in 0..case.kernel.1 {
                    let from_y = (y * case.stride + ky).wrapping_sub(case.padding.top);
                    let from_x = (x_out * case.stride + kx).wrapping_sub(case.padding.left);
                    if from_y < height * factor && from_x < width * factor {
                        let value =
                            x[((image * c_in + c) * height + from_y / factor) * width + from_x / factor];
                        let weight = w[((channel * c_in + c) * case.kernel.0 + ky) * case.kernel.1 + kx];
                        sum += f64::from(value) * f64::from(weight);
                    }
                }
            }
        }
        out.push(sum);
    }
    out
}

#[test]
fn agrees_with_the_naive_loop() {
    on_each_isa(|isa| {
        for (at, case) in cases().iter().enumerate() {
            let mut random = Random(at as u64);
            let x = random.values(case.shape.iter().product());
            let weight_shape = [case.c_out, case.shape[1], case.kernel.0, case.kernel.1];
            let w = random.values(weight_shape.iter().product());
            for precision in Precision::ALL {
                let packed = PackedConv::pack(&w[..], weight_shape, precision);
                let (stride, padding, upsample) = (case.stride, case.padding, case.upsample);
                let plain = ConvOptions { stride, padding, upsample, ..ConvOptions::default() };
                let size = conv2d_output_size(case.shape[2], case.shape[3], &packed, &plain);
                let pixels = size.0 * size.1;
                let len = case.shape[0] * case.c_out * pixels;
                let (bias, residual) = (random.values(case.c_out), random.values(len));
                let channel_add = random.values(case.shape[0] * case.c_out);
                let mut expected = match precision {
                    Precision::F32 => naive(&x, &w, case, size),
                    Precision::Bf16 => naive(&to_bf16(&x), &to_bf16(&w), case, size),
                    Precision::Int8 => {
                        let (image, output) = (x.len() / case.shape[0], w.len() / case.c_out);
                        naive(&to_bytes(&x, image), &to_signed_bytes(&w, output), case, size)
                    }
                };
                let mut out = vec![f32::NAN; len];
                conv2d(&x, case.shape, &packed, &plain, &mut out);
                assert_close(&out, &expected, 3e-6, &format!("{isa:?} {precision:?} case {at}"));

                let (bias, channel_add, residual) =
                    (Some(&bias[..]), Some(&channel_add[..]), Some(&residual[..]));
                conv2d(
                    &x,
                    case.shape,
                    &packed,
                    &ConvOptions { bias, channel_add, residual, ..plain },
                    &mut out,
                );
                for (at, expected) in expected.iter_mut().enumerate() {
                    let more = bias.unwrap()[at / pixels % case.c_out] + channel_add.unwrap()[at / pixels];
                    *expected += f64::from(more) + f64::from(residual.unwrap()[at]);
                }
                assert_close(
                    &out,
                    &expected,
                    3e-6,
                    &format!("{isa:?} {precision:?} case {at} with additions"),
                );
            }
        }
    });
}

#[test]
fn winograd_agrees_with_the_naive_loop() {
    let upsampled = Case { upsample: Upsample::Nearest2, ..case([2, 6, 5, 9], 7, 3, 1, Padding::all(1)) };
    let uneven = Padding { top: 2, left: 0, bottom: 1, right: 3 };
    let cases = [
        case([1, 1, 3, 3], 1, 3, 1, Padding::default()),
        case([2, 3, 8, 8], 7, 3, 1, Padding::all(1)),
        case([1, 5, 13, 70], 9, 3, 1, Padding::all(1)),
        case([2, 4, 64, 64], 6, 3, 1, Padding::all(1)),
        case([1, 270, 6, 9], 13, 3, 1, uneven),
        // Two strips, the second narrower than 16 tiles.
        case([1, 3, 9, 90], 5, 3, 1, Padding::all(1)),
        upsampled,
    ];
    on_each_isa(|isa| {
        for (at, case) in cases.iter().enumerate() {
            let mut random = Random(at as u64 + 100);
            let [batch, c_in, height, width] = case.shape;
            let (x, w) = (random.values(batch * c_in * height * width), random.values(case.c_out * c_in * 9));
            let (padding, upsample) = (case.padding, case.upsample);
            let plain = ConvOptions { padding, upsample, ..ConvOptions::default() };
            let packed = [
                (PackedConv::pack_winograd(&w[..], case.c_out, c_in, 16 * 16), 1e-5),
                (PackedConv::pack_winograd(&w[..], case.c_out, c_in, 8 * 8), 1e-5),
                (PackedConv::pack_winograd_bf16(&w[..], case.c_out, c_in), 3e-2),
                (PackedConv::pack_winograd_int8(&w[..], case.c_out, c_in, Precision::Bf16, 8 * 8), 3e-2),
                (PackedConv::pack_winograd_int8(&w[..], case.c_out, c_in, Precision::F32, 16 * 16), 3e-2),
                (PackedConv::pack_winograd_int8(&w[..], case.c_out, c_in, Precision::F32, 8 * 8), 3e-2),
            ];
            let size = conv2d_output_size(height, width, &packed[0].0, &plain);
            let len = batch * case.c_out * size.0 * size.1;
            let (bias, residual) = (random.values(case.c_out), random.values(len));
            let mut expected = naive(&x, &w, case, size);
            for (at, expected) in expected.iter_mut().enumerate() {
                *expected += f64::from(bias[at / (size.0 * size.1) % case.c_out]) + f64::from(residual[at]);
            }
            let options = ConvOptions { bias: Some(&bias), residual: Some(&residual), ..plain };
            for (packed, tolerance) in packed {
                let mut out = vec![f32::NAN; len];
                conv2d(&x, case.shape, &packed, &options, &mut out);
                assert_close(
                    &out,
                    &expected,
                    tolerance,
                    &format!("{isa:?} {:?} case {at}", packed.precision()),
                );
            }
        }
    });
}

/// The f32 path as a whole must stay within 1e-3 of PyTorch's, so one layer must stay far below.
#[test]
fn winograd_is_accurate_at_many_channels() {
    let case = case([1, 640, 8, 8], 8, 3, 1, Padding::all(1));
    let mut random = Random(7);
    // Sums of uniform values are near enough to normal ones.
    let mut normal =
        |len: usize| -> Vec<f32> { (0..len).map(|_| (0..6).map(|_| random.value()).sum::<f32>()).collect() };
    let (x, w) = (normal(640 * 64), normal(8 * 640 * 9));
    let exact = naive(&x, &w, &case, (8, 8));
    let deviation = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
    on_each_isa(|isa| {
        let options = ConvOptions { padding: Padding::all(1), ..ConvOptions::default() };
        for (packed, tolerance) in [
            (PackedConv::pack(&w[..], [8, 640, 3, 3], Precision::F32), 5e-6),
            (PackedConv::pack_winograd(&w[..], 8, 640, 16 * 16), 1e-5),
            (PackedConv::pack_winograd(&w[..], 8, 640, 8 * 8), 1e-5),
            (PackedConv::pack_winograd_bf16(&w[..], 8, 640), 5e-2),
            (PackedConv::pack_winograd_int8(&w[..], 8, 640, Precision::Bf16, 8 * 8), 6e-2),
            (PackedConv::pack_winograd_int8(&w[..], 8, 640, Precision::F32, 16 * 16), 6e-2),
            (PackedConv::pack_winograd_int8(&w[..], 8, 640, Precision::F32, 8 * 8), 6e-2),
            (PackedConv::pack(&w[..], [8, 640, 3, 3], Precision::Bf16), 2e-2),
        ] {
            let mut out = vec![0.0; exact.len()];
            conv2d(&x, case.shape, &packed, &options, &mut out);
            let errors: Vec<f64> =
                out.iter().zip(&exact).map(|(x, exact)| (f64::from(*x) - exact).abs()).collect();
            let worst = errors.iter().copied().fold(0.0, f64::max);
            let mean_square = errors.iter().map(|x| x * x).sum::<f64>() / errors.len() as f64;
            println!(
                "{isa:?}: rms {:.1e}, greatest {:.1e}",
                mean_square.sqrt() / deviation,
                worst / deviation
            );
            assert!(worst < tolerance * deviation, "{isa:?}: {worst} at a deviation of {deviation}");
        }
    });
}

#[test]
fn a_norm_on_the_way_in_is_the_norm_before() {
    on_each_isa(|_| {
        let (c_in, c_out, height, width) = (36, 34, 13, 21);
        let mut random = Random(7);
        let (x, w) = (random.values(c_in * height * width), random.values(c_out * c_in * 9));
        let (weight, bias) = (random.values(c_in), random.values(c_in));
        let mut sums = vec![[0.0; 2]; c_in];
        add_channel_sums(&x, height * width, &mut sums);
        let norm = ChannelNorm::new(&sums, height * width, 4, &weight, &bias, 1e-5);
        let mut before = x.clone();
        norm.apply(&mut before, height * width, NormActivation::Silu);
        let shape = [1, c_in, height, width];
        for packed in [
            PackedConv::pack(&w[..], [c_out, c_in, 3, 3], Precision::F32),
            PackedConv::pack(&w[..], [c_out, c_in, 3, 3], Precision::Bf16),
            PackedConv::pack(&w[..], [c_out, c_in, 3, 3], Precision::Int8),
            PackedConv::pack_winograd(&w[..], c_out, c_in, 16 * 16),
            PackedConv::pack_winograd(&w[..], c_out, c_in, 8 * 8),
            PackedConv::pack_winograd_bf16(&w[..], c_out, c_in),
        ] {
            let plain = ConvOptions { padding: Padding::all(1), ..ConvOptions::default() };
            let normed = ConvOptions { norm: Some(&norm), ..plain };
            let [mut out, mut expected] = [(); 2].map(|()| vec![f32::NAN; c_out * height * width]);
            conv2d(&x, shape, &packed, &normed, &mut out);
            conv2d(&before, shape, &packed, &plain, &mut expected);
            assert_same_bytes(&out, &expected, "normed on the way in");
        }
    });
}

#[test]
fn without_inputs_the_bias_is_left() {
    let (bias, none) = ([1.5, -2.0, 0.25], &[0.0_f32; 0][..]);
    let options = ConvOptions { padding: Padding::all(1), bias: Some(&bias), ..ConvOptions::default() };
    for packed in [
        PackedConv::pack(none, [3, 0, 3, 3], Precision::F32),
        PackedConv::pack(none, [3, 0, 3, 3], Precision::Int8),
        PackedConv::pack_winograd(none, 3, 0, 16 * 16),
        PackedConv::pack_winograd_bf16(none, 3, 0),
        PackedConv::pack_winograd_int8(none, 3, 0, Precision::Bf16, 8 * 8),
    ] {
        let mut out = vec![f32::NAN; 3 * 8 * 8];
        conv2d(&[], [1, 0, 8, 8], &packed, &options, &mut out);
        for (channel, bias) in out.chunks_exact(8 * 8).zip(bias) {
            assert!(channel.iter().all(|value| *value == bias));
        }
    }
}

/// As with linear layers: kernels that f16 holds stay in it, unless one more output channel is not held.
#[test]
fn winograd_in_f32_from_halves_is_f32() {
    let (c_in, c_out, size) = (45, 40, 20);
    let mut random = Random(12);
    let rounded = |w: &f32| half::f16::from_f32(*w).to_f32();
    let w: Vec<f32> = random.values(c_out * c_in * 9).iter().map(rounded).collect();
    let one_more = [&w[..], &vec![0.1; c_in * 9]].concat();
    let x = random.values(c_in * size * size);
    let options = ConvOptions { padding: Padding::all(1), ..ConvOptions::default() };
    on_each_isa(|isa| {
        for pixels in [16 * 16, 8 * 8] {
            let run = |w: &[f32], c_out: usize| {
                let packed = PackedConv::pack_winograd(w, c_out, c_in, pixels);
                let mut out = vec![f32::NAN; c_out * size * size];
                conv2d(&x, [1, c_in, size, size], &packed, &options, &mut out);
                (out, packed.bytes())
            };
            let ((exact, bytes), (inexact, more_bytes)) = (run(&w, c_out), run(&one_more, c_out + 1));
            assert_eq!((bytes, more_bytes), (2 * w.len(), 4 * one_more.len()));
            assert_same_bytes(&exact, &inexact[..exact.len()], &format!("{isa:?}, {pixels} pixels"));
        }
    });
}

#[test]
fn the_algorithm_follows_from_the_size() {
    let w = vec![0.5; 64 * 64 * 9];
    let packed = |c_in: usize, precision: Precision, pixels: usize| {
        let packed = PackedConv::pack_for(&w[..64 * c_in * 9], [64, c_in, 3, 3], precision, pixels);
        (packed.precision(), packed.bytes() / (64 * c_in * 9))
    };
    // The precision of the products, and bytes a weight.
    assert_eq!(packed(64, Precision::Bf16, 0), (Precision::Bf16, 2));
    assert_eq!(packed(64, Precision::Bf16, 8 * 8), (Precision::Bf16, 2));
    assert_eq!(packed(64, Precision::Bf16, 64 * 64), (Precision::Bf16, 2));
    // In f32 half precision stores what it holds exactly.
    assert_eq!(packed(64, Precision::F32, 64 * 64), (Precision::F32, 2));
    let other = PackedConv::pack_for(&vec![0.1; w.len()][..], [64, 64, 3, 3], Precision::F32, 64 * 64);
    assert_eq!((other.precision(), other.bytes()), (Precision::F32, 4 * w.len()));
    assert_eq!(packed(64, Precision::Int8, 4 * 4), (Precision::Int8, 1));
    // Unless the machine multiplies bytes much faster, it multiplies fewer values in floats, from weights of a byte.
    for pixels in [8 * 8, 64 * 64] {
        let of_bytes = if bytes_lead(pixels) { Precision::Int8 } else { fastest_precision() };
        assert_eq!(packed(64, Precision::Int8, pixels), (of_bytes, 1));
    }
    assert!(PackedConv::winograd_pays([64, 64, 3, 3], 8 * 8));
    // Too small a picture, too few channels, another kernel.
    assert!(!PackedConv::winograd_pays([64, 64, 3, 3], 4 * 4));
    assert!(!PackedConv::winograd_pays([64, 4, 3, 3], 64 * 64));
    assert!(!PackedConv::winograd_pays([64, 64, 1, 1], 64 * 64));
}

#[test]
fn an_image_does_not_depend_on_its_neighbours_or_on_threads() {
    on_each_isa(|isa| {
        if isa == Isa::Portable {
            return; // The same driver, and slow.
        }
        // Of 8 by 8 pixels one image is a group of tiles, so that its register tiles are tall where the steps are even.
        for (kernel, size, c_in, c_out) in
            [(3, 8, 70, 200), (3, 8, 72, 60), (3, 16, 33, 65), (1, 24, 50, 40), (3, 20, 40, 48)]
        {
            let mut random = Random(size as u64);
            let x = random.values(3 * c_in * size * size);
            let w = random.values(c_out * c_in * kernel * kernel);
            let mut all_packed = Precision::ALL
                .map(|precision| PackedConv::pack(&w[..], [c_out, c_in, kernel, kernel], precision))
                .to_vec();
            if kernel == 3 {
                all_packed.push(PackedConv::pack_winograd(&w[..], c_out, c_in, 16 * 16));
                all_packed.push(PackedConv::pack_winograd(&w[..], c_out, c_in, 8 * 8));
                all_packed.push(PackedConv::pack_winograd_bf16(&w[..], c_out, c_in));
                for products in Precision::FLOATS {
                    all_packed.push(PackedConv::pack_winograd_int8(&w[..], c_out, c_in, products, 16 * 16));
                }
            }
            for packed in all_packed {
                let options = ConvOptions { padding: Padding::all(kernel / 2), ..ConvOptions::default() };
                let run = |images: std::ops::Range<usize>| {
                    let mut out = vec![0.0; images.len() * c_out * size * size];
                    let part = &x[images.start * c_in * size * size..images.end * c_in * size * size];
                    conv2d(part, [images.len(), c_in, size, size], &packed, &options, &mut out);
                    out
                };
                let all = run(0..3);
                let image = c_out * size * size;
                assert_same_bytes(&run(1..2), &all[image..2 * image], "an image alone");
                assert_same_bytes(&run(1..3), &all[image..], "two images");
                same_for_any_threads(|| run(0..3));
            }
        }
    });
}

/// What a residual block's convolution sees: a normal picture behind its norm and SiLU.
#[test]
fn int8_is_near_enough_in_convolutions() {
    let case = case([1, 320, 8, 8], 16, 3, 1, Padding::all(1));
    let mut random = Random(11);
    let mut normal =
        |len: usize| -> Vec<f32> { (0..len).map(|_| (0..6).map(|_| random.value()).sum::<f32>()).collect() };
    let (x, w) = (normal(320 * 64), normal(16 * 320 * 9));
    let x: Vec<f32> = x.iter().map(|x| x / (1.0 + (-x).exp())).collect();
    let exact = naive(&x, &w, &case, (8, 8));
    let options = ConvOptions { padding: Padding::all(1), ..ConvOptions::default() };
    for (precision, most) in [(Precision::Bf16, 3e-3), (Precision::Int8, 1.5e-2)] {
        let packed = PackedConv::pack(&w[..], [16, 320, 3, 3], precision);
        let mut out = vec![0.0; exact.len()];
        conv2d(&x, case.shape, &packed, &options, &mut out);
        let error = crate::relative_rms(&out, &exact);
        println!("convolution {precision:?}: relative error (root mean square) {error:.1e}");
        assert!(error < most, "{precision:?}: {error}");
    }
}
