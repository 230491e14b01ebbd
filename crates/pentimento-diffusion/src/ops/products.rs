//! Products of two sets of rows that no layer keeps.

use crate::{
    error::Result,
    interruption,
    profile::{self, LayerKind},
};
use pentimento_kernels::{self as kernels, Epilogue, PackedWeights, Precision, pages::stale};

/// `a·bᵀ`, row by row: of `a` `[M, width]` and `b` `[N, width]`, `[M, N]`.
pub(crate) fn products(a: &[f32], b: &[f32], width: usize, precision: Precision) -> Result<Vec<f32>> {
    interruption::check()?;
    let columns = b.len() / width;
    let mut y = stale(a.len() / width * columns);
    profile::layer(LayerKind::Linear, 2 * (y.len() * width) as u64, || {
        let packed = PackedWeights::pack(b, columns, width, precision);
        kernels::linear(a, &packed, None, &mut y, Epilogue::None);
    });
    Ok(y)
}
