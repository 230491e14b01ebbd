//! Finished pictures in an object store, and the links by which they are had for a while.
//!
//! Keys: `links/HOUR/NAME.EXTENSION` for what is linked, `tasks/HOUR/NAME.png` for what tasks have drawn. HOUR is the hour,
//! counted from 1970, at whose end the object may go; sweeping needs no list of its own. NAME is an HMAC of the content or
//! of a random number under the server's key, so that nobody can guess one.
//!
//! Links: `/results/HOUR/NAME.EXTENSION?expires=SECONDS&signature=HEX`; the signature is an HMAC over path and time.

use crate::{
    clock::Timeline,
    error::{ServerError, ServerErrorKind},
    keep::{KEY_LENGTH, Keep, make_private},
    metrics::Metrics,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use hmac::{Hmac, Mac};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path as Key,
};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task;

/// Path before every link.
pub(crate) const PATH: &str = "/results/";

const HOUR: u64 = 3_600_000;

/// How long an S3 request may take to be answered, and how often it is tried again.
const S3_TIMEOUT: Duration = Duration::from_secs(20);
const S3_CONNECT: Duration = Duration::from_secs(5);
const S3_RETRIES: usize = 2;

/// Where results are kept.
#[derive(Clone, Debug, Default)]
pub enum ResultStore {
    /// In the data folder.
    #[default]
    Folder,
    /// With an S3-compatible service.
    S3(S3Store),
}

/// A bucket of an S3-compatible service.
#[derive(Clone)]
pub struct S3Store {
    /// The service's address, as `https://s3.example.com`. `None`: Amazon's own for the region.
    pub endpoint: Option<String>,
    /// The bucket; it must be there.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// Put before every key.
    pub prefix: Option<String>,
    /// The public half of the credentials.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "S3Store({:?} {} {:?})", self.endpoint, self.bucket, self.prefix)
    }
}

/// How results are kept and linked.
#[derive(Clone, Debug)]
pub struct ResultsConfig {
    /// Where they are kept.
    pub store: ResultStore,
    /// How long a link is good. Default 24 hours.
    pub lifetime: Duration,
    /// What stands before the path in links, as `https://pictures.example.com`. `None`: the address that the client
    /// asked at.
    pub public_url: Option<String>,
}

impl Default for ResultsConfig {
    fn default() -> Self {
        Self { store: ResultStore::Folder, lifetime: Duration::from_secs(24 * 3600), public_url: None }
    }
}

/// Why a result is not there or could not be kept. The text is for the log.
#[derive(Debug)]
pub(crate) struct ResultsError(object_store::Error);

impl ResultsError {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.0, object_store::Error::NotFound { .. })
    }
}

impl fmt::Display for ResultsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl std::error::Error for ResultsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

impl From<object_store::Error> for ResultsError {
    fn from(error: object_store::Error) -> Self {
        Self(error)
    }
}

/// What a link is good for.
#[derive(Debug)]
pub(crate) enum Linked {
    /// This file, for so long.
    File { bytes: Bytes, kind: &'static str, left: Duration },
    /// Not one of ours, or its time is over.
    Denied,
    /// It was one, but there is nothing any more.
    Missing,
    /// The store does not answer.
    Unreachable(ResultsError),
}

/// The results of one server.
pub(crate) struct Results {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// The folder of a local store, whose files have to be brought to the disk.
    folder: Option<LocalFileSystem>,
    key: [u8; KEY_LENGTH],
    lifetime: Duration,
    public_url: Option<String>,
    time: Timeline,
    metrics: Metrics,
}

impl Results {
    pub(crate) fn open(
        config: &ResultsConfig,
        keep: &Keep,
        time: Timeline,
        metrics: Metrics,
    ) -> Result<Self, ServerError> {
        let failed = |error: object_store::Error| {
            ServerError::caused_by(ServerErrorKind::Data, "cannot use the store of results", error)
        };
        let ResultsConfig { store, lifetime, public_url } = config;
        let (store, prefix, folder): (Arc<dyn ObjectStore>, _, _) = match store {
            ResultStore::Folder => {
                let folder = keep.folder.join("results");
                make_private(&folder).map_err(|error| {
                    let message = format!("cannot make {}", folder.display());
                    ServerError::caused_by(ServerErrorKind::Data, message, error)
                })?;
                let local = LocalFileSystem::new_with_prefix(&folder).map_err(failed)?;
                let local = local.with_automatic_cleanup(true);
                (Arc::new(local.clone()), String::new(), Some(local))
            }
            ResultStore::S3(s3) => {
                let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/');
                let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
                (Arc::new(bucket(s3).map_err(failed)?), prefix, None)
            }
        };
        let public_url = public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        let (key, lifetime) = (keep.key, *lifetime);
        Ok(Self { store, prefix, folder, key, lifetime, public_url, time, metrics })
    }

    /// Keeps what a task has drawn, at least for so long, and answers its key.
    pub(crate) async fn keep(
        &self,
        id: &str,
        png: Bytes,
        lifetime: Duration,
    ) -> Result<String, ResultsError> {
        let name = self.name(&[b"task", id.as_bytes()]);
        let key = format!("{}tasks/{}/{name}.png", self.prefix, self.last_hour(lifetime));
        self.put(&key, png).await?;
        Ok(key)
    }

    /// What lies under a key.
    pub(crate) async fn read(&self, key: &str) -> Result<Bytes, ResultsError> {
        self.counted("get", async { Ok(self.store.get(&Key::from(key)).await?.bytes().await?) }).await
    }

    /// Forgets what lies under a key.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), ResultsError> {
        let removed = self.counted("delete", async { Ok(self.store.delete(&Key::from(key)).await?) }).await;
        removed.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })
    }

    /// Keeps a file and answers a link to it. `asked_at` is what stands before the path where nothing is configured.
    /// `scope` tells files of different callers apart.
    pub(crate) async fn link(
        &self,
        file: Bytes,
        scope: &str,
        asked_at: &str,
    ) -> Result<String, ResultsError> {
        let name = self.name(&[b"link", scope.as_bytes(), &Sha256::digest(&file)]);
        let within = format!("{}/{name}.{}", self.last_hour(self.lifetime), extension(&file));
        self.put(&format!("{}links/{within}", self.prefix), file).await?;
        let path = format!("{PATH}{within}");
        let expires = (self.time.now() + crate::clock::millis(self.lifetime)) / 1000;
        let signature = hex(&self.signature(&path, expires).finalize().into_bytes());
        let before = self.public_url.as_deref().unwrap_or(asked_at);
        Ok(format!("{before}{path}?expires={expires}&signature={signature}"))
    }

    /// The file that a link leads to. `target` is a raw path with its query.
    pub(crate) async fn follow(&self, target: &str) -> Linked {
        let Some((path, left)) = self.verified(target) else { return Linked::Denied };
        let Some(within) = path.strip_prefix(PATH) else { return Linked::Denied };
        match self.read(&format!("{}links/{within}", self.prefix)).await {
            Ok(bytes) => Linked::File { kind: kind(&bytes), bytes, left },
            Err(error) if error.is_missing() => Linked::Missing,
            Err(error) => Linked::Unreachable(error),
        }
    }

    /// Deletes everything whose hour is over.
    pub(crate) async fn sweep(&self) -> Result<usize, ResultsError> {
        let now = self.time.now() / HOUR;
        let mut swept = 0;
        for kind in ["links", "tasks"] {
            let under = Key::from(format!("{}{kind}", self.prefix));
            let hours = self.store.list_with_delimiter(Some(&under)).await?.common_prefixes;
            for hour in hours.iter().filter(|hour| is_over(hour, now)) {
                let keys = self.store.list(Some(hour)).map_ok(|object| object.location).boxed();
                let keys: Vec<Key> = keys.try_collect().await?;
                for key in keys {
                    self.remove(key.as_ref()).await?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    /// Does something with the store, and counts how it went.
    async fn counted<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, ResultsError>>,
    ) -> Result<T, ResultsError> {
        let begun = Instant::now();
        let result = work.await;
        let outcome = match &result {
            Ok(_) => "done",
            Err(error) if error.is_missing() => "missing",
            Err(_) => "failed",
        };
        self.metrics.stored(operation, outcome, begun.elapsed());
        result
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ResultsError> {
        self.counted("put", self.put_whole(key, bytes)).await
    }

    async fn put_whole(&self, key: &str, bytes: Bytes) -> Result<(), ResultsError> {
        let key = Key::from(key);
        self.store.put(&key, PutPayload::from_bytes(bytes)).await?;
        let Some(folder) = &self.folder else { return Ok(()) };
        // What is answered for as done must outlive a cut of the power too.
        let path = folder.path_to_filesystem(&key)?;
        let synced = task::spawn_blocking(move || std::fs::File::open(path)?.sync_all()).await;
        let synced = synced.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        synced.map_err(|error| object_store::Error::Generic { store: "folder", source: error.into() }.into())
    }

    /// The link's path and how long it is good still, if its signature is ours.
    fn verified<'a>(&self, target: &'a str) -> Option<(&'a str, Duration)> {
        let (path, query) = target.split_once('?')?;
        let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let expires: u64 = of("expires")?.parse().ok()?;
        let signature = unhex(of("signature")?)?;
        self.signature(path, expires).verify_slice(&signature).ok()?;
        let left = expires.checked_mul(1000)?.checked_sub(self.time.now()).filter(|left| *left > 0)?;
        Some((path, Duration::from_millis(left)))
    }

    fn signature(&self, path: &str, expires: u64) -> Hmac<Sha256> {
        self.hmac(&[b"signature", path.as_bytes(), &expires.to_le_bytes()])
    }

    fn name(&self, parts: &[&[u8]]) -> String {
        hex(&self.hmac(parts).finalize().into_bytes())
    }

    /// Over the parts with their lengths, so that no two lists of parts look the same.
    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = Hmac::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        for part in parts {
            hmac.update(&(part.len() as u64).to_le_bytes());
            hmac.update(part);
        }
        hmac
    }

    /// The hour after which something of this lifetime may go.
    fn last_hour(&self, lifetime: Duration) -> u64 {
        (self.time.now() + crate::clock::millis(lifetime)) / HOUR
    }
}

fn bucket(s3: &S3Store) -> Result<object_store::aws::AmazonS3, object_store::Error> {
    let S3Store { endpoint, bucket, region, prefix: _, access_key_id, secret_access_key } = s3;
    let retry = RetryConfig { max_retries: S3_RETRIES, retry_timeout: S3_TIMEOUT, ..RetryConfig::default() };
    let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options =
        ClientOptions::new().with_timeout(S3_TIMEOUT).with_connect_timeout(S3_CONNECT).with_allow_http(plain);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_access_key_id(access_key_id)
        .with_secret_access_key(secret_access_key)
        .with_retry(retry)
        .with_client_options(options);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    builder.build()
}

/// Whether the last part of a key is an hour before this one.
fn is_over(prefix: &Key, now: u64) -> bool {
    let hour = prefix.parts().next_back().and_then(|part| part.as_ref().parse::<u64>().ok());
    hour.is_some_and(|hour| hour < now)
}

/// What files begin with, how their names end, and what they are called.
const FORMATS: [(&[u8], &str, &str); 3] = [
    (b"\x89PNG", "png", "image/png"),
    (b"\xff\xd8\xff", "jpg", "image/jpeg"),
    (b"RIFF", "webp", "image/webp"),
];

fn extension(file: &[u8]) -> &'static str {
    FORMATS.iter().find(|(magic, ..)| file.starts_with(magic)).map_or("bin", |(_, extension, _)| extension)
}

fn kind(file: &[u8]) -> &'static str {
    let known = FORMATS.iter().find(|(magic, ..)| file.starts_with(magic));
    known.map_or("application/octet-stream", |(.., kind)| kind)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
