use pentimento_kernels::{
    ChannelNorm, NormActivation, RowsMut, add, add_channel_sums, geglu, gelu, group_norm, layer_norm,
    quick_gelu, silu, softmax, transpose,
};

use crate::{Random, assert_close, assert_rounded, assert_same_bytes, on_each_isa, same_for_any_threads};

/// The normal distribution function by Simpson's rule, good to 1e-12.
pub(crate) fn normal_distribution(x: f64) -> f64 {
    let steps = 400;
    let h = x / f64::from(steps);
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let inner: f64 = (1..steps).map(|i| density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(x)) * h / 3.0
}

fn inputs() -> Vec<f32> {
    let mut random = Random(9);
    let mut values: Vec<f32> = (0..5003).map(|_| random.value() * 12.0).collect();
    values.extend([0.0, -0.0, 1.0, -1.0, 100.0, -100.0, 1e-30, 88.5, -88.5]);
    values
}

#[test]
fn activations_agree_with_their_definitions() {
    let x = inputs();
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    on_each_isa(|isa| {
        let check = |name: &str, run: fn(&mut [f32]), exact: &dyn Fn(f64) -> f64| {
            let mut out = x.clone();
            run(&mut out);
            for (x, out) in wide.iter().zip(&out) {
                let (exact, out) = (exact(*x), f64::from(*out));
                // Three roundings of the result, and of the intermediate 1 for what is near zero.
                let tolerance = 4e-7 * exact.abs() + 1.2e-7 * x.abs().min(1.0);
                assert!((out - exact).abs() <= tolerance, "{isa:?} {name}({x}) is {out}, not {exact}");
            }
        };
        check("silu", silu, &|x| x / (1.0 + (-x).exp()));
        check("quick_gelu", quick_gelu, &|x| x / (1.0 + (-1.702_f64 * x).exp()));
        check("gelu", gelu, &|x| if x.abs() > 12.5 { x.max(0.0) } else { x * normal_distribution(x) });
    });
}

#[test]
fn transposing_puts_rows_for_columns() {
    let mut random = Random(11);
    for [batch, rows, columns] in [[1, 1, 1], [2, 5, 3], [1, 16, 32], [2, 33, 47], [3, 64, 15]] {
        let (x, more) = (random.values(batch * rows * columns), random.values(batch * rows * columns));
        let at = |index: usize| {
            let (image, column, row) = (index / (rows * columns), index / rows % columns, index % rows);
            x[(image * rows + row) * columns + column]
        };
        let expected: Vec<f32> = (0..x.len()).map(at).collect();
        let summed: Vec<f32> = expected.iter().zip(&more).map(|(value, more)| value + more).collect();
        on_each_isa(|_| {
            let mut out = vec![f32::NAN; x.len()];
            for (added, expected) in [(None, &expected), (Some(&more[..]), &summed)] {
                transpose(&x, [batch, rows, columns], added, RowsMut::F32(&mut out));
                assert_same_bytes(&out, expected, "transposed");
                assert_rounded(x.len(), expected, "transposed in bf16", |out| {
                    transpose(&x, [batch, rows, columns], added, RowsMut::Bf16(out));
                });
            }
        });
    }
}

#[test]
fn not_a_number_and_infinities_pass_through() {
    on_each_isa(|_| {
        for run in [silu, gelu, quick_gelu] as [fn(&mut [f32]); 3] {
            let mut x = [f32::NAN, f32::INFINITY, 1.0];
            run(&mut x);
            assert!(x[0].is_nan() && x[1] == f32::INFINITY && x[2].is_finite());
        }
    });
}

#[test]
fn geglu_and_add_agree_with_their_definitions() {
    let mut random = Random(10);
    let (x, y) = (random.values(7 * 2 * 33), random.values(7 * 33));
    on_each_isa(|isa| {
        let mut out = vec![0.0; 7 * 33];
        geglu(&x, 33, &mut out);
        add(&mut out, &y);
        let expected: Vec<f64> = (0..7 * 33)
            .map(|at| {
                let (row, column) = (at / 33, at % 33);
                let gate = f64::from(x[row * 66 + 33 + column]);
                f64::from(x[row * 66 + column]) * gate * normal_distribution(gate) + f64::from(y[at])
            })
            .collect();
        assert_close(&out, &expected, 5e-7, &format!("{isa:?}"));
    });
}

#[test]
fn softmax_agrees_with_its_definition() {
    on_each_isa(|isa| {
        for n in [1, 5, 16, 77, 1000] {
            let x: Vec<f32> = Random(n as u64).values(3 * n).iter().map(|x| x * 20.0).collect();
            let mut out = x.clone();
            softmax(&mut out, n);
            let exact = x.chunks(n).flat_map(|row| {
                let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                row.iter().map(move |x| f64::from(*x).exp() / total)
            });
            assert_close(&out, &exact.collect::<Vec<_>>(), 5e-7, &format!("{isa:?} {n}"));
        }
    });
}

fn naive_norm(x: &[f32], epsilon: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| (f64::from(*x) - mean) / (variance + epsilon).sqrt()).collect()
}

#[test]
fn norms_agree_with_their_definitions() {
    on_each_isa(|isa| {
        for (batch, channels, pixels, groups) in [(1, 4, 1, 2), (2, 64, 49, 32), (2, 6, 1000, 3)] {
            let mut random = Random(pixels as u64);
            // A mean far from zero: the variance must not drown in it.
            let x: Vec<f32> = random.values(batch * channels * pixels).iter().map(|x| x + 30.0).collect();
            let (weight, bias) = (random.values(channels), random.values(channels));
            let shape = [batch, channels, pixels];
            let mut expected = Vec::new();
            for group in x.chunks(channels / groups * pixels) {
                expected.extend(naive_norm(group, 1e-5));
            }
            for (at, x) in expected.iter_mut().enumerate() {
                let channel = at / pixels % channels;
                *x = *x * f64::from(weight[channel]) + f64::from(bias[channel]);
            }
            let mut out = vec![0.0; x.len()];
            group_norm(&x, shape, groups, &weight, &bias, 1e-5, NormActivation::None, &mut out);
            assert_close(&out, &expected, 5e-6, &format!("{isa:?} {shape:?}"));
            group_norm(&x, shape, groups, &weight, &bias, 1e-5, NormActivation::Silu, &mut out);
            let expected: Vec<f64> = expected.iter().map(|x| x / (1.0 + (-x).exp())).collect();
            assert_close(&out, &expected, 5e-6, &format!("{isa:?} {shape:?} silu"));
        }
        for n in [1, 3, 16, 320, 777] {
            let mut random = Random(n as u64);
            let (x, weight, bias) = (random.values(5 * n), random.values(n), random.values(n));
            let mut out = vec![0.0; x.len()];
            layer_norm(&x, n, &weight, &bias, 1e-5, RowsMut::F32(&mut out));
            let mut expected: Vec<f64> = x.chunks(n).flat_map(|row| naive_norm(row, 1e-5)).collect();
            for (at, x) in expected.iter_mut().enumerate() {
                *x = *x * f64::from(weight[at % n]) + f64::from(bias[at % n]);
            }
            assert_close(&out, &expected, 2e-6, &format!("{isa:?} layer norm {n}"));
            assert_rounded(x.len(), &out, &format!("{isa:?} layer norm {n} in bf16"), |out| {
                layer_norm(&x, n, &weight, &bias, 1e-5, RowsMut::Bf16(out));
            });
        }
    });
}

#[test]
fn a_norm_in_parts_agrees_with_its_definition() {
    let (channels, pixels, groups) = (6, 1000, 3);
    let mut random = Random(5);
    let x: Vec<f32> = random.values(channels * pixels).iter().map(|x| x + 30.0).collect();
    let (weight, bias) = (random.values(channels), random.values(channels));
    let mut expected: Vec<f64> =
        x.chunks(channels / groups * pixels).flat_map(|group| naive_norm(group, 1e-5)).collect();
    for (at, x) in expected.iter_mut().enumerate() {
        *x = *x * f64::from(weight[at / pixels]) + f64::from(bias[at / pixels]);
    }
    // Pixels `range` of every channel.
    let part = |x: &[f32], range: std::ops::Range<usize>| -> Vec<f32> {
        x.chunks(pixels).flat_map(|channel| &channel[range.clone()]).copied().collect()
    };
    on_each_isa(|isa| {
        let mut sums = vec![[0.0; 2]; channels];
        for range in [0..333, 333..340, 340..1000] {
            add_channel_sums(&part(&x, range.clone()), range.len(), &mut sums);
        }
        let norm = ChannelNorm::new(&sums, pixels, groups, &weight, &bias, 1e-5);
        for activation in [NormActivation::None, NormActivation::Silu] {
            let silu = |x: &f64| x / (1.0 + (-x).exp());
            let expected: Vec<f32> = match activation {
                NormActivation::None => expected.iter().map(|x| *x as f32).collect(),
                NormActivation::Silu => expected.iter().map(|x| silu(x) as f32).collect(),
            };
            let mut got = part(&x, 200..700);
            norm.apply(&mut got, 500, activation);
            let expected: Vec<f64> = part(&expected, 200..700).into_iter().map(f64::from).collect();
            assert_close(&got, &expected, 5e-6, &format!("{isa:?} {activation:?} in parts"));
        }
    });
}

#[test]
fn norms_do_not_depend_on_neighbours_or_on_threads() {
    let x = Random(11).values(2 * 32 * 500);
    let (weight, bias) = (vec![0.7; 32], vec![0.1; 32]);
    on_each_isa(|_| {
        let run = |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            let shape = [x.len() / (32 * 500), 32, 500];
            group_norm(x, shape, 8, &weight, &bias, 1e-5, NormActivation::Silu, &mut out);
            out
        };
        assert_same_bytes(&run(&x[32 * 500..]), &run(&x)[32 * 500..], "an image alone");
        same_for_any_threads(|| run(&x));
    });
}

#[test]
fn a_norm_does_not_hide_what_is_not_finite() {
    on_each_isa(|_| {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; 64];
            x[3] = bad;
            let mut out = vec![0.0; 64];
            group_norm(&x, [1, 2, 32], 1, &[1.0; 2], &[0.0; 2], 1e-5, NormActivation::None, &mut out);
            assert!(out.iter().all(|x| x.is_nan()));
        }
    });
}
