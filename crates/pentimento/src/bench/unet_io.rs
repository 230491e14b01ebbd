//! One call of the UNet from file to file, so that anyone can measure its error against another program.

use crate::output;
use anyhow::{Context, Result, anyhow};
use pentimento_diffusion::{Model, Probe};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use std::path::Path;

/// Reads `sample` `[B, C, h, w]`, `timestep` `[1]` and `context` `[B, S, D]`, and writes `out` `[B, C, h, w]`.
pub(super) fn run(model: &Model, input: &Path, goal: &Path) -> Result<()> {
    output::check_writable(goal)?;
    let bytes = output::read(input)?;
    let named = || format!("{} is no safetensors file of sample, timestep and context", input.display());
    let inputs = Inputs::read(&bytes).with_context(named)?;
    let shape = inputs.sample.1;
    let probe = Probe::new(model, model.native_size())?;
    let predicted = probe.unet(inputs.sample, inputs.timestep, inputs.context)?;
    let bytes: Vec<u8> = predicted.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes)?;
    let file = serialize([("out", view)], None)?;
    output::write(goal, &file)
}

struct Inputs {
    sample: (Vec<f32>, [usize; 4]),
    timestep: f64,
    context: (Vec<f32>, [usize; 3]),
}

impl Inputs {
    fn read(bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes)?;
        let (timestep, [_]) = values::<1>(&file, "timestep")?;
        let timestep = timestep.first().map(|timestep| f64::from(*timestep));
        Ok(Self {
            sample: values(&file, "sample")?,
            timestep: timestep.ok_or_else(|| anyhow!("timestep is empty"))?,
            context: values(&file, "context")?,
        })
    }
}

/// A tensor's values and shape. Integers and halves are no mistake of anybody's that is worth a message of its own.
fn values<const N: usize>(file: &SafeTensors, name: &str) -> Result<(Vec<f32>, [usize; N])> {
    let tensor = file.tensor(name)?;
    let shape: [usize; N] = tensor
        .shape()
        .try_into()
        .map_err(|_| anyhow!("{name} has the shape {:?}, expected {N} dimensions", tensor.shape()))?;
    match tensor.dtype() {
        Dtype::F32 => {
            let numbers = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            Ok((numbers.collect(), shape))
        }
        other => Err(anyhow!("{name} is stored as {other:?}, expected F32")),
    }
}
