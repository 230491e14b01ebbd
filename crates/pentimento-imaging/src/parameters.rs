//! A receipt as the "generation parameters" text of AUTOMATIC1111's web UI, which many tools read from pictures.
//!
//! It says less than the receipt's JSON: several positive prompts are joined by `AND` with their weights, several
//! negative ones by commas; the schedule, the region and the like have no place in it.
//! Source: `create_infotext` and `quote` in A1111's `processing.py` and `infotext_utils.py`; sampler names from
//! `sd_samplers_kdiffusion.py` and `sd_samplers_timesteps.py`.

use pentimento_request::{PromptReport, Receipt, Sampler};

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
    let version = receipt.engine.strip_prefix("pentimento ").unwrap_or(&receipt.engine);
    fields.push(("Version", format!("pentimento {version}")));
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    fields.map(|(name, value)| format!("{name}: {}", quoted(value))).collect::<Vec<_>>().join(", ")
}

/// A value, in JSON's quotes where it holds what separates fields.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) { serde_json::json!(value).to_string() } else { value.to_owned() }
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
    }
}
