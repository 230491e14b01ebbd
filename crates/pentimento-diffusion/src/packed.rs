//! A part's layers in the kernels' form, packed once and shared by every network that is bound to them.
//!
//! A network that is bound a second time (with adapters, for one request) takes its layers from here, so that binding costs
//! no copy of a weight. The table also tells which layers a part has: what adapters are matched against.

use crate::ops::{PackedConv, PackedWeights, Precision};
use candle_core::Tensor;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The packed layers of one part in one precision, by their place in the tree of tensor names.
#[derive(Default)]
pub(crate) struct Packed {
    layers: Mutex<BTreeMap<String, Layer>>,
    tensors: Mutex<BTreeMap<String, Tensor>>,
}

/// A layer with its packed weights.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) kind: LayerKind,
    /// The shape of the weights as they are stored: a linear layer may be a convolution of one pixel.
    pub(crate) stored: Vec<usize>,
}

/// A layer's packed weights.
#[derive(Clone)]
pub(crate) enum LayerKind {
    /// Of a linear layer.
    Linear(Arc<PackedWeights>),
    /// Of a convolution.
    Conv(Arc<PackedConv>),
}

impl Layer {
    /// In which its products are.
    pub(crate) fn precision(&self) -> Precision {
        match &self.kind {
            LayerKind::Linear(weights) => weights.precision(),
            LayerKind::Conv(weights) => weights.precision(),
        }
    }

    /// Outputs, inputs, and the kernel's height and width; of a linear layer these are 1.
    pub(crate) fn shape(&self) -> [usize; 4] {
        match &self.kind {
            LayerKind::Linear(weights) => [weights.n(), weights.k(), 1, 1],
            LayerKind::Conv(weights) => {
                let (height, width) = weights.kernel();
                [weights.c_out(), weights.c_in(), height, width]
            }
        }
    }
}

impl Packed {
    /// The layer at this place.
    pub(crate) fn layer(&self, place: &str) -> Option<Layer> {
        held(&self.layers).get(place).cloned()
    }

    /// Keeps a layer.
    pub(crate) fn keep_layer(&self, place: &str, layer: Layer) {
        held(&self.layers).insert(place.to_owned(), layer);
    }

    /// The unpacked tensor at this place: an embedding.
    pub(crate) fn tensor(&self, place: &str) -> Option<Tensor> {
        held(&self.tensors).get(place).cloned()
    }

    /// Keeps an unpacked tensor.
    pub(crate) fn keep_tensor(&self, place: &str, tensor: Tensor) {
        held(&self.tensors).insert(place.to_owned(), tensor);
    }

    /// Places and shapes of all layers.
    pub(crate) fn shapes(&self) -> BTreeMap<String, [usize; 4]> {
        held(&self.layers).iter().map(|(place, layer)| (place.clone(), layer.shape())).collect()
    }
}

/// The locked value: a panic elsewhere leaves these tables whole, since each is changed by one insertion.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
