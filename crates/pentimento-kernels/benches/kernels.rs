//! Kernels at the shapes of Stable Diffusion 1.5 (512×512, both halves of the guidance in one batch).
//!
//! `cargo bench -p pentimento-kernels [-- filter]`. After criterion's own report each line gives GFLOP/s (a multiply-add
//! is 2) and the share of the machine's peak in f32 multiply-adds, measured in registers just before. A convolution
//! by Winograd's algorithm is counted as the direct one, so its share can pass 100 %.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use pentimento_kernels::pages::PagePool;
use pentimento_kernels::*;
use rayon::prelude::*;

/// As the program has it: large buffers in huge pages, none of them across two cache lines.
#[global_allocator]
static ALLOCATOR: PagePool = PagePool;

/// `(rows, k, n)`
const LINEAR: [(usize, usize, usize); 7] = [
    (8192, 320, 320),
    (8192, 320, 2560),
    (8192, 1280, 320),
    (2048, 640, 5120),
    (512, 1280, 1280),
    (128, 1280, 10240),
    (2, 1280, 1280),
];

/// `(c_in, c_out, height and width)`
const CONV: [(usize, usize, usize); 7] = [
    (4, 320, 64),
    (320, 320, 64),
    (640, 640, 32),
    (1280, 1280, 16),
    (1280, 1280, 8),
    (320, 4, 64),
    (128, 128, 256),
];

struct Bench {
    criterion: Criterion,
    peak: f64,
}

impl Bench {
    /// Measures `body`, which computes `flops`.
    fn run(&mut self, name: &str, flops: usize, mut body: impl FnMut()) {
        let mut best = f64::INFINITY;
        let mut group = self.criterion.benchmark_group("sd15");
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                (0..count).for_each(|_| body());
                let time = start.elapsed();
                best = best.min(time.as_secs_f64() / count as f64);
                time
            });
        });
        group.finish();
        if best.is_finite() {
            let rate = flops as f64 / best * 1e-9;
            println!(
                "{name:<44} {:>9.3} ms {rate:>7.1} GFLOP/s {:>5.1} %\n",
                best * 1e3,
                100.0 * rate / self.peak
            );
        }
    }

    fn linear(&mut self, precision: Precision, rows: usize, k: usize, n: usize) {
        let (x, w) = (values(rows * k), values(n * k));
        let packed = PackedWeights::pack(&w[..], n, k, precision);
        let (bias, mut out) = (values(n), vec![0.0; rows * n]);
        self.run(&format!("linear {precision:?} {rows}x{k}x{n}"), 2 * rows * k * n, || {
            linear(black_box(&x), &packed, Some(&bias), &mut out, Epilogue::None);
        });
    }

    fn conv(&mut self, precision: Precision, kernel: usize, c_in: usize, c_out: usize, size: usize) {
        let shape = [2, c_in, size, size];
        let (x, w) = (values(shape.iter().product()), values(c_out * c_in * kernel * kernel));
        let packed = PackedConv::pack(&w[..], [c_out, c_in, kernel, kernel], precision);
        let (bias, mut out) = (values(c_out), vec![0.0; 2 * c_out * size * size]);
        let options =
            ConvOptions { padding: Padding::all(kernel / 2), bias: Some(&bias), ..ConvOptions::default() };
        let flops = 2 * 2 * size * size * c_in * c_out * kernel * kernel;
        self.run(
            &format!("conv {precision:?} {kernel}x{kernel} {c_in}->{c_out} {size}x{size}"),
            flops,
            || {
                conv2d(black_box(&x), shape, &packed, &options, &mut out);
            },
        );
    }

    /// As the VAE's decoder reads: one picture, the norm before it, perhaps enlarged to `size`.
    fn decoding(&mut self, c_in: usize, c_out: usize, size: usize, upsample: Upsample) {
        let from = if upsample == Upsample::None { size } else { size / 2 };
        let shape = [1, c_in, from, from];
        let (x, w) = (values(shape.iter().product()), values(c_out * c_in * 9));
        let (bias, mut out) = (values(c_out), vec![0.0; c_out * size * size]);
        let packed = PackedConv::pack_winograd_bf16(&w[..], c_out, c_in);
        let mut sums = vec![[0.0; 2]; c_in];
        add_channel_sums(&x, from * from, &mut sums);
        let norm = ChannelNorm::new(&sums, from * from, 32, &vec![1.0; c_in], &vec![0.0; c_in], 1e-6);
        let (padding, bias) = (Padding::all(1), Some(&bias[..]));
        let norm = (upsample == Upsample::None).then_some(&norm);
        let options = ConvOptions { padding, bias, norm, upsample, ..ConvOptions::default() };
        let flops = 2 * size * size * c_in * c_out * 9;
        self.run(&format!("decoding {c_in}->{c_out} {size}x{size} {upsample:?}"), flops, || {
            conv2d(black_box(&x), shape, &packed, &options, &mut out);
        });
    }

    fn winograd(&mut self, c_in: usize, c_out: usize, size: usize) {
        let shape = [2, c_in, size, size];
        let (x, w) = (values(shape.iter().product()), values(c_out * c_in * 9));
        let (bias, mut out) = (values(c_out), vec![0.0; 2 * c_out * size * size]);
        let options = ConvOptions { padding: Padding::all(1), bias: Some(&bias), ..ConvOptions::default() };
        let flops = 2 * 2 * size * size * c_in * c_out * 9;
        for (storage, packed) in [
            ("F32", PackedConv::pack_winograd(&w[..], c_out, c_in, size * size)),
            ("Bf16", PackedConv::pack_winograd_bf16(&w[..], c_out, c_in)),
        ] {
            self.run(&format!("winograd {storage} 3x3 {c_in}->{c_out} {size}x{size}"), flops, || {
                conv2d(black_box(&x), shape, &packed, &options, &mut out);
            });
        }
    }

    fn geglu(&mut self, precision: Precision, rows: usize, k: usize, n: usize) {
        let (x, w) = (values(rows * k), values(2 * n * k));
        let packed = PackedWeights::pack(&w[..], 2 * n, k, precision);
        let mut out = vec![0.0; rows * n];
        self.run(&format!("linear + GEGLU {precision:?} {rows}x{k}x2x{n}"), 4 * rows * k * n, || {
            linear_geglu(Rows::F32(black_box(&x)), &packed, None, None, RowsMut::F32(&mut out));
        });
    }

    fn attention(&mut self, precision: Precision, queries: usize, keys: usize, head_dim: usize) {
        let shape = AttentionShape { batch: 2, heads: 8, head_dim, queries, keys };
        let (q, k) = (values(16 * queries * head_dim), values(16 * keys * head_dim));
        let (v, mut out) = (values(k.len()), vec![0.0; q.len()]);
        let name = format!("attention {precision:?} {queries} to {keys}, 8 heads of {head_dim}");
        self.run(&name, 4 * 16 * queries * keys * head_dim, || {
            let [q, k, v] = [black_box(&q), &k, &v].map(|values| Rows::F32(values));
            attention_in(precision, q, k, v, shape, 0.15, Mask::None, RowsMut::F32(&mut out));
        });
    }

    /// The same with tensors in bf16.
    fn linear_of_halves(&mut self, rows: usize, k: usize, n: usize) {
        let (x, w) = (halves(rows * k), values(n * k));
        let packed = PackedWeights::pack(&w[..], n, k, Precision::Bf16);
        let (bias, mut out) = (values(n), halves(rows * n));
        self.run(&format!("linear of halves {rows}x{k}x{n}"), 2 * rows * k * n, || {
            let (x, out) = (Rows::Bf16(black_box(&x)), RowsMut::Bf16(&mut out));
            linear_beside(x, &packed, None, Some(&bias), out, Epilogue::None);
        });
    }

    /// The same with tensors in bf16.
    fn attention_of_halves(&mut self, queries: usize, keys: usize, head_dim: usize) {
        let shape = AttentionShape { batch: 2, heads: 8, head_dim, queries, keys };
        let (q, k) = (halves(16 * queries * head_dim), halves(16 * keys * head_dim));
        let (v, mut out) = (k.clone(), q.clone());
        let name = format!("attention of halves {queries} to {keys}, 8 heads of {head_dim}");
        self.run(&name, 4 * 16 * queries * keys * head_dim, || {
            let [q, k, v] = [black_box(&q), &k, &v].map(|values| Rows::Bf16(values));
            attention_in(Precision::Bf16, q, k, v, shape, 0.15, Mask::None, RowsMut::Bf16(&mut out));
        });
    }

    /// Memory-bound kernels, in elements rather than operations.
    fn norms(&mut self) {
        let (x, weight) = (values(2 * 320 * 4096), values(320));
        let mut out = vec![0.0; x.len()];
        self.run("group norm + SiLU 320x64x64 (elements)", x.len(), || {
            group_norm(
                black_box(&x),
                [2, 320, 4096],
                32,
                &weight,
                &weight,
                1e-5,
                NormActivation::Silu,
                &mut out,
            );
        });
        self.run("layer norm 8192x320 (elements)", x.len(), || {
            layer_norm(black_box(&x), 320, &weight, &weight, 1e-5, RowsMut::F32(&mut out));
        });
        let x = values(8192 * 2560);
        let mut out = vec![0.0; x.len() / 2];
        self.run("GEGLU 8192x2560 (elements)", out.len(), || geglu(black_box(&x), 1280, &mut out));
    }
}

fn values(len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn halves(len: usize) -> Vec<half::bf16> {
    values(len).into_iter().map(half::bf16::from_f32).collect()
}

fn main() {
    let criterion = Criterion::default()
        .configure_from_args()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000));
    let peak = peak();
    println!("{:?}, {} threads, f32 peak {peak:.0} GFLOP/s\n", Isa::detect(), rayon::current_num_threads());
    let mut bench = Bench { criterion, peak };
    for precision in Precision::ALL {
        for (rows, k, n) in LINEAR {
            bench.linear(precision, rows, k, n);
        }
        bench.geglu(precision, 8192, 320, 1280);
        for (c_in, c_out, size) in CONV {
            bench.conv(precision, 3, c_in, c_out, size);
        }
        bench.conv(precision, 1, 320, 320, 64);
        bench.conv(precision, 1, 1280, 1280, 16);
        bench.conv(precision, 1, 256, 128, 512);
        if !Precision::FLOATS.contains(&precision) {
            continue; // Attention multiplies activations with one another.
        }
        for (tokens, head_dim) in [(4096, 40), (1024, 80), (256, 160), (64, 160)] {
            bench.attention(precision, tokens, tokens, head_dim);
            bench.attention(precision, tokens, 77, head_dim);
        }
    }
    for (rows, k, n) in LINEAR {
        bench.linear_of_halves(rows, k, n);
    }
    for (tokens, head_dim) in [(4096, 40), (1024, 80), (256, 160), (64, 160)] {
        bench.attention_of_halves(tokens, tokens, head_dim);
        bench.attention_of_halves(tokens, 77, head_dim);
    }
    for (c_in, c_out, size) in
        [(320, 320, 64), (640, 640, 32), (1280, 1280, 16), (1280, 1280, 8), (128, 128, 256)]
    {
        bench.winograd(c_in, c_out, size);
    }
    for (c_in, c_out, size) in
        [(512, 512, 64), (512, 512, 128), (256, 256, 256), (256, 128, 512), (128, 128, 512)]
    {
        bench.decoding(c_in, c_out, size, Upsample::None);
    }
    for (c, size) in [(512, 128), (512, 256), (256, 512)] {
        bench.decoding(c, c, size, Upsample::Nearest2);
    }
    bench.norms();
    bench.criterion.final_summary();
}

/// GFLOP/s of f32 multiply-adds that never leave the registers, on all threads at once.
fn peak() -> f64 {
    let threads = rayon::current_num_threads();
    let run = || {
        let start = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| multiply_add(1_000_000));
        (threads * 1_000_000 * FLOPS_PER_ROUND) as f64 / start.elapsed().as_secs_f64() * 1e-9
    };
    (0..10).map(|_| run()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
const FLOPS_PER_ROUND: usize = 2 * 16 * 16;

#[cfg(not(target_arch = "x86_64"))]
const FLOPS_PER_ROUND: usize = 2 * 16;

#[cfg(target_arch = "x86_64")]
fn multiply_add(rounds: usize) {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(rounds: usize) {
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); 16];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
        }
        black_box(sums);
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: usize) {
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); 8];
        for _ in 0..4 * rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
        }
        black_box(sums);
    }
    if Isa::Avx512.is_available() {
        // SAFETY: just detected.
        unsafe { wide(rounds) }
    } else if Isa::Avx2.is_available() {
        // SAFETY: just detected.
        unsafe { narrow(rounds) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_add(rounds: usize) {
    let mut sums = [black_box(1.0_f32); 16];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = sum.mul_add(0.999, 0.999));
    }
    black_box(sums);
}
