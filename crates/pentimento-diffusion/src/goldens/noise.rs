//! Noise against `torch.randn`, on a CPU and as CUDA draws it.

use super::{Golden, against, measured};
use crate::noise::Noise;
use candle_core::Tensor;
use pentimento_request::NoiseSource;
use serde_json::Value;

/// Absolute.
const TOLERANCE: f64 = 1e-6;

fn largest_difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let difference = (got - expected).and_then(|difference| difference.abs()?.flatten_all()?.max(0));
    f64::from(difference.and_then(|largest| largest.to_scalar::<f32>()).expect("f32 values"))
}

fn seed(case: &Value) -> u64 {
    case["seed"].as_str().expect("a seed").parse().expect("a number")
}

fn shape(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).expect("a shape")
}

/// Compares every draw of a golden file, single ones and those of sequences.
fn compare(source: NoiseSource, name: &str) {
    let golden = Golden::open(name);
    let single = golden.case["single"].as_object().expect("cases");
    let sequences = golden.case["sequences"].as_object().expect("cases");
    assert!(single.len() >= 20 && !sequences.is_empty());
    for (name, case) in single {
        let drawn = Noise::new(source, seed(case)).draw(&shape(&case["shape"])).expect("noise");
        measured(name, largest_difference(&drawn, &golden.tensor(name)), "absolute", TOLERANCE);
    }
    for (prefix, case) in sequences {
        let mut noise = Noise::new(source, seed(case));
        for (index, dims) in case["shapes"].as_array().expect("shapes").iter().enumerate() {
            let (drawn, name) = (noise.draw(&shape(dims)).expect("noise"), format!("{prefix}.{index}"));
            measured(&name, largest_difference(&drawn, &golden.tensor(&name)), "absolute", TOLERANCE);
        }
    }
}

#[test]
fn draws_are_those_of_torch_on_a_cpu() {
    against("torch.randn on a CPU", "noise `torch-cpu`");
    compare(NoiseSource::TorchCpu, "noise");
}

#[test]
fn draws_are_those_of_torch_on_cuda() {
    against("torch.randn on CUDA, written again in numpy", "noise `philox`");
    compare(NoiseSource::Philox, "philox");
}
