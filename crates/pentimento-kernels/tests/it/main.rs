//! Every kernel against a naive loop in f64, on every instruction set that this machine runs.
//!
//! - `linear`: linear layers and epilogues, and `matmul`
//! - `conv`: convolutions, paddings, strides, upsampling
//! - `attention`: masks, odd head sizes and token counts
//! - `elementwise`: activations, softmax, norms
//! - `speed`

mod attention;
mod conv;
mod elementwise;
mod linear;
mod speed;

use half::bf16;
use pentimento_kernels::Isa;

/// A small deterministic generator (splitmix64) of values in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Calls `body` once for each instruction set of this machine.
fn on_each_isa(mut body: impl FnMut(Isa)) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        isa.run(|| body(isa));
    }
}

/// Calls `body` in pools of 1, 2 and 3 threads and asserts that it returns the same bytes.
fn same_for_any_threads(body: impl Fn() -> Vec<f32> + Sync) {
    let isa = Isa::current();
    let results: Vec<Vec<f32>> = (1..=3)
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| isa.run(&body))
        })
        .collect();
    assert_same_bytes(&results[0], &results[1], "1 and 2 threads");
    assert_same_bytes(&results[0], &results[2], "1 and 3 threads");
}

#[track_caller]
fn assert_same_bytes(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let differs = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "{what}: first difference");
}

/// Asserts that each element is within `tolerance` times the larger of 1 and the expected values' greatest magnitude.
#[track_caller]
fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0_f64, |max, x| max.max(x.abs()));
    for (at, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= tolerance * scale, "{what}: element {at} is {actual}, not {expected}");
    }
}

/// Root of the mean squared error over that of the mean square.
fn relative_rms(actual: &[f32], expected: &[f64]) -> f64 {
    let errors =
        actual.iter().zip(expected).map(|(actual, expected)| (f64::from(*actual) - expected).powi(2));
    (errors.sum::<f64>() / expected.iter().map(|expected| expected.powi(2)).sum::<f64>()).sqrt()
}

/// Rounds to bf16 as the kernels document it.
fn to_bf16(values: &[f32]) -> Vec<f32> {
    widened(&halves(values))
}

fn halves(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().copied().map(bf16::to_f32).collect()
}

/// Asserts that what `run` writes, with any number of threads, are the rounded values.
#[track_caller]
fn assert_rounded(len: usize, values: &[f32], what: &str, run: impl Fn(&mut [bf16]) + Sync) {
    let of_pool = |threads: usize| {
        let isa = Isa::current();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let mut out = vec![bf16::NAN; len];
        pool.install(|| isa.run(|| run(&mut out)));
        widened(&out)
    };
    for threads in 1..=3 {
        assert_same_bytes(&of_pool(threads), &to_bf16(values), what);
    }
}

/// What is left of values when they are eight bits with a scale and a zero for each `per` of them, as activations are.
fn to_bytes(values: &[f32], per: usize) -> Vec<f32> {
    let quantised = values.chunks(per.max(1)).flat_map(|values| {
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let scale = (high * 0.5 - low * 0.5) * (2.0 / 255.0);
        let zero = (-low / scale).round();
        values.iter().map(move |value| {
            let steps = f64::from(*value) * f64::from(1.0 / scale) + f64::from(zero);
            (steps.round_ties_even().clamp(0.0, 255.0) as f32 - zero) * scale
        })
    });
    quantised.collect()
}

/// What is left of weights when they are signed eight bits with a scale for each `per` of them.
fn to_signed_bytes(weights: &[f32], per: usize) -> Vec<f32> {
    let quantised = weights.chunks(per.max(1)).flat_map(|weights| {
        let scale = weights.iter().fold(0.0_f32, |most, weight| most.max(weight.abs())) / 127.0;
        weights.iter().map(move |weight| (weight * (1.0 / scale)).round_ties_even() * scale)
    });
    quantised.collect()
}
