//! Both HTTP versions, TLS, raw targets, what protocols are shown, the server's own pages.

use crate::{
    client::{ask, connect, draw, get, http1_on, http2_on, post, rest, send1, send2, socket_with, soon},
    fake::Fixture,
};
use hyper::{Request, header};
use pentimento_server::Tls;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer},
};

#[tokio::test]
async fn both_versions_share_the_cleartext_port() {
    let fixture = Fixture::start().await;
    let mut first = http1_on(connect(fixture.address).await).await;
    let mut second = http2_on(connect(fixture.address).await).await;
    for round in 0..2 {
        let body = format!("{{\"seed\": {round}}}");
        let one = send1(&mut first, post("/fake/x", &body)).await;
        let two = send2(&mut second, post("http://localhost:80/fake/x", &body)).await;
        for answer in [one, two] {
            assert_eq!((answer.status, answer.json()["png"].as_bool()), (200, Some(true)));
            assert_eq!(answer.json()["seed"], round);
            assert!(answer.headers.contains_key("date"));
            assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
        }
    }
}

#[tokio::test]
async fn targets_reach_the_protocol_as_they_were_sent() {
    let fixture = Fixture::start().await;
    let sent = [
        ("/fake/a%3A0/invoke", "/fake/a%3A0/invoke"),
        ("/fake/a:0/invoke", "/fake/a:0/invoke"),
        ("/fake/arn%3Aaws%3Ab%2Fc%3A0/x?q=%20&r", "/fake/arn%3Aaws%3Ab%2Fc%3A0/x?q=%20&r"),
        ("/fake//a/../b/./%2e", "/fake//a/../b/./%2e"),
        ("http://proxied.test:99/fake/a%2Fb", "/fake/a%2Fb"),
    ];
    for (target, expected) in sent {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: h:1\r\nX-Some: A\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = rest(&mut socket_with(fixture.address, &request).await).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {answer}");
        let (seen, context) = fixture.protocol.last();
        assert_eq!(seen.target, expected);
        assert_eq!((seen.method.as_str(), &seen.body[..]), ("POST", &b"{}"[..]));
        assert_eq!((seen.header("host"), seen.header("x-some")), (Some("h:1"), Some("A")));
        assert!(seen.header(":authority").is_none() && !context.secure);
    }
}

#[tokio::test]
async fn http2_shows_its_authority_under_both_names() {
    let fixture = Fixture::start().await;
    let mut sender = http2_on(connect(fixture.address).await).await;
    let plain = Request::post("http://models.test:8443/fake/a%3A0%2Fb?x").body("{}".to_owned().into());
    send2(&mut sender, plain.expect("a request")).await;
    let (seen, context) = fixture.protocol.last();
    assert_eq!(seen.target, "/fake/a%3A0%2Fb?x");
    assert_eq!(seen.header(":authority"), Some("models.test:8443"));
    assert_eq!(seen.header("host"), Some("models.test:8443"));
    assert_eq!(
        (context.request_id.len(), context.request_id.to_lowercase()),
        (36, context.request_id.clone())
    );

    let own = Request::post("http://a.test/fake/x").header("host", "b.test").body("{}".to_owned().into());
    send2(&mut sender, own.expect("a request")).await;
    let hosts = fixture.protocol.last().0.headers;
    let hosts: Vec<_> =
        hosts.iter().filter(|(name, _)| name == "host").map(|(_, value)| &value[..]).collect();
    assert_eq!(hosts, [b"b.test"]);
}

#[tokio::test]
async fn the_servers_own_pages() {
    let fixture = Fixture::start().await;
    for page in ["/healthz", "/readyz", "/metrics", "/healthz?x=1"] {
        let answer = ask(fixture.address, get(page)).await;
        assert_eq!(answer.status, 200, "{page}");
        assert!(!answer.body.is_empty(), "{page}");
        let request = Request::head(page).header("host", "localhost").body(Default::default());
        let head = ask(fixture.address, request.expect("a request")).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{page}");
        assert!(head.headers.contains_key("content-length"), "{page}");
        let refused = ask(fixture.address, post(page, "")).await;
        assert_eq!(
            (refused.status, &refused.headers[header::ALLOW]),
            (405, &"GET, HEAD".parse().expect("ok"))
        );
    }
    for request in [get("/"), get("/fake/x"), post("/healthz/x", ""), post("/model/x/invoke", "{}")] {
        let answer = ask(fixture.address, request).await;
        assert_eq!(
            (answer.status, answer.headers["content-type"].as_bytes()),
            (404, &b"application/json"[..])
        );
        assert!(answer.json()["message"].is_string());
    }
}

#[tokio::test]
async fn nonsense_closes_its_own_connection_only() {
    let fixture = Fixture::start().await;
    for nonsense in
        ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense, again"]
    {
        rest(&mut socket_with(fixture.address, nonsense).await).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    assert!(!rest(&mut socket_with(fixture.address, &long).await).await.contains(" 200 "));
    assert_eq!(draw(fixture.address, "{}").await.status, 200);
}

#[tokio::test]
async fn tls_offers_both_versions() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let tls = Tls::from_pem(certificate.as_bytes(), key.as_bytes()).expect("they belong together");
    let fixture = Fixture::with(|config| config.tls = Some(tls)).await;

    let stream = tls_to(&fixture, issued.cert.der(), &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sender = http2_on(stream).await;
    assert_eq!(send2(&mut sender, post("https://localhost/fake/x", "{}")).await.status, 200);
    assert!(fixture.protocol.last().1.secure);

    let stream = tls_to(&fixture, issued.cert.der(), &["http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(send1(&mut http1_on(stream).await, post("/fake/x", "{}")).await.status, 200);

    let stream = tls_to(&fixture, issued.cert.der(), &[]).await;
    assert_eq!(send1(&mut http1_on(stream).await, get("/healthz")).await.status, 200);

    rest(&mut socket_with(fixture.address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
}

async fn tls_to(
    fixture: &Fixture,
    certificate: &CertificateDer<'static>,
    versions: &[&str],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = versions.iter().map(|version| version.as_bytes().to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connect(fixture.address).await;
    soon(connector.connect("localhost".try_into().expect("a name"), stream)).await.expect("a handshake")
}

#[test]
fn tls_files_that_cannot_work_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let issued = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(vec!["b.test".to_owned()]).expect("a certificate");
    let [certificate, key, wrong_key, text] =
        ["cert.pem", "key.pem", "wrong.pem", "text"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, issued.cert.pem()).expect("written");
    std::fs::write(&key, issued.signing_key.serialize_pem()).expect("written");
    std::fs::write(&wrong_key, other.signing_key.serialize_pem()).expect("written");
    std::fs::write(&text, "no PEM").expect("written");

    assert!(Tls::load(&certificate, &key).is_ok());
    let missing = Tls::load(&certificate, &folder.path().join("missing")).expect_err("no such file");
    assert!(missing.to_string().contains("missing"), "{missing}");
    for (certificate, key) in [(&certificate, &wrong_key), (&text, &key), (&certificate, &text)] {
        let error = Tls::load(certificate, key).expect_err("they do not work");
        assert!(error.to_string().contains(certificate.to_str().expect("UTF-8")), "{error}");
        assert_eq!(error.kind(), pentimento_server::ServerErrorKind::Tls);
    }
}
