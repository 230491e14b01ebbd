//! Samplers, schedules and their settings. How other programs spell their names is in `spelling`.

use std::fmt;

/// The samplers that requests can name. A generator may know fewer and then refuses the rest by name.
///
/// Left to choose, the engine takes the one that the model's own `scheduler_config.json` names, else K_DPMPP_2M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sampler {
    /// Denoising diffusion implicit models, eta 0 (Song et al. 2021).
    Ddim,
    /// Denoising diffusion probabilistic models (Ho et al. 2020).
    Ddpm,
    /// DPM-Solver++(2M) (Lu et al. 2022).
    KDpmpp2m,
    /// Ancestral DPM-Solver++(2S) (Lu et al. 2022).
    KDpmpp2sAncestral,
    /// DPM-Solver-2 (Karras et al. 2022, as k-diffusion names it).
    KDpm2,
    /// Ancestral DPM-Solver-2.
    KDpm2Ancestral,
    /// Euler's method (Karras et al. 2022, Algorithm 2 without the second-order correction).
    KEuler,
    /// Euler's method with ancestral noise.
    KEulerAncestral,
    /// Heun's method (Karras et al. 2022, Algorithm 2).
    KHeun,
    /// Linear multistep method.
    KLms,
    /// DPM-Solver++ for the stochastic equation, single-step.
    KDpmppSde,
    /// DPM-Solver++(2M) for the stochastic equation.
    KDpmpp2mSde,
    /// Unified predictor-corrector of second order with B(h) = e^h - 1 (Zhao et al. 2023), as diffusers sets it.
    UniPc,
    /// Multistep consistency sampling of latent consistency models (Luo et al. 2023).
    Lcm,
}

impl Sampler {
    /// Every sampler.
    pub const ALL: [Self; 14] = [
        Self::Ddim,
        Self::Ddpm,
        Self::KDpmpp2m,
        Self::KDpmpp2sAncestral,
        Self::KDpm2,
        Self::KDpm2Ancestral,
        Self::KEuler,
        Self::KEulerAncestral,
        Self::KHeun,
        Self::KLms,
        Self::KDpmppSde,
        Self::KDpmpp2mSde,
        Self::UniPc,
        Self::Lcm,
    ];

    /// Those that Stability's interfaces know by [`Sampler::name`], in their order.
    pub fn of_stability() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|sampler| {
            !matches!(sampler, Self::KDpmppSde | Self::KDpmpp2mSde | Self::UniPc | Self::Lcm)
        })
    }

    /// The name in the spelling of Stability's interfaces, and in their manner where they have none.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIM",
            Self::Ddpm => "DDPM",
            Self::KDpmpp2m => "K_DPMPP_2M",
            Self::KDpmpp2sAncestral => "K_DPMPP_2S_ANCESTRAL",
            Self::KDpm2 => "K_DPM_2",
            Self::KDpm2Ancestral => "K_DPM_2_ANCESTRAL",
            Self::KEuler => "K_EULER",
            Self::KEulerAncestral => "K_EULER_ANCESTRAL",
            Self::KHeun => "K_HEUN",
            Self::KLms => "K_LMS",
            Self::KDpmppSde => "K_DPMPP_SDE",
            Self::KDpmpp2mSde => "K_DPMPP_2M_SDE",
            Self::UniPc => "UNIPC",
            Self::Lcm => "LCM",
        }
    }
}

/// How the steps are spaced over the model's noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Every k-th timestep from the bottom up (`timestep_spacing` "leading").
    Leading,
    /// Evenly from the last timestep to the first ("linspace").
    Linspace,
    /// Every k-th timestep from the top down ("trailing").
    Trailing,
    /// Evenly in the seventh root of sigma over all of the model's sigmas (Karras et al. 2022, equation 5, rho 7).
    Karras,
    /// Evenly in the logarithm of sigma over all of the model's sigmas.
    Exponential,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 5] =
        [Self::Leading, Self::Linspace, Self::Trailing, Self::Karras, Self::Exponential];

    /// The name in options and receipts; the first three are those of scheduler configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Linspace => "linspace",
            Self::Trailing => "trailing",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
        }
    }
}

/// Settings of samplers that have them, in k-diffusion's names. A sampler without a setting does not look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolverOptions {
    /// Share of fresh noise per step, from 0 (none) to 1. `None`: the sampler's own (DDIM 0, ancestral and SDE ones 1).
    pub eta: Option<f64>,
    /// Noise put back before a step (Karras et al. 2022, Algorithm 2), 0 is none.
    pub s_churn: f64,
    /// Smallest sigma at which noise is put back.
    pub s_tmin: f64,
    /// Largest sigma at which noise is put back.
    pub s_tmax: f64,
    /// Factor of the noise put back.
    pub s_noise: f64,
}

impl SolverOptions {
    /// Every sampler as its authors set it.
    pub const USUAL: Self =
        Self { eta: None, s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 };
}

/// Which generator a seed starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoiseSource {
    /// PyTorch's generator on the CPU: MT19937.
    TorchCpu,
    /// PyTorch's generator on CUDA devices, Philox 4x32-10: the one that most published seeds come from.
    Philox,
}

impl NoiseSource {
    /// Every source.
    pub const ALL: [Self; 2] = [Self::TorchCpu, Self::Philox];

    /// The name in options and receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TorchCpu => "torch-cpu",
            Self::Philox => "philox",
        }
    }
}

/// How prompts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PromptSyntax {
    /// Every character is text.
    Plain,
    /// `(more)`, `[less]`, `(so:1.3)`, escapes and `BREAK`, by AUTOMATIC1111's documented rules.
    Emphasis,
}

impl PromptSyntax {
    /// The name in receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Emphasis => "emphasis",
        }
    }
}

/// A name that stands for nothing known; says what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What the name should have named.
    pub what: &'static str,
    /// The name given.
    pub given: String,
    /// The names that exist.
    pub known: Vec<&'static str>,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "unknown {} '{}'; known are {}", self.what, self.given, self.known.join(", "))
    }
}

impl std::error::Error for UnknownName {}

impl fmt::Display for Sampler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Display for NoiseSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
