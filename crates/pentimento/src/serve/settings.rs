//! What the options, the configuration file and the environment of `serve` mean together. Options come first,
//! then the file, then the defaults.

use super::volcengine::VolcengineSettings;
use crate::{
    catalogue::precision,
    cli::{Dtype, LogFormat, ServeArgs},
    config::{
        self, CompanionNames, Config, ConfiguredDtype, ConfiguredLogFormat, ConnectionsConfig, LimitsConfig,
        ModelConfig, QuotaConfig, QuotasConfig, S3Config, Seconds, Share, TlsConfig,
        credentials_from_environment,
    },
    credentials::Credentials,
    places::Places,
    source::{DEFAULT, Source},
    words::WordList,
};
use anyhow::{Context, Result, bail};
use pentimento_diffusion::Precision;
use pentimento_request::{Accelerations, FilterMode};
use pentimento_server::{
    Authorities, FetchConfig, KeepAliveTiming, Quota, Quotas, ResultStore, ResultsConfig, S3Store,
    ServerConfig, Tls,
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};
use tracing::warn;

/// Where the server listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:8181";

/// Largest picture unless told otherwise: SDXL's own 1024×1024.
const PIXELS: u64 = 1_048_576;

/// Time between signs of life, once they are switched on: well under the shortest read timeouts.
const BEAT: Duration = Duration::from_secs(10);

/// Everything that `serve` was told, resolved.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) server: ServerConfig,
    /// Where models, adapters and control networks lie.
    pub(super) places: Places,
    pub(super) credentials: Credentials,
    pub(super) fallback: ConfiguredModel,
    pub(super) answers_every_id: bool,
    /// Ids and what answers them: those of the configuration, then the names in the folders of models.
    pub(super) models: Vec<(String, ConfiguredModel)>,
    /// What prompts may not hold.
    pub(super) words: WordList,
    /// Bytes that all loaded models may take together.
    pub(super) model_memory: Option<u64>,
    /// As it was configured: 0 is no limit.
    pub(super) picture_memory: Option<u64>,
    pub(super) pixels: u64,
    pub(super) nine_sizes_only: bool,
    pub(super) refuse_unknown_keys: bool,
    pub(super) volcengine: VolcengineSettings,
    pub(super) threads: Option<u16>,
    pub(super) log_json: bool,
    pub(super) log_filter: String,
}

/// A model that answers some id.
#[derive(Debug)]
pub(super) struct ConfiguredModel {
    pub(super) source: Source,
    pub(super) precision: Precision,
    /// Largest picture that it works at, in pixels.
    pub(super) pixel_cap: u64,
    pub(super) guidance_rescale: f32,
    pub(super) accelerations: Accelerations,
    /// What is done with pictures that its checker objects to; `None` is the engine's own rule.
    pub(super) filter: Option<FilterMode>,
    /// What goes with it.
    pub(super) companions: CompanionNames,
}

impl Settings {
    /// Resolves everything. `variable` reads the environment.
    ///
    /// # Errors
    /// One line that names the option, key or file.
    pub(super) fn resolve(
        args: &ServeArgs,
        config: Config,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
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
            filter,
            bedrock,
            volcengine,
        } = config;
        let listen = address(args.listen.as_deref().or(listen.as_deref()).unwrap_or(LISTEN))?;
        let credentials =
            Credentials::decide(args.no_auth, listen, auth, credentials_from_environment(&variable)?)?;
        let places = Places::resolve(&args.model.data, data_dir, &models_dirs)
            .with_steering(&loras_dirs, &controls_dirs);
        let dtype = args.model.dtype.or(dtype.map(typed)).unwrap_or(Dtype::F32);
        let wanted = args.model.model.clone().or(model);
        let pixels = limits.pixels.unwrap_or(PIXELS);
        let defaults = Defaults { places: &places, dtype, pixels, filter: filter.mode.map(FilterMode::from) };
        let fallback = ModelConfig {
            vae: args.model.vae.clone(),
            ..ModelConfig::named(wanted.clone().unwrap_or_else(|| DEFAULT.to_owned()))
        };
        Ok(Self {
            answers_every_id: wanted.is_some(),
            fallback: defaults.complete(&fallback)?,
            models: defaults.all(models)?,
            volcengine: VolcengineSettings::resolve(volcengine, |model| {
                defaults.complete(&ModelConfig::named(model.to_owned()))
            })?,
            words: WordList::new(&filter.words)?,
            picture_memory: limits.picture_memory_bytes,
            model_memory: limits.model_memory_bytes.filter(|bytes| *bytes > 0),
            server: ServerConfig {
                data_dir: Some(places.data()?),
                quotas: quotas_of(quotas),
                results: results_of(results),
                fetch: fetch_of(args, fetch)?,
                ..server(args, listen, tls, limits, connections)?
            },
            places,
            credentials,
            pixels,
            nine_sizes_only: bedrock.nine_sizes_only.unwrap_or(false),
            refuse_unknown_keys: bedrock.refuse_unknown_keys.unwrap_or(false),
            threads: args.model.threads.or(threads),
            log_json: match args.log_format {
                Some(format) => format == LogFormat::Json,
                None => log.format == Some(ConfiguredLogFormat::Json),
            },
            log_filter: variable("RUST_LOG").or(log.filter).unwrap_or_else(|| "info".to_owned()),
        })
    }
}

/// What holds for models that say nothing else.
struct Defaults<'a> {
    places: &'a Places,
    dtype: Dtype,
    pixels: u64,
    filter: Option<FilterMode>,
}

impl Defaults<'_> {
    fn complete(&self, model: &ModelConfig) -> Result<ConfiguredModel> {
        let ModelConfig { model, vae, dtype, pixels, guidance_rescale, accelerations, filter, companions } =
            model;
        let source = Source::find(model, self.places)?.with_vae(vae.as_deref());
        Ok(ConfiguredModel {
            filter: self.filter(&source, filter.map(FilterMode::from))?,
            source,
            precision: precision(dtype.map_or(self.dtype, typed)),
            pixel_cap: pixels.unwrap_or(self.pixels),
            guidance_rescale: *guidance_rescale,
            accelerations: *accelerations,
            companions: companions.clone(),
        })
    }

    /// The mode of a model. One that is asked for by itself has to be possible; one that holds for all goes for those that
    /// have a checker.
    fn filter(&self, source: &Source, own: Option<FilterMode>) -> Result<Option<FilterMode>> {
        let Some(mode) = own.or(self.filter).filter(|mode| *mode != FilterMode::Off) else {
            return Ok(own.or(self.filter));
        };
        match (source.inspect()?.has_filter(), own) {
            (true, _) => Ok(Some(mode)),
            (false, None) => Ok(None),
            (false, Some(mode)) => bail!("filter = \"{mode}\": the model has no safety checker"),
        }
    }

    /// What is configured, and what lies in the folders of models under its own name. One that cannot be run does not
    /// keep the others from being served, unless the configuration asks for it.
    fn all(&self, configured: BTreeMap<String, ModelConfig>) -> Result<Vec<(String, ConfiguredModel)>> {
        let mut all = Vec::new();
        for (id, model) in configured {
            let found = self.complete(&model).with_context(|| format!("[models] {id}"))?;
            all.push((id, found));
        }
        for (name, source) in Source::named(self.places)? {
            if source == Source::Embedded || all.iter().any(|(id, _)| *id == name) {
                continue;
            }
            match source.inspect() {
                Ok(_) => all.push((name.clone(), self.complete(&ModelConfig::named(name))?)),
                Err(error) => warn!("{name} in the folder of models is left out: {error:#}"),
            }
        }
        Ok(all)
    }
}

impl Settings {
    /// Names of what differs in `next` and stays as it is for as long as the server runs.
    pub(super) fn fixed_differences(&self, next: &Self) -> Vec<&'static str> {
        let shown = |settings: &Self| {
            let Self { server, threads, log_json, log_filter, .. } = settings;
            let ServerConfig { listen, tls, .. } = server;
            [
                ("listen", listen.to_string()),
                ("[tls]", format!("{tls:?}")),
                (
                    "data_dir, [limits], [results], [fetch] and [connections] of the server",
                    format!("{:?}", Self::running(server)),
                ),
                ("threads", format!("{threads:?}")),
                ("[log]", format!("{log_json} {log_filter}")),
            ]
        };
        let pairs = shown(self).into_iter().zip(shown(next));
        pairs.filter(|(old, new)| old.1 != new.1).map(|(old, _)| old.0).collect()
    }

    /// What the server holds for as long as it runs.
    fn running(server: &ServerConfig) -> String {
        let ServerConfig {
            queue_places,
            jobs_per_minute,
            retry_grace,
            deadline,
            keep_alive,
            body_memory,
            queue_memory,
            data_dir,
            results,
            fetch,
            ..
        } = server;
        format!(
            "{queue_places} {jobs_per_minute:?} {retry_grace:?} {deadline:?} {keep_alive:?} {body_memory} {queue_memory} \
             {data_dir:?} {results:?} {fetch:?}"
        )
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| {
        format!("'{text}' is no address to listen on: write ADDRESS:PORT, as in {LISTEN}")
    })?;
    found.next().with_context(|| format!("'{text}' has no address"))
}

fn server(
    args: &ServeArgs,
    listen: SocketAddr,
    tls: Option<TlsConfig>,
    limits: LimitsConfig,
    connections: ConnectionsConfig,
) -> Result<ServerConfig> {
    let LimitsConfig {
        body_memory_bytes,
        queue_memory_bytes,
        model_memory_bytes: _,
        picture_memory_bytes: _,
        pixels: _,
        queue,
        pictures_per_minute,
        deadline_seconds,
    } = limits;
    let ConnectionsConfig { keep_alive_after_seconds, keep_alive_every_seconds, retry_grace_seconds } =
        connections;
    let defaults = ServerConfig::new(listen);
    let every = keep_alive_every_seconds.and_then(Seconds::unless_zero).unwrap_or(BEAT);
    let keep_alive = keep_alive_after_seconds.and_then(Seconds::unless_zero);
    Ok(ServerConfig {
        tls: certificate(args, tls)?,
        queue_places: queue.unwrap_or(defaults.queue_places),
        queue_memory: queue_memory_bytes.unwrap_or(defaults.queue_memory),
        jobs_per_minute: pictures_per_minute.map_or(defaults.jobs_per_minute, NonZeroU32::new),
        retry_grace: retry_grace_seconds.map_or(defaults.retry_grace, Seconds::get),
        deadline: deadline_seconds.map_or(defaults.deadline, Seconds::unless_zero),
        keep_alive: keep_alive.map(|after| KeepAliveTiming { after, every }),
        body_memory: body_memory_bytes.unwrap_or(defaults.body_memory),
        ..defaults
    })
}

fn quotas_of(configured: QuotasConfig) -> Quotas {
    let QuotasConfig { pictures_per_minute, at_once, queue_share, keys } = configured;
    let quota = |configured| {
        let QuotaConfig { pictures_per_minute, at_once, queue_share } = configured;
        Quota {
            per_minute: pictures_per_minute.and_then(NonZeroU32::new),
            at_once: at_once.and_then(NonZeroUsize::new),
            queue_share: queue_share.map(|share: Share| share.0).filter(|share| *share < 1.0),
        }
    };
    Quotas {
        others: quota(QuotaConfig { pictures_per_minute, at_once, queue_share }),
        of: keys.into_iter().map(|(key, configured)| (key, quota(configured))).collect(),
    }
}

fn results_of(configured: config::ResultsConfig) -> ResultsConfig {
    let config::ResultsConfig { lifetime_seconds, public_url, s3 } = configured;
    let defaults = ResultsConfig::default();
    let store = s3.map_or(ResultStore::Folder, |s3| {
        let S3Config { endpoint, bucket, region, prefix, access_key_id, secret_access_key } = s3;
        ResultStore::S3(S3Store {
            endpoint,
            bucket,
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            prefix,
            access_key_id,
            secret_access_key: secret_access_key.reveal().to_owned(),
        })
    });
    ResultsConfig { store, lifetime: lifetime_seconds.map_or(defaults.lifetime, Seconds::get), public_url }
}

fn fetch_of(args: &ServeArgs, configured: config::FetchConfig) -> Result<FetchConfig> {
    let config::FetchConfig { allow, authorities, timeout_seconds } = configured;
    let defaults = FetchConfig::default();
    let mut allowed = args.allow_fetch.clone();
    for origin in allow {
        allowed.push(origin.parse().map_err(anyhow::Error::msg).context("[fetch] allow")?);
    }
    let timeout = timeout_seconds.map_or(defaults.timeout, Seconds::get);
    let authorities = Authorities::load(&authorities).context("[fetch] authorities")?;
    Ok(FetchConfig { allow: allowed, timeout, authorities, ..defaults })
}

fn certificate(args: &ServeArgs, configured: Option<TlsConfig>) -> Result<Option<Tls>> {
    // clap asks for both options or neither.
    let typed = args.tls_cert.clone().zip(args.tls_key.clone());
    let files = typed.or(configured.map(|TlsConfig { certificate, key }| (certificate, key)));
    Ok(files.map(|(certificate, key)| Tls::load(&certificate, &key)).transpose()?)
}

const fn typed(dtype: ConfiguredDtype) -> Dtype {
    match dtype {
        ConfiguredDtype::F32 => Dtype::F32,
        ConfiguredDtype::Bf16 => Dtype::Bf16,
        ConfiguredDtype::Int8 => Dtype::Int8,
        ConfiguredDtype::Auto => Dtype::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn resolve(options: &str, file: &str) -> Result<Settings> {
        let typed = ["pentimento", "serve"].into_iter().chain(options.split_whitespace());
        let command = Cli::try_parse_from(typed).expect("clap takes it").command;
        let Command::Serve(args) = command else { panic!("another command") };
        Settings::resolve(&args, Config::parse(file)?, |_| None)
    }

    #[test]
    fn nothing_said_means_loopback_and_the_embedded_model() {
        let settings = resolve("", "").expect("it is right");
        assert_eq!(settings.server.listen.to_string(), LISTEN);
        assert_eq!(settings.fallback.source, Source::Embedded);
        assert!(!settings.answers_every_id && !settings.log_json);
        assert!(matches!(settings.credentials, Credentials::ForThisRun(_)));
    }

    #[test]
    fn options_stand_above_the_file() {
        let file = "listen = \"127.0.0.1:1\"\ndtype = \"bf16\"\nthreads = 3\n[log]\nformat = \"json\"";
        let settings = resolve("", file).expect("it is right");
        assert_eq!((settings.server.listen.port(), settings.threads), (1, Some(3)));
        assert!(settings.log_json && settings.fallback.precision == Precision::Bf16);
        let options = "--listen 127.0.0.1:2 --dtype f32 --threads 4 --log-format text";
        let settings = resolve(options, file).expect("it is right");
        assert_eq!((settings.server.listen.port(), settings.threads), (2, Some(4)));
        assert!(!settings.log_json && settings.fallback.precision == Precision::F32);
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let example = include_str!("../../../../examples/pentimento.toml");
        let (said, silent) = (resolve("", example).expect("right"), resolve("", "").expect("right"));
        // Credentials are random, so they are left out of the comparison.
        let shown = |settings: &Settings| {
            let Settings { server, fallback, answers_every_id, models, pixels, nine_sizes_only, .. } =
                settings;
            format!("{server:?} {fallback:?} {answers_every_id} {models:?} {pixels} {nine_sizes_only}")
        };
        assert_eq!(shown(&said), shown(&silent));
        assert_eq!((said.log_json, said.log_filter), (silent.log_json, silent.log_filter));
    }

    #[test]
    fn ids_are_mapped_to_models_with_options() {
        let file = "[models]\na = \"default\"\nb = { model = \"default\", dtype = \"bf16\", guidance_rescale = 0.5 }";
        let settings = resolve("--model default", file).expect("it is right");
        assert!(settings.answers_every_id);
        let (id, model) = &settings.models[1];
        assert_eq!((id.as_str(), model.precision, model.guidance_rescale), ("b", Precision::Bf16, 0.5));
    }

    #[test]
    fn zero_seconds_mean_never() {
        let file = "[limits]\ndeadline_seconds = 0\n[connections]\nkeep_alive_after_seconds = 2.5";
        let server = resolve("", file).expect("it is right").server;
        assert_eq!(server.deadline, None);
        let expected = KeepAliveTiming { after: Duration::from_millis(2500), every: BEAT };
        assert_eq!(server.keep_alive, Some(expected));
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        let cases = [
            ("--listen nowhere", "", "'nowhere' is no address"),
            ("--model nosuch", "", "no model 'nosuch'"),
            ("--no-auth --listen 0.0.0.0:0", "", "--no-auth"),
            ("--listen 0.0.0.0:0", "", "no credentials"),
            ("", "[models]\nx = \"./missing\"", "[models] x"),
            ("--tls-cert no.pem --tls-key no.key", "", "no.pem"),
        ];
        for (options, file, expected) in cases {
            let message = format!("{:#}", resolve(options, file).expect_err(options));
            assert!(message.contains(expected), "{options}: {message}");
        }
    }
}
