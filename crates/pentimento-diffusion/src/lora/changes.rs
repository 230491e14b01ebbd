//! What a request's adapters do to one part's layers, in the kernels' form.
//!
//! Low ranks run beside their layer: all of a layer's low ranks are one pair of factors, whose ranks lie behind one another and
//! whose scales are in the second factor. Flavours that cannot run so (LoHa, LoKr, DoRA) are added to a copy of the layer's
//! weights. Sums are taken in the order in which the request names the adapters.

use super::flavour::{LayerChange, Matrix};
use crate::{
    Precision,
    error::LoadError,
    ops::{PackedConv, PackedWeights},
    packed::{Layer, LayerKind, Packed},
    precision::floats,
    weights::Weights,
};
use std::{collections::BTreeMap, sync::Arc};

/// The changed layers of one part, by their place in the tree of tensor names.
#[derive(Default)]
pub(crate) struct Changes {
    layers: BTreeMap<String, Changed>,
}

/// A layer that adapters change.
#[derive(Clone, Default)]
struct Changed {
    /// The layer with merged weights, where one of the flavours needs it.
    merged: Option<LayerKind>,
    /// What runs beside it.
    side: Option<Side>,
}

/// Two layers behind one another, whose result is added to that of the layer that they stand beside.
#[derive(Clone)]
pub(crate) enum Side {
    /// Of a linear layer.
    Linear(Arc<[PackedWeights; 2]>),
    /// Of a convolution: the first one has its kernel, the second one a kernel of one pixel.
    Conv(Arc<[PackedConv; 2]>),
}

/// One adapter's change of a layer, with the adapter's weight.
pub(super) type Weighted = (LayerChange, f32);

impl Changes {
    /// Packs the changes of a part's layers.
    pub(super) fn pack(
        wanted: &BTreeMap<String, Vec<Weighted>>,
        base: &Packed,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let mut layers = BTreeMap::new();
        for (place, changes) in wanted {
            if let Some(layer) = base.layer(place) {
                layers.insert(place.clone(), Changed::pack(place, &layer, changes, weights, precision)?);
            }
        }
        Ok(Self { layers })
    }

    /// The layer at this place with other weights, where it has them.
    pub(crate) fn merged(&self, place: &str) -> Option<&LayerKind> {
        self.layers.get(place)?.merged.as_ref()
    }

    /// What runs beside the layer at this place.
    pub(crate) fn side(&self, place: &str) -> Option<&Side> {
        self.layers.get(place)?.side.as_ref()
    }

    /// One merged layer of as many inputs as outputs.
    #[cfg(test)]
    pub(super) fn of_a_square(side: usize) -> Self {
        let weights = PackedWeights::pack(vec![1.0; side * side].as_slice(), side, side, Precision::F32);
        let merged = Some(LayerKind::Linear(Arc::new(weights)));
        Self { layers: BTreeMap::from([("layer".to_owned(), Changed { merged, side: None })]) }
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        self.layers.values().map(Changed::bytes).sum()
    }
}

impl Changed {
    fn pack(
        place: &str,
        layer: &Layer,
        changes: &[Weighted],
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let shape = layer.shape();
        let is_conv = matches!(layer.kind, LayerKind::Conv(_));
        // As the layer is: some stay in floats where others have eight bits, and the last ones in f32.
        let of_layer = layer.precision();
        let (beside, merged): (Vec<_>, Vec<_>) =
            changes.iter().partition(|(change, _)| change.low_rank().is_some());
        let merged = match merged.is_empty() {
            true => None,
            false => {
                let base = weights.values(&format!("{place}.weight"), &layer.stored)?;
                let mut sum = base.clone();
                for (change, weight) in merged {
                    change.add_to(&mut sum, &base, *weight, shape);
                }
                Some(match is_conv {
                    true => LayerKind::Conv(Arc::new(PackedConv::pack(sum.as_slice(), shape, of_layer))),
                    false => LayerKind::Linear(Arc::new(PackedWeights::pack(
                        sum.as_slice(),
                        shape[0],
                        shape[1],
                        of_layer,
                    ))),
                })
            }
        };
        Ok(Self { merged, side: side(&beside, shape, is_conv, floats(precision)) })
    }

    fn bytes(&self) -> usize {
        let merged = match &self.merged {
            Some(LayerKind::Linear(weights)) => weights.bytes(),
            Some(LayerKind::Conv(weights)) => weights.bytes(),
            None => 0,
        };
        let side = match &self.side {
            Some(Side::Linear(pair)) => pair.iter().map(PackedWeights::bytes).sum(),
            Some(Side::Conv(pair)) => pair.iter().map(PackedConv::bytes).sum(),
            None => 0,
        };
        merged + side
    }
}

/// The low ranks of a layer as one.
fn side(changes: &[&Weighted], shape: [usize; 4], is_conv: bool, precision: Precision) -> Option<Side> {
    let [outputs, inputs, height, width] = shape;
    let mut down = Vec::new();
    let mut ups: Vec<Matrix> = Vec::new();
    for (change, weight) in changes {
        let low_rank = change.low_rank()?;
        let factor = (change.scale * f64::from(*weight)) as f32;
        down.extend_from_slice(&low_rank.down.values);
        let values = low_rank.up.values.iter().map(|value| factor * value).collect();
        ups.push(Matrix { rows: low_rank.up.rows, columns: low_rank.up.columns, values });
    }
    let rank: usize = ups.iter().map(|up| up.columns).sum();
    if rank == 0 {
        return None;
    }
    // The ways up of each output, one adapter behind the other.
    let up: Vec<f32> = (0..outputs)
        .flat_map(|row| ups.iter().flat_map(move |up| &up.values[row * up.columns..(row + 1) * up.columns]))
        .copied()
        .collect();
    Some(match is_conv {
        true => Side::Conv(Arc::new([
            PackedConv::pack(down.as_slice(), [rank, inputs, height, width], precision),
            PackedConv::pack(up.as_slice(), [outputs, rank, 1, 1], precision),
        ])),
        false => Side::Linear(Arc::new([
            PackedWeights::pack(down.as_slice(), rank, inputs, precision),
            PackedWeights::pack(up.as_slice(), outputs, rank, precision),
        ])),
    })
}
