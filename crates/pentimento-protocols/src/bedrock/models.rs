//! Which model answers to which id.
//!
//! An id is what stands in the path: a base id, a regional profile of it, or an ARN. Ids are compared whole first,
//! then *bare*: without ARN, region and version, so that `stability.stable-diffusion-xl-v1` also means
//! `arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.stability.stable-diffusion-xl-v1:0`.

use super::fault::Fault;
use crate::ModelProfile;

/// The ids under which the service offered SDXL 1.0 and 0.8, bare.
const STABILITY_IDS: [&str; 3] =
    ["stability.stable-diffusion-xl-v1", "stability.stable-diffusion-xl-v0", "stability.stable-diffusion-xl"];

/// The prefixes of the service's cross-region profiles.
const REGIONS: [&str; 13] =
    ["us", "us-gov", "eu", "apac", "ap", "jp", "au", "ca", "sa", "uk", "me", "af", "global"];

/// Longest id that the service takes.
const LONGEST_ID: usize = 2048;

/// Which model answers to which id.
#[derive(Clone, Debug)]
pub struct ModelMap {
    /// Longest patterns first, so that the most exact one wins.
    mapped: Vec<(String, ModelProfile)>,
    fallback: ModelProfile,
    fallback_ids: FallbackIds,
}

/// Which of the ids that nothing maps are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackIds {
    /// Those of Stability's SDXL 1.0 and 0.8. Every other id is unknown.
    Stability,
    /// All well-formed ones.
    All,
}

impl ModelMap {
    /// A map in which this model answers the ids that nothing else is mapped to.
    pub fn new(fallback: ModelProfile, fallback_ids: FallbackIds) -> Self {
        Self { mapped: Vec::new(), fallback, fallback_ids }
    }

    /// Lets a model answer an id or ARN. A `*` at the end stands for any rest.
    pub fn map(mut self, pattern: impl Into<String>, profile: ModelProfile) -> Self {
        self.mapped.push((pattern.into(), profile));
        self.mapped.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        self
    }

    /// The model that answers this id, if any does. An id mapped as it stands wins over its bare form, that over a
    /// pattern, and any of these over the fallback.
    pub fn resolve(&self, id: &str) -> Option<&ModelProfile> {
        let find = |matches: &dyn Fn(&str) -> bool| {
            self.mapped.iter().find(|(pattern, _)| matches(pattern)).map(|(_, profile)| profile)
        };
        let by_prefix = |pattern: &str| {
            pattern
                .strip_suffix('*')
                .is_some_and(|prefix| id.starts_with(prefix) || bare(id).starts_with(prefix))
        };
        find(&|pattern| pattern == id)
            .or_else(|| find(&|pattern| bare(pattern) == bare(id)))
            .or_else(|| find(&by_prefix))
            .or_else(|| self.answers(id).then_some(&self.fallback))
    }

    /// The model that answers this id, or what the service says where none does.
    pub(super) fn resolve_or_refuse(&self, id: &str) -> Result<&ModelProfile, Fault> {
        match self.resolve(id) {
            Some(profile) => Ok(profile),
            None if id.len() > LONGEST_ID => Err(Fault::ModelIdTooLong(LONGEST_ID)),
            None if !is_well_formed(id) => Err(Fault::ModelIdPattern(id.to_owned())),
            None => Err(Fault::UnknownModel),
        }
    }

    fn answers(&self, id: &str) -> bool {
        match self.fallback_ids {
            FallbackIds::Stability => STABILITY_IDS.contains(&bare(id)),
            FallbackIds::All => id.len() <= LONGEST_ID && is_well_formed(id),
        }
    }
}

/// An id without ARN, region and version.
fn bare(id: &str) -> &str {
    let named = arn_resource(id).and_then(|resource| {
        resource.strip_prefix("foundation-model/").or_else(|| resource.strip_prefix("inference-profile/"))
    });
    let id = named.unwrap_or(id);
    let id = match id.split_once('.') {
        Some((region, rest)) if REGIONS.contains(&region) => rest,
        _ => id,
    };
    match id.rsplit_once(':') {
        Some((name, version)) if is_made_of(version, |byte| byte.is_ascii_digit()) => name,
        _ => id,
    }
}

/// What follows the account in one of the service's ARNs.
fn arn_resource(id: &str) -> Option<&str> {
    let mut parts = id.splitn(6, ':');
    let [arn, partition, service, _region, _account] = [(); 5].map(|()| parts.next());
    let is_ours = arn == Some("arn")
        && partition.is_some_and(|name| name == "aws" || name.starts_with("aws-"))
        && matches!(service, Some("bedrock" | "sagemaker"));
    parts.next().filter(|_| is_ours)
}

/// Whether the service's own pattern for ids would let this one through. A little wider: the kinds of ARN are
/// checked, the lengths of their parts are not.
fn is_well_formed(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:._".contains(&byte);
    if !id.starts_with("arn:") {
        return is_made_of(id, plain);
    }
    let kinds = [
        "foundation-model",
        "inference-profile",
        "application-inference-profile",
        "provisioned-model",
        "custom-model",
        "custom-model-deployment",
        "imported-model",
        "prompt",
        "prompt-router",
        "default-prompt-router",
        "endpoint",
    ];
    let resource = arn_resource(id).and_then(|resource| resource.split_once('/'));
    resource.is_some_and(|(kind, name)| {
        kinds.contains(&kind) && is_made_of(name, |byte| plain(byte) || byte == b'/')
    })
}

fn is_made_of(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> ModelProfile {
        ModelProfile::named(name)
    }

    fn name<'a>(models: &'a ModelMap, id: &str) -> Option<&'a str> {
        models.resolve(id).map(|profile| profile.name.as_str())
    }

    #[test]
    fn every_spelling_of_stabilitys_ids_is_answered() {
        let models = ModelMap::new(profile("embedded"), FallbackIds::Stability);
        for id in [
            "stability.stable-diffusion-xl-v1",
            "stability.stable-diffusion-xl-v1:0",
            "us.stability.stable-diffusion-xl-v1:0",
            "eu.stability.stable-diffusion-xl-v1",
            "apac.stability.stable-diffusion-xl-v1:0",
            "us-gov.stability.stable-diffusion-xl-v1:0",
            "stability.stable-diffusion-xl",
            "stability.stable-diffusion-xl-v0",
            "arn:aws:bedrock:us-east-1::foundation-model/stability.stable-diffusion-xl-v1:0",
            "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/stability.stable-diffusion-xl-v1",
            "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.stability.stable-diffusion-xl-v1:0",
        ] {
            assert_eq!(name(&models, id), Some("embedded"), "{id}");
        }
        for id in ["stability.sd3-large-v1:0", "amazon.titan-image-generator-v1", "stability", "x.y.z", ""] {
            assert_eq!(name(&models, id), None, "{id}");
        }
    }

    #[test]
    fn the_most_exact_mapping_wins() {
        let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdef";
        let models = ModelMap::new(profile("embedded"), FallbackIds::Stability)
            .map("stability.*", profile("any"))
            .map("stability.stable-diffusion-xl-v1", profile("bare"))
            .map("stability.stable-diffusion-xl-v1:7", profile("exact"))
            .map("stability.stable-*", profile("longer"))
            .map(arn, profile("arn"));
        let table = [
            ("stability.stable-diffusion-xl-v1:7", "exact"),
            ("stability.stable-diffusion-xl-v1", "bare"),
            ("stability.stable-image-core-v1:0", "longer"),
            ("stability.sd3-large-v1:0", "any"),
            ("us.stability.sd3-large-v1:0", "any"),
            (arn, "arn"),
        ];
        for (id, expected) in table {
            assert_eq!(name(&models, id), Some(expected), "{id}");
        }
    }

    #[test]
    fn a_model_may_answer_everything_well_formed() {
        let models = ModelMap::new(profile("mine"), FallbackIds::All);
        assert_eq!(name(&models, "amazon.titan-image-generator-v1"), Some("mine"));
        assert_eq!(name(&models, "a b"), None);
    }

    #[test]
    fn an_id_without_a_model_is_refused_by_its_form() {
        let models = ModelMap::new(profile("embedded"), FallbackIds::Stability);
        let refusal = |id: &str| models.resolve_or_refuse(id).expect_err("no such model");
        assert_eq!(refusal("amazon.titan-image-generator-v1"), Fault::UnknownModel);
        assert_eq!(refusal("arn:aws:bedrock:us-east-1:123456789012:prompt/ABCDEFGHIJ"), Fault::UnknownModel);
        for wrong in ["a b", "a/b", "ä", "arn:aws:s3:::bucket", "arn:aws:bedrock:r:a:thing/x"] {
            assert_eq!(refusal(wrong), Fault::ModelIdPattern(wrong.to_owned()));
        }
        assert_eq!(refusal(&"a".repeat(2049)), Fault::ModelIdTooLong(2048));
    }
}
