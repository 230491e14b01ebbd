//! Measures which precision this machine multiplies faster. The CPU's flags do not say: on some, the bf16 dot product
//! exists but has half the speed of f32.

use std::sync::LazyLock;
use std::time::Instant;

use crate::gemm::{GROUPS, Kernel, ROWS, STEPS, Tile};
use crate::isa::Isa;
use crate::pack::Precision;
use crate::scratch::{self, LANES, words_mut};

/// Steps of the measured tile: its operands fit into the first-level cache.
const MEASURED_STEPS: usize = 64;

/// GFLOP/s of one thread in the register tile from the first-level cache, a multiply-add counted as 2. Takes about a
/// millisecond; the result depends on the clock and on the machine's other work.
pub fn measure_precision(precision: Precision) -> f64 {
    const { assert!(MEASURED_STEPS <= STEPS) };
    let kernel = Kernel::new(Isa::current(), precision);
    let flops = 2 * ROWS * GROUPS * LANES * MEASURED_STEPS * precision.per_word();
    scratch::with((2 * ROWS + GROUPS * LANES) * MEASURED_STEPS, |lines| {
        words_mut(lines).fill(0x3f80_3f80); // 1.0 in bf16 pairs, about 1.0 in f32, small in bytes.
        let (b, a) = lines.split_at(GROUPS * MEASURED_STEPS);
        let mut sums = [0.0_f32; ROWS * GROUPS * LANES];
        let tile = Tile {
            steps: MEASURED_STEPS,
            a: a.as_ptr().cast(),
            a_stride: 2 * MEASURED_STEPS, // Room for signs apart.
            a_step: 1,
            b: b.as_ptr(),
            b_stride: MEASURED_STEPS,
            c: sums.as_mut_ptr(),
            c_stride: GROUPS * LANES,
            add: false,
            next: b.as_ptr(),
        };
        let round = || {
            let start = Instant::now();
            for _ in 0..50 {
                // SAFETY: the operands hold one whole tile, which is this function's own.
                unsafe { kernel.run(ROWS, GROUPS * LANES, std::hint::black_box(&tile)) };
            }
            start.elapsed().as_secs_f64()
        };
        let best = (0..10).map(|_| round()).fold(f64::INFINITY, f64::min);
        flops as f64 * 50.0 / best * 1e-9
    })
}

/// GFLOP/s of all threads of rayon's current pool at once, each as [`measure_precision`] measures it: what no kernel can
/// pass without saving multiplications.
pub fn measure_peak(precision: Precision) -> f64 {
    let isa = Isa::current();
    rayon::broadcast(|_| isa.run(|| measure_precision(precision))).into_iter().sum()
}

/// The precision with the higher [`measure_precision`], measured once in a process; bf16 must be clearly faster, since it is
/// less exact.
pub fn fastest_precision() -> Precision {
    static FASTEST: LazyLock<Precision> = LazyLock::new(|| {
        let (single, half) = (measure_precision(Precision::F32), measure_precision(Precision::Bf16));
        if half > 1.2 * single { Precision::Bf16 } else { Precision::F32 }
    });
    *FASTEST
}

/// Whether bytes are multiplied so much faster than floats that a convolution's direct sum in them takes less time than
/// Winograd's algorithm in floats, for output pictures of so many pixels. Measured once in a process.
pub fn bytes_lead(pixels: usize) -> bool {
    // What the algorithm gains over the direct sum in the same precision; small pictures leave it little to share weights' values among.
    let winograd_gain = if pixels < 16 * 16 { 1.8 } else { 2.5 };
    static LEAD: LazyLock<f64> = LazyLock::new(|| match fastest_precision() {
        // Bytes have twice the speed of bf16 wherever that is fast.
        Precision::Bf16 => 2.0,
        floats => measure_precision(Precision::Int8) / measure_precision(floats),
    });
    *LEAD > winograd_gain
}
