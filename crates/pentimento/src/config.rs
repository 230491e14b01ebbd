//! The server's configuration file: TOML, every key optional, unknown keys refused.
//!
//! This is what was written, nothing resolved except that relative paths are taken from the file's own folder.
//! `examples/pentimento.toml` describes every key; a test holds the two together.

mod model;
mod secret;
mod sharing;
mod volcengine;

pub(crate) use model::{CompanionNames, ModelConfig};
pub(crate) use secret::Secret;
pub(crate) use sharing::{FetchConfig, QuotaConfig, QuotasConfig, ResultsConfig, S3Config, Share};
pub(crate) use volcengine::{ConfiguredFormat, ConfiguredUnknown, StyleConfig, VolcengineConfig};

use anyhow::{Context, Result, bail};
use pentimento_request::FilterMode;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Address and port to listen on.
    pub(crate) listen: Option<String>,
    /// Folder or name of the model that answers every id which `models` does not map.
    pub(crate) model: Option<String>,
    /// Folder of Pentimento's own data.
    pub(crate) data_dir: Option<PathBuf>,
    /// Further folders of models.
    #[serde(default)]
    pub(crate) models_dirs: Vec<PathBuf>,
    /// Further folders of adapters.
    #[serde(default)]
    pub(crate) loras_dirs: Vec<PathBuf>,
    /// Further folders of control networks.
    #[serde(default)]
    pub(crate) controls_dirs: Vec<PathBuf>,
    /// Threads that compute.
    pub(crate) threads: Option<u16>,
    /// Precision of the arithmetic.
    pub(crate) dtype: Option<ConfiguredDtype>,
    /// What is logged.
    #[serde(default)]
    pub(crate) log: LogConfig,
    /// Certificate and key.
    pub(crate) tls: Option<TlsConfig>,
    /// Who may ask.
    #[serde(default)]
    pub(crate) auth: AuthConfig,
    /// Model ids and ARNs, and what answers them.
    #[serde(default)]
    pub(crate) models: BTreeMap<String, ModelConfig>,
    /// What is too much.
    #[serde(default)]
    pub(crate) limits: LimitsConfig,
    /// What each caller may ask for.
    #[serde(default)]
    pub(crate) quotas: QuotasConfig,
    /// Where finished pictures are kept, and how they are linked.
    #[serde(default)]
    pub(crate) results: ResultsConfig,
    /// Which pictures are fetched.
    #[serde(default)]
    pub(crate) fetch: FetchConfig,
    /// How connections are treated.
    #[serde(default)]
    pub(crate) connections: ConnectionsConfig,
    /// What is not drawn or not shown.
    #[serde(default)]
    pub(crate) filter: FilterConfig,
    /// How strictly Bedrock's documents are taken.
    #[serde(default)]
    pub(crate) bedrock: BedrockStrictness,
    /// Volcengine's pictures and styles.
    #[serde(default)]
    pub(crate) volcengine: VolcengineConfig,
}

/// `dtype`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfiguredDtype {
    /// 32-bit floats.
    F32,
    /// Factors rounded to bfloat16.
    Bf16,
    /// Eight bits in the denoising network's layers.
    Int8,
    /// The fastest that this processor does well.
    Auto,
}

/// `filter` of a model, and `[filter] mode`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfiguredFilter {
    /// No picture is looked at.
    Off,
    /// The receipt tells.
    Flag,
    /// Blurred past recognition.
    Blur,
    /// Black.
    Block,
}

impl From<ConfiguredFilter> for FilterMode {
    fn from(configured: ConfiguredFilter) -> Self {
        match configured {
            ConfiguredFilter::Off => Self::Off,
            ConfiguredFilter::Flag => Self::Flag,
            ConfiguredFilter::Blur => Self::Blur,
            ConfiguredFilter::Block => Self::Block,
        }
    }
}

/// `[filter]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterConfig {
    /// What is done with pictures that a model's checker objects to; for all models that have one and say nothing else.
    pub(crate) mode: Option<ConfiguredFilter>,
    /// Words that prompts may not hold.
    #[serde(default)]
    pub(crate) words: Vec<String>,
}

/// `[log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// `text` or `json`.
    pub(crate) format: Option<ConfiguredLogFormat>,
    /// What is logged, in the words of `RUST_LOG`.
    pub(crate) filter: Option<String>,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConfiguredLogFormat {
    /// Lines to read.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsConfig {
    /// PEM file of the certificate chain.
    pub(crate) certificate: PathBuf,
    /// PEM file of the private key.
    pub(crate) key: PathBuf,
}

/// `[auth]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthConfig {
    /// Pairs for signed requests.
    #[serde(default)]
    pub(crate) access_keys: Vec<AccessKey>,
    /// Bearer keys.
    #[serde(default)]
    pub(crate) api_keys: Vec<Secret>,
}

/// A pair for signed requests.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessKey {
    /// The public half.
    pub(crate) id: String,
    /// The secret half.
    pub(crate) secret: Secret,
    /// Where set, requests have to carry this session token too.
    pub(crate) session_token: Option<Secret>,
}

impl AccessKey {
    /// A pair without a session token.
    pub(crate) fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { id: id.into(), secret: Secret::new(secret), session_token: None }
    }
}

/// A length of time, written in seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "f64")]
pub(crate) struct Seconds(Duration);

impl Seconds {
    /// The length; `None` for 0, which stands for "never" or "no limit".
    pub(crate) fn unless_zero(self) -> Option<Duration> {
        Some(self.0).filter(|length| !length.is_zero())
    }

    /// The length.
    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let length = Duration::try_from_secs_f64(seconds);
        length.map(Self).map_err(|_| format!("{seconds} is no number of seconds"))
    }
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    /// Bytes of all request bodies that are held in memory at once.
    pub(crate) body_memory_bytes: Option<usize>,
    /// Bytes of all decoded pictures that wait in the queue at once.
    pub(crate) queue_memory_bytes: Option<usize>,
    /// Bytes that all loaded models may take together. 0 is no limit.
    pub(crate) model_memory_bytes: Option<u64>,
    /// Bytes that drawing one picture may take beside its model. 0 is no limit.
    pub(crate) picture_memory_bytes: Option<u64>,
    /// Largest picture that a model works at or that is taken in, in pixels.
    pub(crate) pixels: Option<u64>,
    /// Requests that wait while one is drawn.
    pub(crate) queue: Option<usize>,
    /// Pictures that may be begun per minute. 0 is no limit.
    pub(crate) pictures_per_minute: Option<u32>,
    /// Longest time from arrival to the finished picture. 0 is no limit.
    pub(crate) deadline_seconds: Option<Seconds>,
}

/// `[connections]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionsConfig {
    /// Time after which a slow answer is begun early. 0 is never.
    pub(crate) keep_alive_after_seconds: Option<Seconds>,
    /// Time between signs of life from then on.
    pub(crate) keep_alive_every_seconds: Option<Seconds>,
    /// How long a job goes on after its client left, if that client will try again.
    pub(crate) retry_grace_seconds: Option<Seconds>,
}

/// `[bedrock]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BedrockStrictness {
    /// Only the nine sizes of the documents.
    pub(crate) nine_sizes_only: Option<bool>,
    /// Keys that the documents do not name are refused.
    pub(crate) refuse_unknown_keys: Option<bool>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, and the line in it where there is one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the configuration {shown}"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        secret::FOLDER.set(folder.to_owned());
        let mut config = Self::parse(&text).with_context(|| format!("the configuration {shown} is wrong"))?;
        config.resolve_paths(folder);
        Ok(config)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// One line, with its number in the text where there is one.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = |error: toml::de::Error| {
            let message = error.message().replace('\n', ", ");
            match error.span() {
                Some(span) => anyhow::anyhow!("line {}: {message}", line_of(text, span.start)),
                None => anyhow::anyhow!(message),
            }
        };
        let config: Self = toml::from_str(text).map_err(wrong)?;
        if config.threads == Some(0) {
            bail!("threads has to be at least 1");
        }
        if config.limits.queue == Some(0) {
            bail!("limits.queue has to be at least 1");
        }
        Ok(config)
    }

    /// Takes relative paths from the file's folder. A model is a path when it looks like one: a bare word is
    /// a name.
    fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        self.data_dir.iter_mut().chain(&mut self.models_dirs).for_each(resolve);
        self.loras_dirs.iter_mut().chain(&mut self.controls_dirs).for_each(resolve);
        self.fetch.authorities.iter_mut().for_each(resolve);
        if let Some(tls) = &mut self.tls {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        self.models.values_mut().filter_map(|configured| configured.vae.as_mut()).for_each(resolve);
        let named = self.models.values_mut().map(|configured| &mut configured.model);
        let styles = self.volcengine.styles.values_mut().filter_map(|style| style.model.as_mut());
        for model in named.chain(styles).chain(&mut self.model) {
            if model.contains(['/', '\\']) {
                *model = folder.join(&*model).display().to_string();
            }
        }
    }
}

/// Credentials from the environment, added to those of the file.
///
/// # Errors
/// When one half of the pair is missing.
pub(crate) fn credentials_from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<AuthConfig> {
    let filled = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let mut access_keys = Vec::new();
    // Both kinds open both clouds' doors: which variable is set is a matter of habit.
    for (id, secret) in [
        ("PENTIMENTO_ACCESS_KEY_ID", "PENTIMENTO_SECRET_ACCESS_KEY"),
        ("PENTIMENTO_VOLC_ACCESS_KEY", "PENTIMENTO_VOLC_SECRET_KEY"),
    ] {
        match (filled(id), filled(secret)) {
            (Some(id), Some(secret)) => access_keys.push(AccessKey::new(id, secret)),
            (None, None) => {}
            (Some(_), None) => bail!("{id} is set without {secret}"),
            (None, Some(_)) => bail!("{secret} is set without {id}"),
        }
    }
    let api_keys = filled("PENTIMENTO_API_KEYS").unwrap_or_default();
    let api_keys = api_keys.split(',').map(str::trim).filter(|key| !key.is_empty());
    Ok(AuthConfig { access_keys, api_keys: api_keys.map(Secret::new).collect() })
}

/// Whether only this machine can reach the address.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::{Accelerations, GuidanceInterval, TokenMerging};

    const EXAMPLE: &str = include_str!("../../../examples/pentimento.toml");

    /// In the example a `#` with a space is prose, and one without is a setting that can be switched on.
    fn everything_switched_on() -> String {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        };
        EXAMPLE.lines().map(on).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_read_as_it_stands() {
        Config::parse(EXAMPLE).expect("the example is right");
    }

    #[test]
    fn the_example_describes_every_key() {
        let config = Config::parse(&everything_switched_on()).expect("the example is right");
        let Config {
            listen,
            model,
            data_dir,
            models_dirs,
            loras_dirs,
            controls_dirs,
            threads,
            dtype,
            log,
            tls,
            auth,
            models,
            limits,
            quotas,
            results,
            fetch,
            connections,
            filter: filtering,
            bedrock,
            volcengine,
        } = config;
        volcengine.assert_all_is_said();
        let FilterConfig { mode, words } = filtering;
        assert!(mode.is_some() && !words.is_empty());
        assert!(models.values().any(|model| model.filter.is_some()));
        let LogConfig { format, filter } = log;
        let AuthConfig { access_keys, api_keys } = auth;
        let LimitsConfig {
            body_memory_bytes,
            queue_memory_bytes,
            model_memory_bytes,
            picture_memory_bytes,
            pixels,
            queue,
            pictures_per_minute,
            deadline_seconds,
        } = limits;
        let ConnectionsConfig { keep_alive_after_seconds, keep_alive_every_seconds, retry_grace_seconds } =
            connections;
        let BedrockStrictness { nine_sizes_only, refuse_unknown_keys } = bedrock;
        let QuotasConfig { pictures_per_minute: everybodys, at_once, queue_share, keys } = quotas;
        assert!(everybodys.is_some() && at_once.is_some() && queue_share.is_some());
        assert!(keys.values().any(|quota| {
            let QuotaConfig { pictures_per_minute, at_once, queue_share } = quota;
            pictures_per_minute.is_some() && at_once.is_some() && queue_share.is_some()
        }));
        let ResultsConfig { lifetime_seconds, public_url, s3 } = results;
        let S3Config { endpoint, bucket: _, region, prefix, access_key_id: _, secret_access_key: _ } =
            s3.expect("it is described");
        assert!(lifetime_seconds.is_some() && public_url.is_some());
        assert!(endpoint.is_some() && region.is_some() && prefix.is_some());
        let FetchConfig { allow, authorities, timeout_seconds } = fetch;
        assert!(!allow.is_empty() && !authorities.is_empty());
        assert!(timeout_seconds.is_some() && queue_memory_bytes.is_some());
        assert!(listen.is_some() && model.is_some() && data_dir.is_some() && threads.is_some());
        assert!(dtype.is_some() && format.is_some() && filter.is_some() && tls.is_some());
        assert!(access_keys[0].session_token.is_some() && !api_keys.is_empty());
        assert!(
            models
                .values()
                .any(|model| model.dtype.is_some() && model.pixels.is_some() && model.guidance_rescale > 0.0)
        );
        assert!(models.values().any(|model| {
            let Accelerations { guidance_interval, step_cache, token_merging } = model.accelerations;
            guidance_interval != GuidanceInterval::WHOLE
                && step_cache.is_some()
                && token_merging != TokenMerging::NONE
        }));
        assert!(models.values().any(|model| {
            let CompanionNames { canny, tile, face } = &model.companions;
            canny.is_some() && tile.is_some() && face.is_some()
        }));
        assert!(
            body_memory_bytes.is_some() && pixels.is_some() && queue.is_some() && deadline_seconds.is_some()
        );
        assert!(pictures_per_minute.is_some() && model_memory_bytes.is_some() && !models_dirs.is_empty());
        assert!(!loras_dirs.is_empty() && !controls_dirs.is_empty());
        assert!(keep_alive_after_seconds.is_some() && keep_alive_every_seconds.is_some());
        assert!(retry_grace_seconds.is_some() && picture_memory_bytes.is_some());
        assert!(nine_sizes_only.is_some() && refuse_unknown_keys.is_some());
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_its_number() {
        let cases = [
            ("\nlisten = 5", "line 2"),
            ("[limits]\nqeue = 3", "line 2: unknown field `qeue`"),
            ("[models]\nx = { mdoel = \"a\" }", "`mdoel`"),
            ("[models]\nx = 3", "a model's folder or name"),
            ("[models]\nx = { model = \"a\", guidance_rescale = 2.0 }", "from 0 to 1"),
            (
                "[models]\nx = { model = \"a\", guidance_interval = \"0.8:0.2\" }",
                "guidance_interval: a guidance interval from",
            ),
            ("[models]\nx = { model = \"a\", step_cache = \"0\" }", "step_cache: a step cache of interval 0"),
            ("[models]\nx = { model = \"a\", token_merging = 0.8 }", "token_merging: a token merging of 0.8"),
            ("[auth]\napi_keys = [\n", "line"),
            ("dtype = \"f64\"", "`f64`"),
            ("threads = 0", "at least 1"),
            ("[limits]\ndeadline_seconds = -1", "line 2: -1 is no number of seconds"),
        ];
        for (text, expected) in cases {
            let message = Config::parse(text).expect_err(text).to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{text}: {message}");
        }
    }

    #[test]
    fn paths_are_taken_from_the_files_folder_and_names_stay_names() {
        let mut config = Config::parse(
            "model = \"default\"\n[models]\na = \"./sd\"\nb = \"/abs/sd\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"",
        )
        .expect("it is right");
        config.resolve_paths(Path::new("/etc/pentimento"));
        assert_eq!(config.model.as_deref(), Some("default"));
        assert_eq!(config.models["a"].model, "/etc/pentimento/./sd");
        assert_eq!(config.models["b"].model, "/abs/sd");
        let tls = config.tls.expect("it is there");
        assert_eq!(tls.certificate, Path::new("/etc/pentimento/c.pem"));
        assert_eq!(tls.key, Path::new("/k.pem"));
    }

    #[test]
    fn the_environment_gives_a_pair_and_keys() {
        let with = |pairs: &'static [(&str, &str)]| {
            credentials_from_environment(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let found = with(&[
            ("PENTIMENTO_ACCESS_KEY_ID", "AK"),
            ("PENTIMENTO_SECRET_ACCESS_KEY", "secret"),
            ("PENTIMENTO_API_KEYS", " one, ,two"),
        ])
        .expect("it is complete");
        assert_eq!(found.access_keys, [AccessKey::new("AK", "secret")]);
        assert_eq!(found.api_keys, [Secret::new("one"), Secret::new("two")]);
        assert!(with(&[("PENTIMENTO_ACCESS_KEY_ID", "AK")]).is_err());
        assert!(with(&[]).expect("nothing is fine").api_keys.is_empty());
    }

    #[test]
    fn secrets_are_read_from_files_and_the_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("key"), "from a file\n").expect("written");
        let path = folder.path().join("p.toml");
        let read = |text: &str| {
            fs::write(&path, text).expect("written");
            Config::read(&path).map(|config| config.auth.api_keys)
        };
        let keys = read("[auth]\napi_keys = [\"plain\", { file = \"key\" }]").expect("it is right");
        assert_eq!(keys, [Secret::new("plain"), Secret::new("from a file")]);
        for wrong in
            ["{ file = \"missing\" }", "{ variable = \"NO_SUCH_VARIABLE\" }", "{ text = \"a\" }", "5"]
        {
            let message = read(&format!("[auth]\napi_keys = [{wrong}]")).expect_err(wrong);
            assert!(!format!("{message:#}").contains('\n'), "{message:#}");
        }
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let shown = format!("{:?}", AccessKey::new("AK", "hush"));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
