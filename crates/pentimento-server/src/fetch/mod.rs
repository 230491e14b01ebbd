//! Pictures that a request names by URL. The URLs are hostile until proved otherwise.
//!
//! Every URL, and every one that it redirects to, has to be http or https without a user's name; its host is resolved once,
//! every address found has to be a public one ([`address`]), and the connection goes to one of these addresses, so that a
//! name that changes its mind changes nothing. Nothing of the server is sent along: no cookie, no credential, no referrer.
//! Bounds: the time of everything that one request needs, redirects, bytes before and after decompression, fetches at once.
//! Only status 200 counts. What the other side says of its content is not believed: the decoder looks at the bytes.

mod address;

use crate::{error::chain, metrics::Metrics, tls::Authorities};
use address::is_public;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1,
    header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use pentimento_protocols::FetchError;
use std::{
    error::Error,
    fmt,
    future::Future,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    task,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tracing::info;
use url::{Host, Url};

/// Longest URL, as browsers and proxies commonly draw the line.
const LONGEST_URL: usize = 8192;

/// Largest head of an answer.
const LARGEST_HEAD: usize = 64 << 10;

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Fetches at once; further ones wait, within their time.
const AT_ONCE: usize = 16;

/// What may be fetched.
#[derive(Clone)]
pub struct FetchConfig {
    /// Origins that are fetched from whatever their address is, as the operator's own file server. Each stands for itself
    /// alone: what it redirects to is judged like any other URL.
    pub allow: Vec<Origin>,
    /// Time for everything that one request names. Default 10 s.
    pub timeout: Duration,
    /// Redirects that are followed. Default 5.
    pub redirects: usize,
    /// Who vouches for hosts over TLS, beside the system's authorities.
    pub authorities: Authorities,
    /// Who resolves names.
    pub resolver: Arc<dyn Resolver>,
}

impl Default for FetchConfig {
    fn default() -> Self {
        let timeout = Duration::from_secs(10);
        let authorities = Authorities::default();
        Self { allow: vec![], timeout, redirects: 5, authorities, resolver: Arc::new(SystemResolver) }
    }
}

impl fmt::Debug for FetchConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allow, timeout, redirects, authorities, resolver: _ } = self;
        write!(out, "FetchConfig({allow:?} {timeout:?} {redirects} {authorities:?})")
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
}

impl FromStr for Origin {
    type Err = String;

    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no origin: write HOST:PORT, as in files.example.com:443");
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or_else(wrong)?;
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        let host = url.host_str().filter(|_| bare && url.password().is_none()).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Answer of a [`Resolver`].
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Who turns names into addresses.
pub trait Resolver: Send + Sync {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
        })
    }
}

/// Fetches for all requests of a server.
pub(crate) struct Fetcher {
    config: FetchConfig,
    places: Semaphore,
    metrics: Metrics,
    tls: OnceLock<TlsConnector>,
}

/// Why a fetch came to nothing: what the protocol is told, and the reason for the log.
struct Trouble(FetchError, String);

impl Trouble {
    fn refused(why: impl Into<String>) -> Self {
        Self(FetchError::Refused, why.into())
    }

    fn failed(why: impl Into<String>) -> Self {
        Self(FetchError::Failed, why.into())
    }

    fn caused(error: impl Error + 'static) -> Self {
        Self(FetchError::Failed, chain(&error))
    }
}

/// What an answer holds.
enum Got {
    File(Bytes),
    Moved(String),
}

impl Fetcher {
    pub(crate) fn new(config: FetchConfig, metrics: Metrics) -> Self {
        Self { config, places: Semaphore::new(AT_ONCE), metrics, tls: OnceLock::new() }
    }

    /// The files behind these URLs, in their order.
    pub(crate) async fn fetch(
        &self,
        urls: &[String],
        byte_limit: usize,
        request_id: &str,
    ) -> Result<Vec<Bytes>, FetchError> {
        let begun = Instant::now();
        let all = async {
            // The semaphore is never closed.
            let _place = self.places.acquire().await;
            let mut files = vec![];
            for url in urls {
                files.push(self.one(url, byte_limit).await?);
            }
            Ok(files)
        };
        let late = || Err(Trouble::failed("it took too long"));
        let files = timeout(self.config.timeout, all).await.unwrap_or_else(|_| late()).map_err(
            |Trouble(error, reason)| {
                info!(request_id, ?error, reason, "a picture could not be fetched");
                error
            },
        );
        let bytes = files.iter().flatten().map(Bytes::len).sum();
        self.metrics.fetched(files.as_ref().map_or_else(outcome, |_| "done"), bytes, begun.elapsed());
        files
    }

    async fn one(&self, url: &str, byte_limit: usize) -> Result<Bytes, Trouble> {
        if url.len() > LONGEST_URL {
            return Err(Trouble::refused("the URL is too long"));
        }
        let mut url = Url::parse(url).map_err(|error| Trouble::refused(error.to_string()))?;
        for _ in 0..=self.config.redirects {
            match self.get(&url, byte_limit).await? {
                Got::File(file) => return Ok(file),
                Got::Moved(to) => url = url.join(&to).map_err(|error| Trouble::refused(error.to_string()))?,
            }
        }
        Err(Trouble::failed("too many redirects"))
    }

    /// One request, to an address that was judged.
    async fn get(&self, url: &Url, byte_limit: usize) -> Result<Got, Trouble> {
        let secure = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(Trouble::refused(format!("the scheme {other}"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Trouble::refused("a URL with a user's name or password"));
        }
        let host = url.host().ok_or_else(|| Trouble::refused("a URL without a host"))?;
        let port = url.port_or_known_default().ok_or_else(|| Trouble::refused("a URL without a port"))?;
        let stream = connect(&self.addresses(&host, port).await?, port).await?;
        if !secure {
            return ask(stream, url, byte_limit).await;
        }
        let name = match &host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned()).map_err(Trouble::caused)?,
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        ask(self.tls().connect(name, stream).await.map_err(Trouble::caused)?, url, byte_limit).await
    }

    /// The host's addresses, every one of which may be connected to.
    async fn addresses(&self, host: &Host<&str>, port: u16) -> Result<Vec<IpAddr>, Trouble> {
        let written = host.to_string();
        let allowed = self.config.allow.iter().any(|origin| origin.host == written && origin.port == port);
        let found = match host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => self.config.resolver.resolve(name).await.map_err(Trouble::caused)?,
        };
        if found.is_empty() {
            return Err(Trouble::failed("the host has no address"));
        }
        if let Some(address) = found.iter().find(|address| !allowed && !is_public(**address)) {
            return Err(Trouble::refused(format!("the address {address} is not public")));
        }
        Ok(found)
    }

    fn tls(&self) -> &TlsConnector {
        self.tls.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // Certificates that cannot be read are left out; what they vouch for is then not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(self.config.authorities.certificates());
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has the default versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        })
    }
}

/// How a failed fetch is counted.
fn outcome(error: &FetchError) -> &'static str {
    match error {
        FetchError::Refused => "refused",
        FetchError::Failed => "failed",
        FetchError::TooLarge => "too_large",
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Trouble> {
    let mut last = None;
    for address in addresses.iter().take(MOST_ADDRESSES) {
        match TcpStream::connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| Trouble::failed("no address"), Trouble::caused))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Url,
    byte_limit: usize,
) -> Result<Got, Trouble> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(LARGEST_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Trouble::caused)?;
    // It ends with this fetch, however that ends.
    let _connection = Aborted(task::spawn(async move {
        let _ = connection.await;
    }));
    let response = sender.send_request(request(url)?).await.map_err(Trouble::caused)?;
    match response.status() {
        StatusCode::OK => read(response, byte_limit).await.map(Got::File),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.filter(|to| to.len() <= LONGEST_URL);
            to.map(|to| Got::Moved(to.to_owned())).ok_or_else(|| Trouble::failed("a redirect to nowhere"))
        }
        other => Err(Trouble::failed(format!("the answer has the status {other}"))),
    }
}

/// Breaks a connection off when its fetch is over.
struct Aborted(task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, Trouble> {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("pentimento/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "image/png, image/jpeg, image/webp, */*;q=0.1")
        .header(ACCEPT_ENCODING, "identity, gzip;q=0.5")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(Trouble::caused)
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Bytes, Trouble> {
    let too_large = || Trouble(FetchError::TooLarge, format!("more than {limit} bytes"));
    let encoding =
        response.headers().get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let mut body = response.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Trouble::caused)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    match encoding.as_deref() {
        None | Some(b"" | b"identity") => Ok(bytes.into()),
        Some(b"gzip" | b"x-gzip") => gunzip(bytes, limit).await?.ok_or_else(too_large),
        Some(_) => Err(Trouble::failed("a content encoding that was not asked for")),
    }
}

/// The decompressed bytes, `None` if they are more than the limit.
async fn gunzip(bytes: Vec<u8>, limit: usize) -> Result<Option<Bytes>, Trouble> {
    let decoded = task::spawn_blocking(move || {
        let mut decoded = Vec::new();
        MultiGzDecoder::new(bytes.as_slice()).take(limit as u64 + 1).read_to_end(&mut decoded)?;
        Ok::<_, io::Error>(Bytes::from(decoded))
    });
    let decoded = decoded.await.map_err(Trouble::caused)?.map_err(Trouble::caused)?;
    Ok((decoded.len() <= limit).then_some(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_a_host_and_a_port_and_nothing_else() {
        let origin = |text: &str| text.parse::<Origin>();
        assert_eq!(origin("Files.Example:80"), Ok(Origin { host: "files.example".to_owned(), port: 80 }));
        assert_eq!(origin("[::1]:8080"), Ok(Origin { host: "[::1]".to_owned(), port: 8080 }));
        for wrong in
            ["", "host", "host:", ":80", "host:99999", "a@host:80", "http://host:80", "host:80/x", "host:x"]
        {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
