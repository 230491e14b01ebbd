//! An ONNX file, checked and run.
//!
//! A file can neither read nor write anything, since its runtime (rten) is safe Rust that is only given the operators
//! below; files with control flow, weights in other files or any other operator do not load. What a network takes of
//! memory and time follows from its weights, whose size is limited, and from its input's size, which the callers limit.
//! A mistake in the runtime ends in an error too: its panics are caught here.

use crate::error::{FaceError, FaceErrorKind};
use rten::{Dimension, Model, ModelOptions, OpRegistry, ValueOrView, op_types};
use rten_tensor::{AsView, Layout, NdTensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Largest file: the largest published embedder (a ResNet of 200 layers) has 450 MB.
const LARGEST_FILE: usize = 512 << 20;

/// The operators of face networks: layers, and what exporters write around them to compute shapes.
fn operators() -> OpRegistry {
    OpRegistry::with_ops(&[
        &op_types::Add,
        &op_types::AveragePool,
        &op_types::BatchNormalization,
        &op_types::Cast,
        &op_types::Clip,
        &op_types::Concat,
        &op_types::Conv,
        &op_types::Div,
        &op_types::Exp,
        &op_types::Flatten,
        &op_types::Floor,
        &op_types::Gather,
        &op_types::Gemm,
        &op_types::GlobalAveragePool,
        &op_types::HardSigmoid,
        &op_types::HardSwish,
        &op_types::Identity,
        &op_types::LeakyRelu,
        &op_types::MatMul,
        &op_types::MaxPool,
        &op_types::Mul,
        &op_types::Pad,
        &op_types::PRelu,
        &op_types::ReduceMean,
        &op_types::Relu,
        &op_types::Reshape,
        &op_types::Resize,
        &op_types::Shape,
        &op_types::Sigmoid,
        &op_types::Slice,
        &op_types::Softmax,
        &op_types::Split,
        &op_types::Sqrt,
        &op_types::Squeeze,
        &op_types::Sub,
        &op_types::Transpose,
        &op_types::Unsqueeze,
        &op_types::Upsample,
    ])
}

/// A network with one input.
pub(crate) struct Network {
    model: Model,
    label: String,
    /// Sizes of the input's dimensions, `None` for those that the caller chooses.
    pub(crate) input: Vec<Option<usize>>,
    /// Names of the outputs.
    pub(crate) outputs: Vec<String>,
}

/// One output: its values, row-major.
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Network {
    /// Reads a network; `label` is the file's name in messages.
    pub(crate) fn load(file: &[u8], label: &str) -> Result<Self, FaceError> {
        let malformed = |what: String| FaceError::new(FaceErrorKind::Malformed, label, what);
        if file.len() > LARGEST_FILE {
            let megabytes = file.len() >> 20;
            let most = LARGEST_FILE >> 20;
            return Err(malformed(format!("{megabytes} MB are more than the {most} MB that are read")));
        }
        let mut options = ModelOptions::with_ops(operators());
        options.prepack_weights(true);
        let model = caught(|| options.load(file.to_vec()))
            .ok_or_else(|| malformed("cannot be read as ONNX: the reader gave up".to_owned()))?
            .map_err(|error| malformed(format!("cannot be read as ONNX: {error}")))?;
        let Some(input) = (model.input_ids().len() == 1).then(|| model.input_shape(0)).flatten() else {
            let what = "a face network has one input of known dimensions";
            return Err(FaceError::new(FaceErrorKind::Unsupported, label, what));
        };
        let input = input.into_iter().map(|dimension| match dimension {
            Dimension::Fixed(size) => Some(size),
            Dimension::Symbolic(_) => None,
        });
        let name =
            |id| model.node_info(id).and_then(|info| info.name().map(str::to_owned)).unwrap_or_default();
        let outputs = model.output_ids().iter().map(|id| name(*id)).collect();
        Ok(Self { input: input.collect(), outputs, label: label.to_owned(), model })
    }

    /// Runs the network.
    pub(crate) fn run(&self, shape: [usize; 4], values: Vec<f32>) -> Result<Vec<Output>, FaceError> {
        let input = NdTensor::from_data(shape, values);
        let run = || {
            let input: ValueOrView = input.view().into();
            self.model.run(vec![(self.model.input_ids()[0], input)], self.model.output_ids(), None)
        };
        let outputs = caught(run)
            .ok_or_else(|| self.failed("the runtime gave up"))?
            .map_err(|error| self.failed(&error.to_string()))?;
        let as_floats = |value: rten::Value| {
            let tensor =
                value.into_tensor::<f32>().ok_or_else(|| self.failed("an output is not of floats"))?;
            Ok(Output { shape: tensor.shape().to_vec(), values: tensor.to_vec() })
        };
        outputs.into_iter().map(as_floats).collect()
    }

    /// The file is a network of another kind than it has to be.
    pub(crate) fn unsupported(&self, what: &str) -> FaceError {
        FaceError::new(FaceErrorKind::Unsupported, &self.label, what)
    }

    /// The network ran and did not give what its kind gives.
    pub(crate) fn failed(&self, what: &str) -> FaceError {
        FaceError::new(FaceErrorKind::Failed, &self.label, format!("the network failed: {what}"))
    }
}

impl Output {
    /// The rows of a matrix of so many columns, whatever dimensions of one lie around it.
    pub(crate) fn rows(&self, columns: usize) -> Option<impl Iterator<Item = &[f32]>> {
        let last =
            self.shape.last().copied() == Some(columns) && self.values.iter().all(|value| value.is_finite());
        last.then(|| self.values.chunks_exact(columns))
    }

    /// Number of rows of so many columns.
    pub(crate) fn row_count(&self, columns: usize) -> usize {
        self.values.len() / columns
    }
}

/// What `body` answers, `None` where it panics.
fn caught<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}
