//! `pentimento serve`: puts the models, the protocol and the server together, and ends them on a signal.
//!
//! Standard output says where the server listens (and, where nobody configured credentials, how to ask it);
//! the log goes to standard error.

mod settings;
mod signals;
mod welcome;

use crate::{
    catalogue::Catalogue, cli::ServeArgs, config::Config, failure::Failure, generate::use_threads, output,
};
use anyhow::{Context, Result};
use pentimento_imaging::Limits;
use pentimento_protocols::{
    ModelProfile, Protocol,
    bedrock::{Bedrock, BedrockConfig, FallbackIds, ModelMap},
};
use pentimento_request::Generator;
use pentimento_server::Server;
use settings::{ConfiguredModel, Settings};
use signals::Signals;
use std::{
    io::{self, IsTerminal},
    sync::Arc,
};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// A file in a body is bounded by the body already; this only says so to the decoder.
const LARGEST_FILE: usize = 25_000_000;

/// Serves until a signal.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let settings = Settings::resolve(args, config, |name| std::env::var(name).ok())?;
    start_log(&settings)?;
    use_threads(settings.threads)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the server's threads")?;
    runtime.block_on(serve(settings)).map_err(Failure::from)
}

async fn serve(settings: Settings) -> Result<()> {
    let signals = Signals::listen()?;
    let server = Server::bind(settings.server.clone()).await?;
    let (catalogue, models) = load(&settings)?;
    let mut bedrock = BedrockConfig::new(settings.credentials.to_auth(), models, settings.image_limits());
    bedrock.strict_sizes = settings.nine_sizes_only;
    bedrock.strict_keys = settings.refuse_unknown_keys;
    let protocols: Vec<Arc<dyn Protocol>> = vec![Arc::new(Bedrock::new(bedrock))];
    let generator: Arc<dyn Generator> = Arc::new(catalogue);
    let text = welcome::text(server.local_addr(), settings.server.tls.is_some(), &settings.credentials);
    // Where nobody reads it, the server serves all the same.
    let _ = output::print(text.as_bytes());
    server.run(protocols, generator, signals.asked_to_end()).await?;
    Ok(())
}

/// Loads every model that can be asked for, so that a broken one is found now and not by a client.
fn load(settings: &Settings) -> Result<(Catalogue, ModelMap)> {
    let mut catalogue = Catalogue::default();
    let mut profile = |wanted: &ConfiguredModel| -> Result<ModelProfile> {
        let name = catalogue.load(&wanted.source, wanted.precision, settings.pixels)?;
        Ok(ModelProfile { name, guidance_rescale: wanted.guidance_rescale, filter: None })
    };
    let fallback_ids = if settings.answers_every_id { FallbackIds::All } else { FallbackIds::Stability };
    let mut map = ModelMap::new(profile(&settings.fallback)?, fallback_ids);
    for (id, wanted) in &settings.models {
        map = map.map(id, profile(wanted).with_context(|| format!("cannot load the model for {id}"))?);
    }
    for (name, model) in catalogue.models() {
        info!(model = name, native_size = %model.native_size(), hash = model.hash(), "model loaded");
    }
    Ok((catalogue, map))
}

impl Settings {
    fn image_limits(&self) -> Limits {
        Limits { bytes: LARGEST_FILE, pixels: self.pixels }
    }
}

fn start_log(settings: &Settings) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log_filter)
        .with_context(|| format!("'{}' is no filter for the log", settings.log_filter))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if settings.log_json {
        log.json().init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).init();
    }
    Ok(())
}
