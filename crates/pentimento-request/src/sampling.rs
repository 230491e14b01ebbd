//! The names of samplers and schedules.

use std::{fmt, str::FromStr};

/// The samplers that requests can name. A generator may know fewer and then refuses the rest by name.
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
}

impl Sampler {
    /// Every sampler.
    pub const ALL: [Self; 10] = [
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
    ];

    /// The name in the spelling of Stability's interfaces.
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
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 3] = [Self::Leading, Self::Linspace, Self::Trailing];

    /// The name in the spelling of scheduler configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Linspace => "linspace",
            Self::Trailing => "trailing",
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

impl FromStr for Sampler {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|sampler| sampler.name().eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "sampler",
                given: given.to_owned(),
                known: Self::ALL.map(Self::name).to_vec(),
            }
        })
    }
}

impl FromStr for Schedule {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|schedule| schedule.name().eq_ignore_ascii_case(given)).ok_or_else(|| {
            UnknownName {
                what: "schedule",
                given: given.to_owned(),
                known: Self::ALL.map(Self::name).to_vec(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back_in_any_case() {
        for (index, sampler) in Sampler::ALL.into_iter().enumerate() {
            assert_eq!(sampler.name().to_lowercase().parse(), Ok(sampler));
            assert!(Sampler::ALL[..index].iter().all(|other| other.name() != sampler.name()));
        }
        for schedule in Schedule::ALL {
            assert_eq!(schedule.name().to_uppercase().parse(), Ok(schedule));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = "K_FOO".parse::<Sampler>().expect_err("no such sampler").to_string();
        assert!(message.contains("'K_FOO'") && message.contains("K_DPMPP_2M"), "{message}");
    }
}
