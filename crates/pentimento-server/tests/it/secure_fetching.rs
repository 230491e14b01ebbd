//! Pictures behind https URLs: who has to vouch for the host, and that nothing else changes.

use crate::{
    client::{Answer, draw},
    fake::Fixture,
};
use pentimento_server::{Authorities, FetchConfig, Origin, Resolver, Resolving};
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject},
    },
};

/// Every name is this machine.
struct Here;

impl Resolver for Here {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
    }
}

/// An authority, and what it issues.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A host's TLS, with a certificate for this name that is good until that year.
    fn host(&self, name: &str, until: i32) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they belong together");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A host that answers over TLS, and counts the requests that it understood.
struct Files {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Files {
    async fn start(tls: TlsAcceptor) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let port = listener.local_addr().expect("it has one").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(tls.clone(), stream, Arc::clone(&count)));
            }
        });
        Self { port, asked }
    }

    fn origin(&self, host: &str) -> Origin {
        format!("{host}:{}", self.port).parse().expect("an origin")
    }

    async fn asked_for(&self, fixture: &Fixture, host: &str, path: &str) -> Answer {
        let url = format!("https://{host}:{}{path}", self.port);
        draw(fixture.address, &json!({"urls": [url], "byte_limit": 1000}).to_string()).await
    }
}

async fn converse(tls: TlsAcceptor, stream: TcpStream, asked: Arc<AtomicUsize>) {
    let Ok(mut stream) = tls.accept(stream).await else { return };
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.fetch_add(1, Ordering::Relaxed);
    let answer: &[u8] = if head.starts_with(b"GET /inwards ") {
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/\r\ncontent-length: 0\r\n\r\n"
    } else {
        b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n777777777777777777777"
    };
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

async fn fetching(authority: &Authority, allow: Vec<Origin>) -> Fixture {
    let authorities = Authorities::from_pem(authority.pem.as_bytes()).expect("it vouches");
    let fetch = FetchConfig { allow, authorities, resolver: Arc::new(Here), ..FetchConfig::default() };
    Fixture::with(|config| config.fetch = fetch).await
}

fn error(answer: &Answer) -> &str {
    answer.headers.get("x-fake-error").map_or("none", |name| name.to_str().expect("text"))
}

#[tokio::test]
async fn a_host_that_somebody_vouches_for_is_fetched_from() {
    let authority = Authority::new();
    let files = Files::start(authority.host("files.test", 2999)).await;
    let fixture = fetching(&authority, vec![files.origin("files.test")]).await;
    let answer = files.asked_for(&fixture, "files.test", "/a.png").await;
    assert_eq!((answer.status, answer.json()["seed"].as_u64()), (200, Some(21)));
    // Its address is judged as without TLS, and so is what it redirects to.
    assert_eq!(error(&files.asked_for(&fixture, "other.test", "/a.png").await), "FetchRefused");
    assert_eq!(error(&files.asked_for(&fixture, "files.test", "/inwards").await), "FetchRefused");
    assert_eq!(files.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn nothing_is_asked_of_a_host_for_which_nobody_vouches() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (what, tls) in [
        ("an authority that is not trusted", stranger.host("files.test", 2999)),
        ("another host's certificate", authority.host("elsewhere.test", 2999)),
        ("a certificate whose time is over", authority.host("files.test", 2021)),
    ] {
        let files = Files::start(tls).await;
        let fixture = fetching(&authority, vec![files.origin("files.test")]).await;
        assert_eq!(error(&files.asked_for(&fixture, "files.test", "/").await), "FetchFailed", "{what}");
        assert_eq!(files.asked.load(Ordering::Relaxed), 0, "{what}");
    }
}

#[test]
fn authorities_that_cannot_vouch_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("company.pem");
    assert!(Authorities::load(std::slice::from_ref(&path)).is_err(), "it is missing");
    for wrong in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&path, wrong).expect("written");
        let error = Authorities::load(std::slice::from_ref(&path)).expect_err(wrong);
        assert!(error.to_string().contains("company.pem"), "{error}");
    }
    std::fs::write(&path, Authority::new().pem).expect("written");
    assert!(Authorities::load(&[path]).is_ok());
}
