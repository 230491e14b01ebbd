//! Noise against `torch.randn`.

use super::Golden;
use crate::noise::Noise;
use candle_core::Tensor;
use serde_json::Value;

/// Absolute.
const TOLERANCE: f32 = 1e-6;

fn largest_difference(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let difference = (got - expected).and_then(|difference| difference.abs()?.flatten_all()?.max(0));
    difference.and_then(|largest| largest.to_scalar()).expect("f32 values")
}

fn seed(case: &Value) -> u64 {
    case["seed"].as_str().expect("a seed").parse().expect("a number")
}

fn shape(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).expect("a shape")
}

#[test]
fn single_draws_are_torchs() {
    let golden = Golden::open("noise");
    let cases = golden.case["single"].as_object().expect("cases");
    assert!(cases.len() > 40);
    for (name, case) in cases {
        let drawn = Noise::new(seed(case)).draw(&shape(&case["shape"])).expect("noise");
        let difference = largest_difference(&drawn, &golden.tensor(name));
        assert!(difference <= TOLERANCE, "{name}: {difference:e}");
    }
}

#[test]
fn sequences_of_draws_are_torchs() {
    let golden = Golden::open("noise");
    let cases = golden.case["sequences"].as_object().expect("cases");
    assert!(!cases.is_empty());
    for (prefix, case) in cases {
        let mut noise = Noise::new(seed(case));
        for (index, dims) in case["shapes"].as_array().expect("shapes").iter().enumerate() {
            let drawn = noise.draw(&shape(dims)).expect("noise");
            let difference = largest_difference(&drawn, &golden.tensor(&format!("{prefix}.{index}")));
            assert!(difference <= TOLERANCE, "{prefix}.{index}: {difference:e}");
        }
    }
}
