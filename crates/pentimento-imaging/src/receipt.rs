//! A receipt as JSON: what is stored in pictures, and what interfaces show.
//!
//! Units: durations are `seconds`, memory is bytes. Numbers that JSON cannot say are the strings `"inf"`, `"-inf"` and
//! `"nan"`; an infinite sigma is one. What is unknown is `null`.

use pentimento_request::{
    Accelerations, AccelerationsReport, ClipGuidanceReport, ControlReport, LookReport, LoraReport,
    PromptReport, Receipt, SecondPassReport, Size, SolverOptions, StageTiming,
};
use serde_json::{Value, json};
use std::fmt::Display;

/// The receipt with all its fields.
pub fn to_json(receipt: &Receipt) -> Value {
    let Receipt {
        engine,
        model,
        model_hash,
        task,
        seed,
        sampler,
        schedule,
        solver,
        noise,
        steps,
        steps_run,
        sigmas,
        guidance_scale,
        guidance_rescale,
        accelerations,
        strength,
        hires,
        worked_at,
        region,
        size,
        precision,
        syntax,
        clip_skip,
        prompts,
        verdict,
        loras,
        controls,
        looks,
        clip_guidance,
        notes,
        pixels_hash,
        timings,
        peak_memory,
    } = receipt;
    json!({
        "engine": engine,
        "model": model,
        "model_hash": model_hash,
        "task": task,
        "prompt_syntax": syntax.name(),
        "clip_skip": clip_skip.get(),
        "prompts": prompts.iter().map(prompt).collect::<Vec<_>>(),
        "seed": seed,
        "sampler": sampler.name(),
        "schedule": schedule.name(),
        "solver": solver_object(solver),
        "noise": noise.name(),
        "steps": steps,
        "steps_run": steps_run,
        "sigmas": sigmas.iter().map(number).collect::<Vec<_>>(),
        "guidance_scale": number(guidance_scale),
        "guidance_rescale": number(guidance_rescale),
        "accelerations": accelerations.as_ref().map(accelerated),
        "strength": number(strength),
        "hires": hires.as_ref().map(second_pass),
        "size": size_object(*size),
        "worked_at": size_object(*worked_at),
        "region": region.map(|[x, y, width, height]| {
            json!({ "x": x, "y": y, "width": width, "height": height })
        }),
        "precision": precision,
        "filter": verdict.name(),
        "loras": loras.iter().map(lora).collect::<Vec<_>>(),
        "controls": controls.iter().map(control).collect::<Vec<_>>(),
        "looks": looks.iter().map(look).collect::<Vec<_>>(),
        "clip_guidance": clip_guidance.as_ref().map(guided),
        "notes": notes,
        "pixels_hash": pixels_hash,
        "timings": timings.iter().map(timing).collect::<Vec<_>>(),
        "peak_memory_bytes": peak_memory,
    })
}

fn accelerated(report: &AccelerationsReport) -> Value {
    let AccelerationsReport { asked, guided_steps, whole_steps } = report;
    let Accelerations { guidance_interval, step_cache, token_merging } = asked;
    json!({
        "guidance_interval": {
            "start": number(&guidance_interval.start()),
            "end": number(&guidance_interval.end()),
            "guided_steps": guided_steps,
        },
        "step_cache": step_cache.map(|cache| {
            json!({ "interval": cache.interval(), "branch": cache.branch(), "whole_steps": whole_steps })
        }),
        "token_merging": number(token_merging),
    })
}

fn second_pass(pass: &SecondPassReport) -> Value {
    let SecondPassReport { scale, strength, steps, steps_run, sigmas, worked_at } = pass;
    json!({
        "scale": number(scale),
        "strength": number(strength),
        "steps": steps,
        "steps_run": steps_run,
        "sigmas": sigmas.iter().map(number).collect::<Vec<_>>(),
        "worked_at": size_object(*worked_at),
    })
}

fn prompt(PromptReport { text, weight, chunks, truncated }: &PromptReport) -> Value {
    json!({
        "text": text,
        "weight": number(weight),
        "chunks": chunks,
        "truncated": truncated,
    })
}

fn lora(report: &LoraReport) -> Value {
    let LoraReport { name, hash, weight, text_weight, flavours, matched, unmatched } = report;
    json!({
        "name": name,
        "hash": hash,
        "weight": number(weight),
        "text_weight": number(text_weight),
        "flavours": flavours,
        "matched": matched,
        "unmatched": unmatched,
    })
}

fn control(ControlReport { name, hash, hint, weight, steps_run }: &ControlReport) -> Value {
    json!({ "name": name, "hash": hash, "hint": hint, "weight": number(weight), "steps_run": steps_run })
}

fn look(LookReport { name, hash, scale, pictures, faces }: &LookReport) -> Value {
    json!({ "name": name, "hash": hash, "scale": number(scale), "pictures": pictures, "faces": faces })
}

fn guided(ClipGuidanceReport { preset, strength, steps }: &ClipGuidanceReport) -> Value {
    json!({ "preset": preset.name(), "strength": number(strength), "steps": steps })
}

fn solver_object(SolverOptions { eta, s_churn, s_tmin, s_tmax, s_noise }: &SolverOptions) -> Value {
    json!({
        "eta": eta.as_ref().map(number),
        "s_churn": number(s_churn),
        "s_tmin": number(s_tmin),
        "s_tmax": number(s_tmax),
        "s_noise": number(s_noise),
    })
}

fn timing(StageTiming { stage, took }: &StageTiming) -> Value {
    json!({ "stage": stage.name(), "seconds": took.as_secs_f64() })
}

fn size_object(size: Size) -> Value {
    json!({ "width": size.width(), "height": size.height() })
}

/// A number by its shortest decimal form (0.7 stays 0.7 as an `f32`), or its name where JSON has no number for it.
fn number(number: &impl Display) -> Value {
    let text = number.to_string();
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => json!(value),
        _ => json!(text.to_lowercase()),
    }
}
