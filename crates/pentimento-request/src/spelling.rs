//! How samplers, schedules and noise sources are spelled: by Stability's interfaces and Amazon Bedrock, AUTOMATIC1111's
//! web UI, ComfyUI, stable-diffusion.cpp and diffusers' class names.
//!
//! Case, spaces, `_` and `-` make no difference, and `+` is a `p`: "DPM++ 2M" and "dpmpp_2m" are one spelling.
//! Sources: A1111's `sd_samplers_kdiffusion.py`, `sd_samplers_timesteps.py` and `sd_schedulers.py`; ComfyUI's
//! `samplers.py`; diffusers' `schedulers`.

use crate::{NoiseSource, Sampler, Schedule, UnknownName};
use std::str::FromStr;

/// The sampler of a name in any of the spellings, and the schedule where the name holds one, as "DPM++ 2M Karras"
/// does.
///
/// # Errors
/// When the name stands for no sampler that there is here.
pub fn parse_sampler(given: &str) -> Result<(Sampler, Option<Schedule>), UnknownName> {
    let spelled = plain(given);
    if let Some(sampler) = sampler_spelled(&spelled) {
        return Ok((sampler, None));
    }
    let with_schedule = SCHEDULES.iter().find_map(|(spelling, schedule)| {
        let sampler = sampler_spelled(spelled.strip_suffix(spelling)?)?;
        Some((sampler, Some(*schedule)))
    });
    with_schedule.ok_or_else(|| unknown("sampler", given, Sampler::ALL.map(Sampler::name).to_vec()))
}

/// Spellings beside [`Sampler::name`], brought to the [`plain`] form.
///
/// diffusers' single-step DPM++ is another algorithm than the ancestral one, and the nearest that there is here;
/// `uni_pc` is of another order and B(h) in A1111 and ComfyUI.
const SAMPLERS: [(&str, Sampler); 32] = [
    ("ddimscheduler", Sampler::Ddim),
    ("ddpmscheduler", Sampler::Ddpm),
    ("dpmpp2m", Sampler::KDpmpp2m),
    ("dpmsolvermultistepscheduler", Sampler::KDpmpp2m),
    ("dpmpp2sa", Sampler::KDpmpp2sAncestral),
    ("dpmpp2sancestral", Sampler::KDpmpp2sAncestral),
    ("dpmsolversinglestepscheduler", Sampler::KDpmpp2sAncestral),
    ("dpm2", Sampler::KDpm2),
    ("kdpm2discretescheduler", Sampler::KDpm2),
    ("dpm2a", Sampler::KDpm2Ancestral),
    ("dpm2ancestral", Sampler::KDpm2Ancestral),
    ("kdpm2ancestraldiscretescheduler", Sampler::KDpm2Ancestral),
    ("euler", Sampler::KEuler),
    ("eulerdiscretescheduler", Sampler::KEuler),
    ("eulera", Sampler::KEulerAncestral),
    ("eulerancestral", Sampler::KEulerAncestral),
    ("eulerancestraldiscretescheduler", Sampler::KEulerAncestral),
    ("heun", Sampler::KHeun),
    ("heundiscretescheduler", Sampler::KHeun),
    ("lms", Sampler::KLms),
    ("lmsdiscretescheduler", Sampler::KLms),
    ("dpmppsde", Sampler::KDpmppSde),
    ("dpmppsdegpu", Sampler::KDpmppSde),
    ("dpmsolversdescheduler", Sampler::KDpmppSde),
    ("dpmpp2msde", Sampler::KDpmpp2mSde),
    ("dpmpp2msdegpu", Sampler::KDpmpp2mSde),
    ("unipcbh2", Sampler::UniPc),
    ("unipcmultistepscheduler", Sampler::UniPc),
    ("lcmscheduler", Sampler::Lcm),
    // With the k_ that InvokeAI and older scripts put in front.
    ("kdpmpp2sa", Sampler::KDpmpp2sAncestral),
    ("kdpm2a", Sampler::KDpm2Ancestral),
    ("keulera", Sampler::KEulerAncestral),
];

/// Spellings of schedules in the [`plain`] form.
const SCHEDULES: [(&str, Schedule); 9] = [
    ("linspace", Schedule::Linspace),
    // A1111's "Uniform", ComfyUI's "normal" and stable-diffusion.cpp's "discrete" are k-diffusion's usual sigmas.
    ("uniform", Schedule::Linspace),
    ("normal", Schedule::Linspace),
    ("discrete", Schedule::Linspace),
    ("leading", Schedule::Leading),
    ("trailing", Schedule::Trailing),
    // Counts timesteps down from the top, at most one beside "trailing".
    ("simple", Schedule::Trailing),
    ("karras", Schedule::Karras),
    ("exponential", Schedule::Exponential),
];

fn sampler_spelled(spelled: &str) -> Option<Sampler> {
    let by_name = Sampler::ALL.into_iter().find(|sampler| plain(sampler.name()) == spelled);
    by_name
        .or_else(|| SAMPLERS.iter().find(|(spelling, _)| *spelling == spelled).map(|(_, sampler)| *sampler))
}

/// Lower case, without what separates words, `+` as `p`.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|sign| !matches!(sign, ' ' | '_' | '-'));
    kept.map(|sign| if sign == '+' { 'p' } else { sign.to_ascii_lowercase() }).collect()
}

fn unknown(what: &'static str, given: &str, known: Vec<&'static str>) -> UnknownName {
    UnknownName { what, given: given.to_owned(), known }
}

impl FromStr for Sampler {
    type Err = UnknownName;

    /// Reads a name in any spelling, without a schedule.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        sampler_spelled(&plain(given))
            .ok_or_else(|| unknown("sampler", given, Self::ALL.map(Self::name).to_vec()))
    }
}

impl FromStr for Schedule {
    type Err = UnknownName;

    /// Reads a name in any spelling.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        let spelled = plain(given);
        let found = SCHEDULES.iter().find(|(spelling, _)| *spelling == spelled);
        found
            .map(|(_, schedule)| *schedule)
            .ok_or_else(|| unknown("schedule", given, Self::ALL.map(Self::name).to_vec()))
    }
}

impl FromStr for NoiseSource {
    type Err = UnknownName;

    /// Reads a name in any case.
    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|source| plain(source.name()) == plain(given))
            .ok_or_else(|| unknown("noise source", given, Self::ALL.map(Self::name).to_vec()))
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
        for source in NoiseSource::ALL {
            assert_eq!(source.name().to_uppercase().parse(), Ok(source));
        }
        assert_eq!(Sampler::of_stability().count(), 10);
    }

    #[test]
    fn the_spellings_of_other_programs_are_read() {
        let karras = Some(Schedule::Karras);
        for (given, sampler, schedule) in [
            ("DPM++ 2M Karras", Sampler::KDpmpp2m, karras),
            ("DPM++ 2M", Sampler::KDpmpp2m, None),
            ("dpmpp_2m", Sampler::KDpmpp2m, None),
            ("dpm++2m", Sampler::KDpmpp2m, None),
            ("DPMSolverMultistepScheduler", Sampler::KDpmpp2m, None),
            ("DPM++ SDE Karras", Sampler::KDpmppSde, karras),
            ("dpmpp_sde", Sampler::KDpmppSde, None),
            ("DPM++ 2M SDE Karras", Sampler::KDpmpp2mSde, karras),
            ("DPM++ 2M SDE Exponential", Sampler::KDpmpp2mSde, Some(Schedule::Exponential)),
            ("dpmpp_2m_sde_gpu", Sampler::KDpmpp2mSde, None),
            ("DPM++ 2S a Karras", Sampler::KDpmpp2sAncestral, karras),
            ("dpmpp_2s_ancestral", Sampler::KDpmpp2sAncestral, None),
            ("Euler a", Sampler::KEulerAncestral, None),
            ("euler_a", Sampler::KEulerAncestral, None),
            ("euler_ancestral", Sampler::KEulerAncestral, None),
            ("EulerAncestralDiscreteScheduler", Sampler::KEulerAncestral, None),
            ("Euler", Sampler::KEuler, None),
            ("Heun", Sampler::KHeun, None),
            ("HeunDiscreteScheduler", Sampler::KHeun, None),
            ("LMS Karras", Sampler::KLms, karras),
            ("DPM2", Sampler::KDpm2, None),
            ("dpm_2", Sampler::KDpm2, None),
            ("DPM2 a Karras", Sampler::KDpm2Ancestral, karras),
            ("KDPM2AncestralDiscreteScheduler", Sampler::KDpm2Ancestral, None),
            ("uni_pc", Sampler::UniPc, None),
            ("UniPC", Sampler::UniPc, None),
            ("LCM", Sampler::Lcm, None),
            ("ddim", Sampler::Ddim, None),
            ("K_DPMPP_2S_ANCESTRAL", Sampler::KDpmpp2sAncestral, None),
        ] {
            assert_eq!(parse_sampler(given), Ok((sampler, schedule)), "{given}");
        }
        assert_eq!("normal".parse(), Ok(Schedule::Linspace));
        for unknown in ["", "Karras", "DPM++ 2M Foo", "DPM++ 3M SDE", "PLMS", "DPM++ 2M SDE Heun"] {
            assert!(parse_sampler(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn no_spelling_is_given_twice() {
        let names = Sampler::ALL.map(|sampler| plain(sampler.name()));
        let spellings: Vec<&str> =
            names.iter().map(String::as_str).chain(SAMPLERS.iter().map(|(spelling, _)| *spelling)).collect();
        for (index, spelling) in spellings.iter().enumerate() {
            assert!(!spellings[..index].contains(spelling), "{spelling}");
            assert_eq!(*spelling, plain(spelling));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = "K_FOO".parse::<Sampler>().expect_err("no such sampler").to_string();
        assert!(message.contains("'K_FOO'") && message.contains("K_DPMPP_2M"), "{message}");
    }
}
