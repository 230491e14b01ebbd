//! A receipt as the "generation parameters" text of AUTOMATIC1111's web UI, which many tools read from pictures.
//!
//! It says less than the receipt's JSON: several positive prompts are joined by `AND` with their weights, several
//! negative ones by commas; the spacing of timesteps, the region and the like have no place in it.
//! Source: `create_infotext` and `quote` in A1111's `processing.py` and `infotext_utils.py`; sampler names from
//! `sd_samplers_kdiffusion.py` and `sd_samplers_timesteps.py`.

use pentimento_request::{ClipSkip, NoiseSource, PromptReport, Receipt, Sampler, Schedule, SolverOptions};

/// Hexadecimal digits that A1111 shows of a model's hash.
const SHOWN_HASH_DIGITS: usize = 10;

/// The prompts line by line, then one line of settings.
pub fn parameters(receipt: &Receipt) -> String {
    let mut text = positive_prompt(&receipt.prompts);
    let negative = negative_prompt(&receipt.prompts);
    if !negative.is_empty() {
        text.push_str("\nNegative prompt: ");
        text.push_str(&negative);
    }
    text.push('\n');
    text.push_str(&settings(receipt));
    text
}

fn positive_prompt(prompts: &[PromptReport]) -> String {
    let positive: Vec<_> = prompts.iter().filter(|prompt| prompt.weight > 0.0).collect();
    match positive[..] {
        [only] => only.text.clone(),
        _ => {
            let weighted = positive.iter().map(|prompt| format!("{} :{}", prompt.text, prompt.weight));
            weighted.collect::<Vec<_>>().join(" AND ")
        }
    }
}

fn negative_prompt(prompts: &[PromptReport]) -> String {
    let negative = prompts.iter().filter(|prompt| prompt.weight < 0.0);
    negative.map(|prompt| prompt.text.as_str()).collect::<Vec<_>>().join(", ")
}

fn settings(receipt: &Receipt) -> String {
    let hash: String = receipt.model_hash.chars().take(SHOWN_HASH_DIGITS).collect();
    let mut fields = vec![
        ("Steps", receipt.steps.to_string()),
        ("Sampler", sampler_name(receipt.sampler).to_owned()),
        ("Schedule type", schedule_type(receipt.schedule).to_owned()),
        ("CFG scale", receipt.guidance_scale.to_string()),
        ("Seed", receipt.seed.to_string()),
        ("Size", receipt.size.to_string()),
        ("Model hash", hash),
        ("Model", receipt.model.clone()),
    ];
    if let Some(hires) = &receipt.hires {
        fields.push(("Denoising strength", hires.strength.to_string()));
        fields.push(("Hires upscale", hires.scale.to_string()));
        fields.push(("Hires steps", hires.steps.to_string()));
        // A1111's name for latents enlarged bilinearly.
        fields.push(("Hires upscaler", "Latent".to_owned()));
    } else if receipt.task != "text-to-image" {
        fields.push(("Denoising strength", receipt.strength.to_string()));
    }
    if receipt.clip_skip != ClipSkip::LAST {
        fields.push(("Clip skip", receipt.clip_skip.get().to_string()));
    }
    fields.extend(solver_fields(receipt));
    fields.push(("RNG", random_source(receipt.noise).to_owned()));
    let version = receipt.engine.strip_prefix("pentimento ").unwrap_or(&receipt.engine);
    fields.push(("Version", format!("pentimento {version}")));
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    fields.map(|(name, value)| format!("{name}: {}", quoted(value))).collect::<Vec<_>>().join(", ")
}

/// A value, in JSON's quotes where it holds what separates fields.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { serde_json::json!(value).to_string() } else { value.to_owned() }
}

/// A schedule that A1111 has a name for; the spacings of timesteps have none there.
const fn schedule_type(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Karras => "Karras",
        Schedule::Exponential => "Exponential",
        Schedule::Leading | Schedule::Linspace | Schedule::Trailing => "",
    }
}

/// What differs from the sampler's usual settings.
fn solver_fields(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let (given, usual) = (receipt.solver, SolverOptions::USUAL);
    let eta = if receipt.sampler == Sampler::Ddim { "Eta DDIM" } else { "Eta" };
    let mut fields: Vec<_> = given.eta.map(|value| (eta, value.to_string())).into_iter().collect();
    for (name, given, usual) in [
        ("Sigma churn", given.s_churn, usual.s_churn),
        ("Sigma tmin", given.s_tmin, usual.s_tmin),
        ("Sigma tmax", given.s_tmax, usual.s_tmax),
        ("Sigma noise", given.s_noise, usual.s_noise),
    ] {
        if given != usual {
            fields.push((name, given.to_string()));
        }
    }
    fields
}

const fn random_source(noise: NoiseSource) -> &'static str {
    match noise {
        NoiseSource::TorchCpu => "CPU",
        NoiseSource::Philox => "NV",
    }
}

const fn sampler_name(sampler: Sampler) -> &'static str {
    match sampler {
        Sampler::Ddim => "DDIM",
        Sampler::Ddpm => "DDPM",
        Sampler::KDpmpp2m => "DPM++ 2M",
        Sampler::KDpmpp2sAncestral => "DPM++ 2S a",
        Sampler::KDpm2 => "DPM2",
        Sampler::KDpm2Ancestral => "DPM2 a",
        Sampler::KEuler => "Euler",
        Sampler::KEulerAncestral => "Euler a",
        Sampler::KHeun => "Heun",
        Sampler::KLms => "LMS",
        Sampler::KDpmppSde => "DPM++ SDE",
        Sampler::KDpmpp2mSde => "DPM++ 2M SDE",
        Sampler::UniPc => "UniPC",
        Sampler::Lcm => "LCM",
    }
}
