use pentimento_kernels::{
    Epilogue, Isa, Layout, LowRank, PackedWeights, Precision, Rows, RowsMut, geglu, linear, linear_beside,
    linear_geglu, matmul,
};

use crate::{
    Random, assert_close, assert_rounded, assert_same_bytes, halves, on_each_isa, same_for_any_threads,
    to_bf16, to_bytes, to_signed_bytes, widened,
};

/// `(rows, n, k)`: tails of every register tile, empty sums, several blocks of steps.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (2, 3, 0),
    (5, 17, 3),
    (7, 16, 33),
    (6, 64, 256),
    (13, 70, 257),
    (100, 129, 65),
    (97, 33, 531),
    (3, 320, 1030),
];

fn naive(x: &[f32], w: &[f32], bias: Option<&[f32]>, (rows, n, k): (usize, usize, usize)) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows * n);
    for row in 0..rows {
        for column in 0..n {
            let products = (0..k).map(|at| f64::from(x[row * k + at]) * f64::from(w[column * k + at]));
            out.push(products.sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[column])));
        }
    }
    out
}

#[test]
fn agrees_with_the_naive_loop() {
    on_each_isa(|isa| {
        for (rows, n, k) in SHAPES {
            let mut random = Random((rows * n + k) as u64);
            let (x, w, bias) = (random.values(rows * k), random.values(n * k), random.values(n));
            for precision in Precision::ALL {
                let packed = PackedWeights::pack(&w[..], n, k, precision);
                let mut out = vec![f32::NAN; rows * n];
                linear(&x, &packed, Some(&bias), &mut out, Epilogue::None);
                let expected = match precision {
                    Precision::F32 => naive(&x, &w, Some(&bias), (rows, n, k)),
                    Precision::Bf16 => naive(&to_bf16(&x), &to_bf16(&w), Some(&bias), (rows, n, k)),
                    Precision::Int8 => {
                        naive(&to_bytes(&x, k), &to_signed_bytes(&w, k), Some(&bias), (rows, n, k))
                    }
                };
                assert_close(&out, &expected, 2e-6, &format!("{isa:?} {precision:?} {rows}x{n}x{k}"));
            }
        }
    });
}

#[test]
fn packs_half_precision_weights_exactly() {
    let (n, k) = (21, 130);
    let w = Random(1).values(n * k);
    let (f16s, bf16s): (Vec<_>, Vec<_>) =
        w.iter().map(|w| (half::f16::from_f32(*w), half::bf16::from_f32(*w))).unzip();
    let x = Random(2).values(3 * k);
    let run = |packed: PackedWeights| {
        let mut out = vec![0.0; 3 * n];
        linear(&x, &packed, None, &mut out, Epilogue::None);
        out
    };
    for precision in Precision::ALL {
        let widened: Vec<f32> = f16s.iter().map(|w| w.to_f32()).collect();
        let (half, single) = (
            PackedWeights::pack(&f16s[..], n, k, precision),
            PackedWeights::pack(&widened[..], n, k, precision),
        );
        assert_same_bytes(&run(half), &run(single), "f16");
        let widened: Vec<f32> = bf16s.iter().map(|w| w.to_f32()).collect();
        let (half, single) = (
            PackedWeights::pack(&bf16s[..], n, k, precision),
            PackedWeights::pack(&widened[..], n, k, precision),
        );
        assert_same_bytes(&run(half), &run(single), "bf16");
    }
}

/// Weights that f16 holds stay in it; one more output that it does not hold keeps all of them in f32.
#[test]
fn f32_from_halves_is_f32() {
    let (rows, n, k, rank) = (13, 70, 700, 330);
    let mut random = Random(11);
    let mut rounded = |len: usize| -> Vec<f32> {
        random.values(len).iter().map(|w| half::f16::from_f32(*w).to_f32()).collect()
    };
    let (w, up) = (rounded(n * k), rounded(n * rank));
    let (x, low) = (random.values(rows * k), random.values(rows * rank));
    let pack = |w: &[f32], k: usize| {
        let exact = PackedWeights::pack(w, n, k, Precision::F32);
        let one_more = [w, &vec![0.1; k]].concat();
        let inexact = PackedWeights::pack(&one_more[..], n + 1, k, Precision::F32);
        assert_eq!(exact.bytes() * 2, inexact.bytes(), "both fill as many groups");
        (exact, inexact)
    };
    let ((exact, inexact), (exact_up, inexact_up)) = (pack(&w, k), pack(&up, rank));
    on_each_isa(|isa| {
        let run = |w: &PackedWeights, up: &PackedWeights| {
            let mut out = vec![f32::NAN; rows * w.n()];
            let side = Some(LowRank { low: &low, up });
            linear_beside(Rows::F32(&x), w, side, None, RowsMut::F32(&mut out), Epilogue::None);
            out
        };
        let expected = run(&inexact, &inexact_up);
        let expected: Vec<f32> = expected.chunks_exact(n + 1).flat_map(|row| &row[..n]).copied().collect();
        assert_same_bytes(&run(&exact, &exact_up), &expected, &format!("{isa:?}"));
    });
}

#[test]
fn epilogues_are_applied_after_the_bias() {
    let (rows, n, k) = (9, 70, 40);
    let mut random = Random(3);
    let (x, w, bias, added) =
        (random.values(rows * k), random.values(n * k), random.values(n), random.values(rows * n));
    let plain = naive(&x, &w, Some(&bias), (rows, n, k));
    on_each_isa(|isa| {
        let packed = PackedWeights::pack(&w[..], n, k, Precision::F32);
        let check = |epilogue: Epilogue, expected: Vec<f64>| {
            let mut out = vec![0.0; rows * n];
            linear(&x, &packed, Some(&bias), &mut out, epilogue);
            assert_close(&out, &expected, 2e-6, &format!("{isa:?} {epilogue:?}"));
        };
        check(Epilogue::Silu, plain.iter().map(|x| x / (1.0 + (-x).exp())).collect());
        check(Epilogue::QuickGelu, plain.iter().map(|x| x / (1.0 + (-1.702 * x).exp())).collect());
        check(Epilogue::Add(&added), plain.iter().zip(&added).map(|(x, y)| x + f64::from(*y)).collect());
        check(
            Epilogue::Gelu,
            plain.iter().map(|x| x * crate::elementwise::normal_distribution(*x)).collect(),
        );
    });
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_on_threads() {
    let (rows, n, k) = (200, 150, 700);
    let mut random = Random(4);
    let (x, w) = (random.values(rows * k), random.values(n * k));
    on_each_isa(|isa| {
        if isa == Isa::Portable {
            return; // The same driver, and slow.
        }
        for precision in Precision::ALL {
            let packed = PackedWeights::pack(&w[..], n, k, precision);
            let run = |first: usize, count: usize| {
                let mut out = vec![0.0; count * n];
                linear(&x[first * k..(first + count) * k], &packed, None, &mut out, Epilogue::Silu);
                out
            };
            let all = run(0, rows);
            for (first, count) in [(0, 1), (5, 1), (3, 7), (100, 100), (199, 1)] {
                assert_same_bytes(&run(first, count), &all[first * n..(first + count) * n], "rows alone");
            }
            same_for_any_threads(|| run(0, rows));
        }
    });
}

#[test]
fn geglu_in_one_pass_is_the_same_as_in_two() {
    on_each_isa(|isa| {
        for (rows, n, k) in [(1, 16, 5), (97, 80, 40), (13, 208, 300), (200, 64, 7)] {
            let mut random = Random(rows as u64);
            let (x, w, bias) = (random.values(rows * k), random.values(2 * n * k), random.values(2 * n));
            for precision in Precision::ALL {
                let packed = PackedWeights::pack(&w[..], 2 * n, k, precision);
                let run = |bias: Option<&[f32]>| {
                    let mut out = vec![f32::NAN; rows * n];
                    linear_geglu(Rows::F32(&x), &packed, None, bias, RowsMut::F32(&mut out));
                    out
                };
                for bias in [None, Some(&bias[..])] {
                    let (mut wide, mut expected) = (vec![0.0; rows * 2 * n], vec![0.0; rows * n]);
                    linear(&x, &packed, bias, &mut wide, Epilogue::None);
                    geglu(&wide, n, &mut expected);
                    let what = format!("{isa:?} {precision:?} {rows}x{n}x{k}");
                    assert_same_gated(precision, &run(bias), &expected, &what);
                }
                same_for_any_threads(|| run(Some(&bias)));
            }
        }
    });
}

/// What GEGLU gives in one pass with the layer: the same bytes in f32; elsewhere its GELU may be off by 4e-5.
fn assert_same_gated(precision: Precision, actual: &[f32], expected: &[f32], what: &str) {
    match precision {
        Precision::F32 => assert_same_bytes(actual, expected, what),
        _ => {
            let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
            assert_close(actual, &expected, 1e-4, what);
        }
    }
}

#[test]
fn a_low_rank_beside_the_weights_is_added_before_the_bias() {
    on_each_isa(|isa| {
        for (rows, n, k, rank) in [(1, 16, 5, 1), (97, 80, 40, 32), (13, 210, 300, 7), (5, 33, 9, 700)] {
            let mut random = Random((rows + rank) as u64);
            let (x, w, bias) = (random.values(rows * k), random.values(n * k), random.values(n));
            let (low, up) = (random.values(rows * rank), random.values(n * rank));
            for precision in Precision::ALL {
                // A low rank is in floats whatever the layer is in.
                let floats = if precision == Precision::Int8 { Precision::Bf16 } else { precision };
                let (packed, packed_up) = (
                    PackedWeights::pack(&w[..], n, k, precision),
                    PackedWeights::pack(&up[..], n, rank, floats),
                );
                let side = LowRank { low: &low, up: &packed_up };
                let run = |epilogue: Epilogue| {
                    let mut out = vec![f32::NAN; rows * n];
                    let (x, room) = (Rows::F32(&x), RowsMut::F32(&mut out));
                    linear_beside(x, &packed, Some(side), Some(&bias), room, epilogue);
                    out
                };
                let rounded = |values: &[f32]| match floats {
                    Precision::F32 => values.to_vec(),
                    _ => to_bf16(values),
                };
                let (x_left, w_left) = match precision {
                    Precision::Int8 => (to_bytes(&x, k), to_signed_bytes(&w, k)),
                    _ => (rounded(&x), rounded(&w)),
                };
                let base = naive(&x_left, &w_left, Some(&bias), (rows, n, k));
                let beside = naive(&rounded(&low), &rounded(&up), None, (rows, n, rank));
                let expected: Vec<f64> =
                    base.iter().zip(&beside).map(|(base, beside)| base + beside).collect();
                let what = format!("{isa:?} {precision:?} {rows}x{n}x{k} and {rank}");
                assert_close(&run(Epilogue::None), &expected, 2e-6, &what);
                let gated = expected.iter().map(|x| x / (1.0 + (-x).exp())).collect::<Vec<_>>();
                assert_close(&run(Epilogue::Silu), &gated, 4e-6, &what);
                same_for_any_threads(|| run(Epilogue::None));
                // In one pass with GEGLU behind it, the same as in two.
                if n % 32 == 0 || n == 80 {
                    let half = n / 2 / 16 * 16;
                    let (w, up) = (&w[..2 * half * k], &up[..2 * half * rank]);
                    let packed = PackedWeights::pack(w, 2 * half, k, precision);
                    let packed_up = PackedWeights::pack(up, 2 * half, rank, floats);
                    let (side, bias) = (Some(LowRank { low: &low, up: &packed_up }), Some(&bias[..2 * half]));
                    let (mut wide, mut expected) = (vec![0.0; rows * 2 * half], vec![0.0; rows * half]);
                    linear_beside(
                        Rows::F32(&x),
                        &packed,
                        side,
                        bias,
                        RowsMut::F32(&mut wide),
                        Epilogue::None,
                    );
                    geglu(&wide, half, &mut expected);
                    let mut out = vec![f32::NAN; rows * half];
                    linear_geglu(Rows::F32(&x), &packed, side, bias, RowsMut::F32(&mut out));
                    assert_same_gated(precision, &out, &expected, &what);
                }
            }
        }
    });
}

/// A bf16 input is what rounding an f32 one gives, and a bf16 output what rounding an f32 one gives.
#[test]
fn rows_in_bf16_are_the_rounded_ones() {
    on_each_isa(|isa| {
        for (rows, n, k, rank) in
            [(1, 16, 5, 1), (3, 1, 2, 3), (97, 80, 40, 32), (13, 210, 700, 7), (200, 130, 64, 8)]
        {
            let mut random = Random((rows + n) as u64);
            let (x, w, bias) = (halves(&random.values(rows * k)), random.values(n * k), random.values(n));
            let (low, up) = (random.values(rows * rank), random.values(n * rank));
            let (added, wide) = (random.values(rows * n), widened(&x));
            let up = PackedWeights::pack(&up[..], n, rank, Precision::Bf16);
            for precision in Precision::ALL {
                let packed = PackedWeights::pack(&w[..], n, k, precision);
                for (side, epilogue) in [
                    (None, Epilogue::None),
                    (None, Epilogue::Add(&added)),
                    (Some(LowRank { low: &low, up: &up }), Epilogue::Silu),
                ] {
                    let what = format!("{isa:?} {precision:?} {rows}x{n}x{k} {side:?}");
                    let run =
                        |x: Rows, out: RowsMut| linear_beside(x, &packed, side, Some(&bias), out, epilogue);
                    let mut expected = vec![f32::NAN; rows * n];
                    run(Rows::F32(&wide), RowsMut::F32(&mut expected));
                    let mut out = vec![f32::NAN; rows * n];
                    run(Rows::Bf16(&x), RowsMut::F32(&mut out));
                    assert_same_bytes(&out, &expected, &what);
                    assert_rounded(rows * n, &expected, &what, |out| run(Rows::Bf16(&x), RowsMut::Bf16(out)));
                    assert_rounded(rows * n, &expected, &what, |out| {
                        run(Rows::F32(&wide), RowsMut::Bf16(out))
                    });
                }
                let inner = n / 2 / 16 * 16;
                let packed = PackedWeights::pack(&w[..2 * inner * k], 2 * inner, k, precision);
                let run =
                    |x: Rows, out: RowsMut| linear_geglu(x, &packed, None, Some(&bias[..2 * inner]), out);
                let what = format!("{isa:?} {precision:?} {rows}x{inner}x{k} GEGLU");
                let mut expected = vec![f32::NAN; rows * inner];
                run(Rows::F32(&wide), RowsMut::F32(&mut expected));
                assert_rounded(rows * inner, &expected, &what, |out| run(Rows::Bf16(&x), RowsMut::Bf16(out)));
            }
        }
    });
}

/// Rows of bf16 that begin in the middle of a word.
#[test]
fn rows_in_bf16_may_lie_anywhere() {
    let (rows, n, k) = (7, 33, 12);
    let mut random = Random(12);
    let (x, w) = (halves(&random.values(rows * k + 1)), random.values(n * k));
    let packed = PackedWeights::pack(&w[..], n, k, Precision::Bf16);
    for first in [0, 1] {
        let x = &x[first..][..rows * k];
        let (mut expected, mut out) = (vec![0.0; rows * n], vec![0.0; rows * n]);
        linear(&widened(x), &packed, None, &mut expected, Epilogue::None);
        linear_beside(Rows::Bf16(x), &packed, None, None, RowsMut::F32(&mut out), Epilogue::None);
        assert_same_bytes(&out, &expected, "an input from the middle of a word on");
    }
}

#[test]
fn matmul_agrees_with_the_naive_loop() {
    on_each_isa(|isa| {
        for (batch, m, n, k) in
            [(1, 1, 1, 1), (2, 7, 19, 5), (3, 33, 65, 300), (1, 200, 64, 64), (2, 3, 130, 0)]
        {
            let mut random = Random((m * n) as u64);
            let (a, b) = (random.values(batch * m * k), random.values(batch * n * k));
            for (a_layout, b_layout) in [
                (Layout::Plain, Layout::Plain),
                (Layout::Transposed, Layout::Plain),
                (Layout::Plain, Layout::Transposed),
                (Layout::Transposed, Layout::Transposed),
            ] {
                let mut expected = Vec::new();
                for (item, row, column) in (0..batch * m * n).map(|at| (at / (m * n), at / n % m, at % n)) {
                    let product = |at: usize| {
                        let a = match a_layout {
                            Layout::Plain => a[(item * m + row) * k + at],
                            Layout::Transposed => a[(item * k + at) * m + row],
                        };
                        let b = match b_layout {
                            Layout::Plain => b[(item * k + at) * n + column],
                            Layout::Transposed => b[(item * n + column) * k + at],
                        };
                        f64::from(a) * f64::from(b)
                    };
                    expected.push((0..k).map(product).sum());
                }
                let mut out = vec![f32::NAN; batch * m * n];
                matmul((&a, a_layout), (&b, b_layout), [batch, m, n, k], &mut out);
                assert_close(
                    &out,
                    &expected,
                    2e-6,
                    &format!("{isa:?} {batch}x{m}x{n}x{k} {a_layout:?} {b_layout:?}"),
                );
            }
        }
    });
}

#[test]
fn int8_gives_the_same_bytes_on_every_instruction_set() {
    // Whole numbers are quantised alike whether products and sums are rounded together or apart.
    let (rows, n, k) = (13, 70, 1030);
    let mut random = Random(8);
    let mut whole = |len: usize, most: f32| -> Vec<f32> {
        (0..len).map(|at| if at % k == 0 { most } else { (random.value() * most).round() }).collect()
    };
    let (x, w) = (whole(rows * k, 127.0), whole(n * k, 127.0));
    let packed = PackedWeights::pack(&w[..], n, k, Precision::Int8);
    let mut results: Vec<Vec<f32>> = Vec::new();
    on_each_isa(|_| {
        let mut out = vec![f32::NAN; rows * n];
        linear(&x, &packed, None, &mut out, Epilogue::None);
        results.push(out);
    });
    for other in &results[1..] {
        assert_same_bytes(&results[0], other, "an instruction set");
    }
}

/// Every pair of products at its limit: what does not fit into 16 bits would show.
#[test]
fn int8_holds_the_largest_products() {
    let (rows, n, k) = (4, 16, 40);
    let signs = |of: usize| (0..of * k).map(|at| if (at / k) >> (at % 2) & 1 == 0 { 1.0 } else { -1.0 });
    let (x, w): (Vec<f32>, Vec<f32>) = (signs(rows).collect(), signs(n).collect());
    let expected = naive(&to_bytes(&x, k), &to_signed_bytes(&w, k), None, (rows, n, k));
    on_each_isa(|isa| {
        let packed = PackedWeights::pack(&w[..], n, k, Precision::Int8);
        let mut out = vec![f32::NAN; rows * n];
        linear(&x, &packed, None, &mut out, Epilogue::None);
        assert_close(&out, &expected, 1e-6, &format!("{isa:?}"));
    });
}

#[test]
fn int8_holds_what_is_extreme_and_shows_what_is_not_finite() {
    let (n, k) = (17, 40);
    let mut random = Random(9);
    let w = random.values(n * k);
    on_each_isa(|isa| {
        let packed = PackedWeights::pack(&w[..], n, k, Precision::Int8);
        let run = |x: &[f32], packed: &PackedWeights| {
            let mut out = vec![0.5; n];
            linear(x, packed, None, &mut out, Epilogue::None);
            out
        };
        assert!(run(&[0.0; 40], &packed).iter().all(|out| *out == 0.0), "{isa:?}: zeros");
        assert!(run(&[f32::MAX; 40], &packed).iter().any(|out| *out != 0.0), "{isa:?}: large values");
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 17, 39] {
                let mut x = vec![0.5; k];
                x[place] = value;
                assert!(run(&x, &packed).iter().all(|out| !out.is_finite()), "{isa:?}: {value} at {place}");
            }
            let mut broken = w.clone();
            broken[3 * k + 7] = value;
            let broken = PackedWeights::pack(&broken[..], n, k, Precision::Int8);
            let out = run(&[0.5; 40], &broken);
            assert!(!out[3].is_finite() && out[4].is_finite(), "{isa:?}: {value} among the weights");
        }
    });
}

/// Normal activations and weights, as norms and training leave them.
#[test]
fn int8_is_near_enough_in_each_kind_of_layer() {
    let (rows, n, k) = (64, 64, 1280);
    let mut random = Random(10);
    let mut normal =
        |len: usize| -> Vec<f32> { (0..len).map(|_| (0..6).map(|_| random.value()).sum::<f32>()).collect() };
    let (x, w) = (normal(rows * k), normal(n * k));
    let exact = naive(&x, &w, None, (rows, n, k));
    let error_of = |packed: &PackedWeights| {
        let mut out = vec![0.0; exact.len()];
        linear(&x, packed, None, &mut out, Epilogue::None);
        crate::relative_rms(&out, &exact)
    };
    for (precision, most) in [(Precision::Bf16, 3e-3), (Precision::Int8, 1.2e-2)] {
        let error = error_of(&PackedWeights::pack(&w[..], n, k, precision));
        println!("linear {precision:?}: relative error (root mean square) {error:.1e}");
        assert!(error < most, "{precision:?}: {error}");
    }
}
