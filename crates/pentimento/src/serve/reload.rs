//! A new configuration for a running server: read when asked for by SIGHUP or when the file changes.
//!
//! Read anew: who may ask and for how much, which models answer which ids and how they are loaded, the models' memory, the limits of pictures,
//! the content filter and the protocols' strictness. A configuration that is wrong in any way is refused as a whole, and the old one stays.
//! What a running server cannot change is told in the log.

use super::{Served, settings::Settings, signals::Hangups};
use crate::{cli::ServeArgs, config::Config, room::PictureRoom};
use anyhow::{Context, Result};
use bytes::Bytes;
use pentimento_protocols::{
    Answer, Call, Context as RequestContext, HttpRequest, KeepAlive, Protocol, Received, Refusal, Reply,
};
use pentimento_request::GenerateError;
use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};
use tokio::time::interval;
use tracing::{error, info, warn};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A protocol that can be exchanged for another one of its kind while requests are answered.
pub(super) struct Exchangeable {
    name: &'static str,
    current: RwLock<Arc<dyn Protocol>>,
}

impl Exchangeable {
    /// This protocol until another one comes.
    pub(super) fn new(first: Arc<dyn Protocol>) -> Self {
        Self { name: first.name(), current: RwLock::new(first) }
    }

    fn exchange(&self, next: Arc<dyn Protocol>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    fn current(&self) -> Arc<dyn Protocol> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Protocol for Exchangeable {
    fn name(&self) -> &'static str {
        self.name
    }

    fn claims(&self, method: &str, target: &str) -> bool {
        self.current().claims(method, target)
    }

    fn body_limit(&self) -> usize {
        self.current().body_limit()
    }

    fn receive(&self, request: &HttpRequest, context: &RequestContext) -> Result<Received, Reply> {
        self.current().receive(request, context)
    }

    fn refuse(&self, refusal: Refusal, context: &RequestContext) -> Reply {
        self.current().refuse(refusal, context)
    }

    fn answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply {
        self.current().answer(call, outcome)
    }

    fn keep_alive(&self, call: &Call) -> Option<KeepAlive> {
        self.current().keep_alive(call)
    }

    fn late_answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes {
        self.current().late_answer(call, outcome)
    }
}

/// Reads the configuration again and again, until the server ends.
pub(super) async fn watch(args: Arc<ServeArgs>, served: Arc<Served>, mut hangups: Hangups) {
    let Some(path) = args.config.clone() else {
        // There is nothing to read anew but the folders of models, and only who asks for it means that.
        loop {
            hangups.next().await;
            read_again(&args, &served).await;
        }
    };
    let mut looks = interval(LOOK);
    let mut known = stamp(&path);
    loop {
        let asked = tokio::select! {
            () = hangups.next() => true,
            _ = looks.tick() => false,
        };
        let now = stamp(&path);
        // A file that is gone for the moment is being replaced.
        if asked || (now.is_some() && now != known) {
            known = now;
            read_again(&args, &served).await;
        }
    }
}

/// What shows that a file is another one.
fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let found = fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok()?))
}

async fn read_again(args: &Arc<ServeArgs>, served: &Arc<Served>) {
    let (args, served) = (Arc::clone(args), Arc::clone(served));
    // Reading models' headers blocks.
    let done = tokio::task::spawn_blocking(move || apply(&args, &served)).await;
    match done.map_err(anyhow::Error::from).and_then(|result| result) {
        Ok(()) => info!("the configuration was read anew"),
        Err(reason) => error!("the new configuration is refused, the old one stays: {reason:#}"),
    }
}

/// Takes everything over that can be, or nothing.
fn apply(args: &ServeArgs, served: &Served) -> Result<()> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let mut next = Settings::resolve(args, config, |name| std::env::var(name).ok())?;
    let mut current = served.settings.lock().unwrap_or_else(PoisonError::into_inner);
    next.credentials.keep_those_for_this_run(&current.credentials);
    let (offers, answering) = super::offer(&next, served.catalogue.library());
    let protocols = super::protocols(&next, answering);
    served.catalogue.replace(offers, next.model_memory).context("its models cannot be used")?;
    served.catalogue.set_room(PictureRoom::configured(next.picture_memory));
    served.screened.exchange(next.words.clone());
    for (place, protocol) in served.protocols.iter().zip(protocols) {
        place.exchange(protocol);
    }
    served.controls.replace_quotas(next.server.quotas.clone());
    for name in current.fixed_differences(&next) {
        warn!("a new value for {name} holds only when the server is started again");
    }
    *current = next;
    Ok(())
}
