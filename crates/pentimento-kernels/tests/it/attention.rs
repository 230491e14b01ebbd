use pentimento_kernels::{AttentionShape, Mask, Precision, Rows, RowsMut, attention, attention_in};

use crate::{
    Random, assert_close, assert_rounded, assert_same_bytes, halves, on_each_isa, same_for_any_threads,
    widened,
};

fn naive(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape, scale: f32, mask: Mask) -> Vec<f64> {
    let AttentionShape { batch, heads, head_dim, queries, keys } = shape;
    let at = |item: usize, tokens: usize, token: usize, head: usize| {
        ((item * tokens + token) * heads + head) * head_dim
    };
    let mut out = vec![0.0; q.len()];
    for (item, head) in (0..batch * heads).map(|at| (at / heads, at % heads)) {
        for query in 0..queries {
            let seen = if mask == Mask::Causal { keys.min(query + 1) } else { keys };
            let row = &q[at(item, queries, query, head)..][..head_dim];
            let scores: Vec<f64> = (0..seen)
                .map(|key| {
                    let key = &k[at(item, keys, key, head)..][..head_dim];
                    row.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
                        * f64::from(scale)
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                let value = &v[at(item, keys, key, head)..][..head_dim];
                let target = &mut out[at(item, queries, query, head)..][..head_dim];
                for (out, value) in target.iter_mut().zip(value) {
                    *out += (score - max).exp() / total * f64::from(*value);
                }
            }
        }
    }
    out
}

fn shape(batch: usize, heads: usize, head_dim: usize, queries: usize, keys: usize) -> AttentionShape {
    AttentionShape { batch, heads, head_dim, queries, keys }
}

#[test]
fn agrees_with_the_naive_loop() {
    let shapes = [
        shape(1, 1, 1, 1, 1),
        shape(2, 3, 40, 17, 77),
        shape(1, 2, 64, 77, 77),
        shape(1, 1, 80, 30, 300),
        shape(2, 2, 5, 600, 9),
        shape(1, 1, 160, 13, 513),
        shape(1, 1, 513, 7, 20),
    ];
    on_each_isa(|isa| {
        for shape in shapes {
            let mut random = Random(shape.keys as u64);
            let width = shape.heads * shape.head_dim;
            let q = random.values(shape.batch * shape.queries * width);
            let k = random.values(shape.batch * shape.keys * width);
            let v = random.values(shape.batch * shape.keys * width);
            for (mask, scale) in [(Mask::None, 0.3), (Mask::Causal, 0.3), (Mask::None, 8.0)] {
                if mask == Mask::Causal && shape.queries != shape.keys {
                    continue;
                }
                let mut out = vec![f32::NAN; q.len()];
                attention(&q, &k, &v, shape, scale, mask, &mut out);
                // Large scores: an error of a score is multiplied by its size.
                let tolerance = if scale > 1.0 { 2e-4 } else { 3e-6 };
                assert_close(
                    &out,
                    &naive(&q, &k, &v, shape, scale, mask),
                    tolerance,
                    &format!("{isa:?} {shape:?} {mask:?}"),
                );
            }
        }
    });
}

/// Both factors are rounded to bf16, the weights too: each rounding is at most 2^-9 of its value.
#[test]
fn bf16_agrees_within_its_roundings() {
    on_each_isa(|isa| {
        for shape in
            [shape(1, 1, 1, 1, 1), shape(2, 3, 40, 17, 77), shape(1, 1, 81, 30, 301), shape(1, 2, 33, 77, 77)]
        {
            let mut random = Random(shape.keys as u64);
            let width = shape.heads * shape.head_dim;
            let q = crate::to_bf16(&random.values(shape.batch * shape.queries * width));
            let k = crate::to_bf16(&random.values(shape.batch * shape.keys * width));
            let v = crate::to_bf16(&random.values(shape.batch * shape.keys * width));
            for mask in [Mask::None, Mask::Causal] {
                if mask == Mask::Causal && shape.queries != shape.keys {
                    continue;
                }
                let mut out = vec![f32::NAN; q.len()];
                let [q_rows, k_rows, v_rows] = [&q, &k, &v].map(|rows| Rows::F32(rows));
                let rows_out = RowsMut::F32(&mut out);
                attention_in(Precision::Bf16, q_rows, k_rows, v_rows, shape, 0.3, mask, rows_out);
                assert_close(
                    &out,
                    &naive(&q, &k, &v, shape, 0.3, mask),
                    2e-3,
                    &format!("{isa:?} {shape:?} {mask:?}"),
                );
            }
        }
    });
}

#[test]
fn extreme_scores_give_the_value_of_the_greatest() {
    let (keys, dim) = (700, 8);
    let shape = shape(1, 1, dim, 1, keys);
    let k: Vec<f32> = (0..keys * dim).map(|at| (at / dim) as f32 * 100.0).collect();
    let v: Vec<f32> = (0..keys * dim).map(|at| at as f32).collect();
    on_each_isa(|_| {
        let mut out = vec![0.0; dim];
        attention(&[1.0; 8], &k, &v, shape, 1.0, Mask::None, &mut out);
        let greatest: Vec<f64> = v[(keys - 1) * dim..].iter().map(|v| f64::from(*v)).collect();
        assert_close(&out, &greatest, 2e-7, "the value of the greatest score");
    });
}

/// Scores that grow from key to key raise what weights are relative to again and again, each query for itself.
#[test]
fn a_query_does_not_depend_on_those_beside_it() {
    let (queries, keys, dim) = (70, 230, 8);
    let all = shape(1, 1, dim, queries, keys);
    let mut random = Random(9);
    let mut q = random.values(queries * dim);
    let k: Vec<f32> =
        random.values(keys * dim).iter().enumerate().map(|(at, x)| x + (at / dim) as f32 / 10.0).collect();
    let v = random.values(keys * dim);
    // Every third query's scores rise by some hundreds over the keys, every third one's fall.
    for (at, row) in q.chunks_exact_mut(dim).enumerate() {
        let lift = [0.0, 3.0, -3.0][at % 3];
        row.iter_mut().for_each(|x| *x += lift);
    }
    on_each_isa(|isa| {
        for (precision, tolerance) in [(Precision::F32, 5e-5), (Precision::Bf16, 5e-3)] {
            let [q, k, v] = match precision {
                Precision::Bf16 => [&q, &k, &v].map(|values| crate::to_bf16(values)),
                _ => [&q, &k, &v].map(|values| values.clone()),
            };
            let run = |shape: AttentionShape, q: &[f32]| {
                let mut out = vec![f32::NAN; q.len()];
                let [q, k, v] = [q, &k, &v].map(Rows::F32);
                attention_in(precision, q, k, v, shape, 1.0, Mask::None, RowsMut::F32(&mut out));
                out
            };
            let together = run(all, &q);
            let what = format!("{isa:?} {precision:?}");
            assert_close(&together, &naive(&q, &k, &v, all, 1.0, Mask::None), tolerance, &what);
            for (query, row) in q.chunks_exact(dim).enumerate() {
                let alone = run(shape(1, 1, dim, 1, keys), row);
                assert_same_bytes(&alone, &together[query * dim..][..dim], &format!("{what}, query {query}"));
            }
        }
    });
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let shape = shape(1, 1, 8, 8, 40);
    on_each_isa(|_| {
        let mut k = vec![0.5; 40 * 8];
        k[100] = f32::NAN;
        let mut out = vec![0.0; 64];
        attention(&[1.0; 64], &k, &[1.0; 320], shape, 1.0, Mask::None, &mut out);
        assert!(out.iter().all(|x| x.is_nan()));
    });
}

#[test]
fn an_item_does_not_depend_on_its_neighbours_or_on_threads() {
    let all = shape(2, 2, 24, 500, 300);
    let one = AttentionShape { batch: 1, ..all };
    let mut random = Random(5);
    let (q, k, v) = (random.values(2 * 500 * 48), random.values(2 * 300 * 48), random.values(2 * 300 * 48));
    on_each_isa(|_| {
        for precision in Precision::FLOATS {
            let run = || {
                let mut out = vec![0.0; q.len()];
                let [q, k, v] = [&q, &k, &v].map(|rows| Rows::F32(rows));
                attention_in(precision, q, k, v, all, 0.2, Mask::None, RowsMut::F32(&mut out));
                out
            };
            let mut alone = vec![0.0; q.len() / 2];
            let (q, k, v) = (&q[q.len() / 2..], &k[k.len() / 2..], &v[v.len() / 2..]);
            let [q, k, v] = [q, k, v].map(Rows::F32);
            attention_in(precision, q, k, v, one, 0.2, Mask::None, RowsMut::F32(&mut alone));
            assert_same_bytes(&alone, &run()[q.len()..], "an item alone");
            same_for_any_threads(run);
        }
    });
}

/// A bf16 tensor is what rounding an f32 one gives, each for itself.
#[test]
fn tensors_in_bf16_are_the_rounded_ones() {
    on_each_isa(|isa| {
        for shape in [
            shape(1, 1, 1, 1, 1),
            shape(2, 3, 40, 17, 77),
            shape(1, 2, 81, 30, 301),
            shape(1, 2, 18, 77, 77),
            shape(1, 1, 160, 50, 600),
        ] {
            let mut random = Random(shape.keys as u64);
            let width = shape.heads * shape.head_dim;
            let q = halves(&random.values(shape.batch * shape.queries * width));
            let k = halves(&random.values(shape.batch * shape.keys * width));
            let v = halves(&random.values(shape.batch * shape.keys * width));
            let wide = [&q, &k, &v].map(|values| widened(values));
            for (precision, mask) in
                [(Precision::Bf16, Mask::None), (Precision::Bf16, Mask::Causal), (Precision::F32, Mask::None)]
            {
                let run = |halved: [bool; 3], out: RowsMut| {
                    let rows: [Rows; 3] = std::array::from_fn(|at| match halved[at] {
                        true => Rows::Bf16([&q, &k, &v][at]),
                        false => Rows::F32(&wide[at]),
                    });
                    attention_in(precision, rows[0], rows[1], rows[2], shape, 0.3, mask, out);
                };
                let what = format!("{isa:?} {shape:?} {precision:?} {mask:?}");
                let mut expected = vec![f32::NAN; q.len()];
                run([false; 3], RowsMut::F32(&mut expected));
                for halved in [[true; 3], [true, false, false], [false, true, false], [false, false, true]] {
                    let mut out = vec![f32::NAN; q.len()];
                    run(halved, RowsMut::F32(&mut out));
                    assert_same_bytes(&out, &expected, &what);
                }
                assert_rounded(q.len(), &expected, &what, |out| run([true; 3], RowsMut::Bf16(out)));
            }
        }
    });
}
