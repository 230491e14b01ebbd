//! The sections of the configuration about who may ask for how much, and about results and foreign pictures.

use super::{Seconds, secret::Secret};
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// `[quotas]`: the rule for everybody, and those of single callers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotasConfig {
    /// As in [`QuotaConfig`], for who has no entry.
    pub(crate) pictures_per_minute: Option<u32>,
    /// As in [`QuotaConfig`], for who has no entry.
    pub(crate) at_once: Option<usize>,
    /// As in [`QuotaConfig`], for who has no entry.
    pub(crate) queue_share: Option<Share>,
    /// By access key id, or by the name that the log gives to a bearer key.
    #[serde(default)]
    pub(crate) keys: BTreeMap<String, QuotaConfig>,
}

/// What one caller may ask for. 0 is no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaConfig {
    /// Pictures that it may begin per minute.
    pub(crate) pictures_per_minute: Option<u32>,
    /// Pictures that it may have waiting or running at once.
    pub(crate) at_once: Option<usize>,
    /// Share of the queue that it may fill.
    pub(crate) queue_share: Option<Share>,
}

/// A share, above 0 and at most 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(try_from = "f64")]
pub(crate) struct Share(pub(crate) f64);

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        let fits = share > 0.0 && share <= 1.0;
        fits.then_some(Self(share)).ok_or_else(|| format!("{share} is no share: it is above 0 and at most 1"))
    }
}

/// `[results]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultsConfig {
    /// How long a link is good.
    pub(crate) lifetime_seconds: Option<Seconds>,
    /// What stands before the path in links.
    pub(crate) public_url: Option<String>,
    /// A bucket that holds results, instead of the data folder.
    pub(crate) s3: Option<S3Config>,
}

/// `[results.s3]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct S3Config {
    /// The service's address; Amazon's own where it is absent.
    pub(crate) endpoint: Option<String>,
    /// The bucket.
    pub(crate) bucket: String,
    /// Its region.
    pub(crate) region: Option<String>,
    /// Put before every key.
    pub(crate) prefix: Option<String>,
    /// The public half of the credentials.
    pub(crate) access_key_id: String,
    /// The secret half.
    pub(crate) secret_access_key: Secret,
}

/// `[fetch]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FetchConfig {
    /// Origins that are fetched from whatever their address is.
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    /// PEM files of authorities that are trusted beside the system's.
    #[serde(default)]
    pub(crate) authorities: Vec<PathBuf>,
    /// Longest time of all that one request names.
    pub(crate) timeout_seconds: Option<Seconds>,
}
