//! Instruction sets, chosen at run time; nothing in this crate depends on compiler flags.
//!
//! Each public kernel asks [`Isa::current`] once, on the calling thread, and passes the answer down to its tasks.
//! Adding a level: a variant here, its detection, and an arm in `gemm::Kernel::new` and in `per_isa!`.

use std::cell::Cell;
use std::sync::OnceLock;

/// A level of the instruction set that the kernels know. Later variants are faster where they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, correct everywhere; products and sums are rounded separately.
    Portable,
    /// aarch64 with NEON, which every aarch64 has.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// As [`Isa::Avx512`], with the bf16 dot product.
    Avx512Bf16,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// Every level, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The best level this machine can run.
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
        })
    }

    /// Whether this machine can run the level.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 => has_avx2(),
            Isa::Avx512 => has_avx512(),
            Isa::Avx512Bf16 => has_avx512() && has_avx512_bf16(),
        }
    }

    /// The level that kernels called from this thread use: [`Isa::detect`], unless inside [`Isa::run`].
    pub fn current() -> Isa {
        FORCED.get().unwrap_or_else(Isa::detect)
    }

    /// Calls `body` with this level forced for kernels called on the current thread; meant for tests and benches.
    ///
    /// # Panics
    /// If the machine cannot run the level.
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        assert!(self.is_available(), "this machine cannot run {self:?}");
        let _restore = Restore(FORCED.replace(Some(self)));
        body()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_bf16() -> bool {
    false
}

/// Arithmetic that differs between levels: whether a multiply-add is one rounding or two.
pub(crate) trait Arith {
    /// `a * b + c`.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding; only for levels whose hardware does it, elsewhere it is a slow library call.
pub(crate) struct Fused;

/// Two roundings, as the portable level does.
pub(crate) struct Plain;

impl Arith for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arith for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Compiles a generic `#[inline(always)] fn body::<A: Arith>(…)` once per level, so that the compiler vectorises it
/// with that level's instructions, and defines `fn name(isa, …)` that calls the right copy. Both may have a constant
/// parameter: `fn name<const N: usize>(…) = body`, of a `body::<A, N>`.
macro_rules! per_isa {
    ($vis:vis fn $name:ident $(<const $n:ident: usize>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $vis fn $name $(<const $n: usize>)? (isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::isa::Fused $(, $n)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::isa::Fused $(, $n)?>($($arg),*)
            }
            match isa {
                // SAFETY: an `Isa` value other than the machine's own is only made current by `Isa::run`, which
                // checks that the machine can run it.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 | $crate::isa::Isa::Avx512Bf16 => unsafe { avx512 $(::<$n>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2 $(::<$n>)? ($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Isa::Neon => $body::<$crate::isa::Fused $(, $n)?>($($arg),*),
                _ => $body::<$crate::isa::Plain $(, $n)?>($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
