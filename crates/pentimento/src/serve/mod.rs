//! `pentimento serve`: puts the models, the protocol and the server together, and ends them on a signal.
//!
//! Standard output says where the server listens (and, where nobody configured credentials, how to ask it);
//! the log goes to standard error.

#[cfg(debug_assertions)]
mod fault;
mod reload;
mod settings;
mod signals;
mod volcengine;
mod welcome;

use crate::{
    catalogue::{Catalogue, Offered, Offers},
    cli::ServeArgs,
    config::Config,
    failure::Failure,
    generate::use_threads,
    library::Shelves,
    output,
    room::PictureRoom,
    words::Screened,
};
use anyhow::{Context, Result};
use pentimento_diffusion::{Companions, Library, shows_faces};
use pentimento_imaging::Limits;
use pentimento_protocols::{
    ModelProfile, Protocol,
    bedrock::{Bedrock, BedrockConfig, FallbackIds, ModelMap},
    volcengine::Styles,
};
use pentimento_request::Generator;
use pentimento_server::{Controls, Server};
use reload::Exchangeable;
use settings::{ConfiguredModel, Settings};
use signals::{Hangups, Signals};
use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
};
use tracing_subscriber::EnvFilter;

/// A file in a body is bounded by the body already; this only says so to the decoder.
const LARGEST_FILE: usize = 25_000_000;

/// Serves until a signal.
pub(crate) fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let settings = Settings::resolve(&args, config, |name| std::env::var(name).ok())?;
    start_log(&settings)?;
    use_threads(settings.threads)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the server's threads")?;
    runtime.block_on(serve(args, settings)).map_err(Failure::from)
}

async fn serve(args: ServeArgs, settings: Settings) -> Result<()> {
    let signals = Signals::listen()?;
    let hangups = Hangups::listen()?;
    let server = Server::bind(settings.server.clone()).await?;
    let library = Arc::new(Shelves::of(&settings.places));
    let (offers, answering) = offer(&settings, &*library);
    let catalogue = Arc::new(Catalogue::new(offers, settings.model_memory, library)?);
    catalogue.set_room(PictureRoom::configured(settings.picture_memory));
    catalogue.load_the_only_one()?;
    let exchangeable = |protocol| Arc::new(Exchangeable::new(protocol));
    let served = Arc::new(Served {
        catalogue: Arc::clone(&catalogue),
        screened: Arc::new(Screened::new(catalogue.clone(), settings.words.clone())),
        protocols: protocols(&settings, answering).into_iter().map(exchangeable).collect(),
        controls: server.controls(),
        settings: Mutex::new(settings),
    });
    say_hello(&server, &served);
    let protocols = served.protocols.iter().map(|protocol| Arc::clone(protocol) as Arc<dyn Protocol>);
    let protocols = protocols.collect();
    let generator: Arc<dyn Generator> = Arc::clone(&served.screened) as _;
    #[cfg(debug_assertions)]
    let generator = fault::told_to_panic(generator);
    tokio::spawn(reload::watch(Arc::new(args), served, hangups));
    server.run(protocols, generator, signals.asked_to_end()).await?;
    Ok(())
}

/// What a new configuration changes while requests are answered.
struct Served {
    catalogue: Arc<Catalogue>,
    /// The same, as the server asks it.
    screened: Arc<Screened>,
    protocols: Vec<Arc<Exchangeable>>,
    controls: Controls,
    /// What holds at this moment.
    settings: Mutex<Settings>,
}

fn say_hello(server: &Server, served: &Served) {
    let settings = served.settings.lock().unwrap_or_else(PoisonError::into_inner);
    let text = welcome::text(server.local_addr(), settings.server.tls.is_some(), &settings.credentials);
    // Where nobody reads it, the server serves all the same.
    let _ = output::print(text.as_bytes());
}

/// The protocols, always the same ones in the same order.
fn protocols(settings: &Settings, answering: Answering) -> Vec<Arc<dyn Protocol>> {
    let Answering { models, styles } = answering;
    let mut bedrock = BedrockConfig::new(settings.credentials.to_auth(), models, settings.image_limits());
    bedrock.strict_sizes = settings.nine_sizes_only;
    bedrock.strict_keys = settings.refuse_unknown_keys;
    vec![Arc::new(Bedrock::new(bedrock)), Arc::new(volcengine::protocol(settings, styles))]
}

/// What answers whose names.
struct Answering {
    /// Bedrock's ids.
    models: ModelMap,
    /// Volcengine's `req_key`s.
    styles: Styles,
}

/// Every model that can be asked for, and the names that it answers.
fn offer(settings: &Settings, library: &dyn Library) -> (Offers, Answering) {
    let mut offers = Offers::default();
    let mut profile = |wanted: &ConfiguredModel| {
        let ConfiguredModel {
            source,
            precision,
            pixel_cap,
            guidance_rescale,
            accelerations,
            filter,
            companions,
        } = wanted;
        let offered = Offered {
            source: source.clone(),
            precision: *precision,
            pixel_cap: *pixel_cap,
            companions: companions.clone(),
        };
        // What cannot be read here is told when the catalogue looks at the model.
        let Companions { edges, loras, texture: _ } = source.companions().unwrap_or_default();
        ModelProfile {
            name: offers.add(offered),
            guidance_rescale: *guidance_rescale,
            accelerations: *accelerations,
            filter: *filter,
            draws_edges: edges || companions.canny.is_some(),
            shows_faces: source
                .files()
                .is_ok_and(|files| shows_faces(&*files, library, companions.face.as_deref())),
            loras,
        }
    };
    let fallback_ids = if settings.answers_every_id { FallbackIds::All } else { FallbackIds::Stability };
    let fallback = profile(&settings.fallback);
    let mut models = ModelMap::new(fallback.clone(), fallback_ids);
    for (id, wanted) in &settings.models {
        models = models.map(id, profile(wanted));
    }
    let styles = settings.volcengine.styles(&fallback, profile);
    (offers, Answering { models, styles })
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
