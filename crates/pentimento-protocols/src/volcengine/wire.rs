//! The vendor's fields, as they were sent: types and ranges checked, nothing resolved.
//!
//! The styles' families differ in their members' names and not in what these mean, so one struct holds them all:
//! `lora_multipers` and `lora_map`, `canny_weight` and `controlnet_weight`, `id_scale` and `id_weight`. Of two names of
//! one thing the first in this list counts. Ranges that the vendor does not document are ours (`docs/volcengine.md`).

use super::{fault::Fault, members::Members};
use crate::json;
use pentimento_imaging::{Corner, Label, Mark};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Letters of a prompt at most.
const LONGEST_PROMPT: usize = 4000;

const SHARE: RangeInclusive<f64> = 0.0..=1.0;
const SCALE: RangeInclusive<f64> = 1.0..=30.0;
const LORA_WEIGHT: RangeInclusive<f64> = -4.0..=4.0;
const STEPS: RangeInclusive<i64> = 1..=50;
const CLIP_SKIP: RangeInclusive<i64> = 1..=3;
const LONG_SIDE: RangeInclusive<i64> = 256..=2048;

/// The visible mark's opacity where none is given.
const OPACITY: f64 = 0.3;

/// A request for a picture.
#[derive(Debug)]
pub(super) struct ProcessBody {
    /// `req_key`, the style.
    pub(super) req_key: Option<String>,
    /// `sub_req_key`, a variant of the style.
    pub(super) sub_req_key: Option<String>,
    /// `binary_data_base64`.
    pub(super) files: Vec<String>,
    /// `image_urls`.
    pub(super) urls: Vec<String>,
    /// `prompt`.
    pub(super) prompt: Option<String>,
    /// `u_prompt`, then `sub_prompts`.
    pub(super) further_prompts: Vec<String>,
    /// `strength`.
    pub(super) strength: Option<f64>,
    /// `seed`; `None` also for -1.
    pub(super) seed: Option<u64>,
    /// `scale`.
    pub(super) scale: Option<f64>,
    /// `ddim_steps`.
    pub(super) steps: Option<i64>,
    /// `lora_multipers`, also in its right spelling, or `lora_map`.
    pub(super) loras: Vec<WireLora>,
    /// `clip_skip`.
    pub(super) clip_skip: Option<i64>,
    /// `canny_weight` or `controlnet_weight`.
    pub(super) control_weight: Option<f64>,
    /// `sampler_name`.
    pub(super) sampler_name: Option<String>,
    /// `scheduler`.
    pub(super) scheduler: Option<String>,
    /// `i2i_keep_texture`.
    pub(super) keep_texture: Option<bool>,
    /// `long_resolution`.
    pub(super) long_resolution: Option<i64>,
    /// `id_scale` or `id_weight`.
    pub(super) id_scale: Option<f64>,
    /// How the picture is answered.
    pub(super) output: Output,
}

/// An adapter as a caller names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WireLora {
    /// Its name.
    pub(super) name: String,
    /// Its weight.
    pub(super) weight: f64,
    /// Its weight for texts, where that differs.
    pub(super) text_weight: Option<f64>,
}

/// How a picture is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Output {
    /// `return_url`.
    pub(super) return_url: bool,
    /// `logo_info`, where its `add_logo` is true.
    pub(super) mark: Option<Mark>,
    /// `aigc_meta`.
    pub(super) label: Option<Label>,
}

/// A question for a task.
#[derive(Debug)]
pub(super) struct TaskBody {
    /// `req_key`, the task's own.
    pub(super) req_key: String,
    /// `task_id`.
    pub(super) task_id: String,
    /// How its picture is answered, from `req_json` or beside it.
    pub(super) output: Output,
}

/// A body's members.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    match json::parse(body) {
        Some(Value::Object(object)) => Ok(object),
        _ => Err(Fault::unreadable("Parse Args: the body has to be a JSON object")),
    }
}

impl ProcessBody {
    /// Reads a body.
    pub(super) fn read(object: Map<String, Value>) -> Result<Self, Fault> {
        let mut members = Members::of(object);
        let members = &mut members;
        let further = [members.texts("u_prompt")?, members.texts("sub_prompts")?].concat();
        ignore(members)?;
        Ok(Self {
            req_key: members.text("req_key")?.filter(|key| !key.is_empty()),
            sub_req_key: members.text("sub_req_key")?.filter(|key| !key.is_empty()),
            files: members.texts("binary_data_base64")?,
            urls: members.texts("image_urls")?,
            prompt: members.text("prompt")?.map(prompt).transpose()?,
            further_prompts: further.into_iter().map(prompt).collect::<Result<_, _>>()?,
            strength: members.number("strength", SHARE)?,
            seed: members.whole("seed", -1..=i64::MAX)?.and_then(|seed| u64::try_from(seed).ok()),
            scale: members.number("scale", SCALE)?,
            steps: members.whole("ddim_steps", STEPS)?,
            loras: loras(members)?,
            clip_skip: members.whole("clip_skip", CLIP_SKIP)?,
            control_weight: first(
                members.number("canny_weight", SHARE)?,
                members.number("controlnet_weight", SHARE)?,
            ),
            sampler_name: members.text("sampler_name")?,
            scheduler: members.text("scheduler")?,
            keep_texture: members.flag("i2i_keep_texture")?,
            long_resolution: members.whole("long_resolution", LONG_SIDE)?,
            id_scale: first(members.number("id_scale", SHARE)?, members.number("id_weight", SHARE)?),
            output: Output::take(members)?,
        })
    }
}

impl TaskBody {
    /// Reads a body.
    pub(super) fn read(object: Map<String, Value>) -> Result<Self, Fault> {
        let mut members = Members::of(object);
        let req_key = members.text("req_key")?.filter(|key| !key.is_empty());
        let task_id = members.id("task_id")?.filter(|id| !id.is_empty());
        let inside = match members.is_object("req_json") {
            true => members.object("req_json")?,
            false => {
                members.text("req_json")?.filter(|text| !text.trim().is_empty()).map(embedded).transpose()?
            }
        };
        let output = match inside {
            Some(mut inside) => Output::take(&mut inside)?,
            None => Output::take(&mut members)?,
        };
        Ok(Self {
            req_key: req_key.ok_or_else(|| Fault::missing("req_key"))?,
            task_id: task_id.ok_or_else(|| Fault::missing("task_id"))?,
            output,
        })
    }
}

impl Output {
    fn take(members: &mut Members) -> Result<Self, Fault> {
        Ok(Self {
            return_url: members.flag("return_url")?.unwrap_or(false),
            mark: members.object("logo_info")?.map(|mut logo| mark(&mut logo)).transpose()?.flatten(),
            label: members.object("aigc_meta")?.map(|mut meta| label(&mut meta)).transpose()?,
        })
    }
}

/// The members of a JSON text inside JSON.
fn embedded(text: String) -> Result<Members, Fault> {
    match json::parse(text.as_bytes()) {
        Some(Value::Object(object)) => Ok(Members::of(object)),
        _ => Err(Fault::unreadable("Parse Args: req_json has to be the text of a JSON object")),
    }
}

/// Members that are known and without an effect here, or refused where they ask for what is not done.
fn ignore(members: &mut Members) -> Result<(), Fault> {
    // A style names its autoencoder; which layers show a face is the adapter's own.
    let _ = members.whole("vae_choice", 0..=i64::from(i32::MAX))?;
    let _ = members.text("apply_id_layer")?;
    if members.whole("cn_mode", 0..=i64::from(i32::MAX))?.is_some_and(|mode| mode != 0) {
        return Err(members.wrong("cn_mode", "is 0: other modes are not known here"));
    }
    if let Some(mut tagger) = members.object("tagger_settings")?
        && tagger.flag("switch")? == Some(true)
    {
        return Err(tagger.wrong("switch", "is false: pictures are not described here"));
    }
    Ok(())
}

fn first(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.or(other)
}

fn prompt(text: String) -> Result<String, Fault> {
    if text.chars().count() > LONGEST_PROMPT {
        return Err(Fault::invalid(format!("Invalid Args: a prompt has {LONGEST_PROMPT} letters at most")));
    }
    Ok(text)
}

fn loras(members: &mut Members) -> Result<Vec<WireLora>, Fault> {
    let mut found = Vec::new();
    for key in ["lora_multipers", "lora_multipliers", "lora_map"] {
        let Some(mut table) = members.object(key)? else { continue };
        for name in table.names()? {
            let lora = match table.is_object(&name) {
                true => {
                    table.object(&name)?.map(|mut weights| both_weights(&name, &mut weights)).transpose()?
                }
                false => table.number(&name, LORA_WEIGHT)?.map(|weight| WireLora {
                    name: name.clone(),
                    weight,
                    text_weight: None,
                }),
            };
            found.extend(lora.filter(|lora| found.iter().all(|other: &WireLora| other.name != lora.name)));
        }
    }
    Ok(found)
}

fn both_weights(name: &str, weights: &mut Members) -> Result<WireLora, Fault> {
    let weight = weights.number("strength_model", LORA_WEIGHT)?.unwrap_or(1.0);
    let text_weight = weights.number("strength_clip", LORA_WEIGHT)?;
    Ok(WireLora { name: name.to_owned(), weight, text_weight })
}

/// The visible mark, unless `add_logo` is false.
fn mark(logo: &mut Members) -> Result<Option<Mark>, Fault> {
    let is_wanted = logo.flag("add_logo")?.unwrap_or(false);
    let corner = match logo.whole("position", 0..=3)?.unwrap_or(0) {
        0 => Corner::BottomRight,
        1 => Corner::BottomLeft,
        2 => Corner::TopLeft,
        _ => Corner::TopRight,
    };
    let preset = if logo.whole("language", 0..=1)? == Some(1) { "Generated by AI" } else { "AI生成" };
    let opacity = logo.number("opacity", SHARE)?.unwrap_or(OPACITY);
    let own = logo.text("logo_text_content")?.filter(|text| !text.trim().is_empty());
    let mark = Mark::new(own.unwrap_or_else(|| preset.to_owned()), corner, opacity as f32);
    let mark = mark.map_err(|error| logo.wrong("logo_text_content", &format!("does not do: {error}")))?;
    Ok(is_wanted.then_some(mark))
}

fn label(meta: &mut Members) -> Result<Label, Fault> {
    let produce_id = meta.text("producer_id")?.filter(|id| !id.is_empty());
    let label = Label {
        content_producer: meta.text("content_producer")?.unwrap_or_default(),
        produce_id: produce_id.ok_or_else(|| Fault::missing("aigc_meta.producer_id"))?,
        content_propagator: meta.text("content_propagator")?.unwrap_or_default(),
        propagate_id: meta.text("propagate_id")?.unwrap_or_default(),
    };
    label.checked().map_err(|error| Fault::invalid(format!("Invalid Args: aigc_meta: {error}")))
}
