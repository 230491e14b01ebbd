//! CPU kernels on slices: matrix products, convolution, attention, norms and activations.
//!
//! This crate knows no model and no tensor library. It is the only one in the workspace that may hold `unsafe`
//! code, because vector instructions and tiles of one output shared by threads need it; each block states its
//! condition.
//!
//! **Shapes.** Tensors are dense row-major slices. Linear layers take `[rows, k]` and weights `[n, k]`; pictures are
//! `[batch, channels, height, width]`; attention takes `[batch, tokens, heads · head_dim]`.
//! **Errors.** A slice that does not fit its shape is the caller's mistake: a panic, documented at each function.
//! Numbers that are not finite pass through and stay visible in the results.
//! **Threads.** Kernels run on rayon's current pool, so `pool.install(…)` decides. Sums have a fixed order: on one
//! instruction set the result's bytes depend neither on the number of threads nor on what else is in the call.
//! **Instruction sets** are chosen at run time by [`Isa::current`]; each has its own bytes.
//!
//! # Adding a kernel
//!
//! 1. A module with a public function on slices: check the shapes, take [`Isa::current`] once, cut the output into
//!    tasks that each own their part of it (`par_chunks_mut`, or `scratch::SharedOut` for tiles), and keep buffers in
//!    `scratch::with`, so that the steady state allocates nothing.
//! 2. The arithmetic: elementwise code is one generic body compiled per instruction set by `isa::per_isa!`; products
//!    go through the register tile, `gemm::Kernel`, which already has a version per instruction set.
//! 3. The order of each sum must follow from the shape of that sum alone: never from the number of rows, tasks or
//!    threads.
//! 4. A naive twin in `tests/it`, odd shapes, `on_each_isa`, `same_for_any_threads`; a shape in `benches/kernels.rs`.

mod activation;
mod attention;
mod bf16;
mod conv;
mod fault;
mod gemm;
mod int8;
mod isa;
mod lanes;
mod linear;
mod linear_geglu;
mod matmul;
mod norm;
mod pack;
pub mod pages;
mod rows;
mod scratch;
mod speed;
mod transpose;

pub use activation::{add, geglu, gelu, quick_gelu, silu, softmax};
pub use attention::{AttentionShape, Mask, attention, attention_in};
pub use conv::{ConvOptions, PackedConv, Padding, Upsample, conv2d, conv2d_output_size};
#[cfg(debug_assertions)]
pub use fault::panic_in_task;
pub use isa::Isa;
pub use linear::{Epilogue, LowRank, linear, linear_beside};
pub use linear_geglu::linear_geglu;
pub use matmul::{Layout, matmul};
pub use norm::{ChannelNorm, NormActivation, add_channel_sums, group_norm, layer_norm};
pub use pack::{PackedWeights, Precision, WeightsRef};
pub use rows::{Rows, RowsMut};
pub use speed::{bytes_lead, fastest_precision, measure_peak, measure_precision};
pub use transpose::transpose;
