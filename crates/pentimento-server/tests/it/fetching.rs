//! Pictures behind URLs: what is refused, what is bounded, and what is fetched.

use crate::{
    client::{Answer, draw, soon},
    fake::Fixture,
};
use flate2::{Compression, write::GzEncoder};
use pentimento_server::{FetchConfig, Resolver, Resolving};
use serde_json::json;
use std::{
    collections::HashMap,
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Answers names as a test says, and the next time with the next answer.
#[derive(Default)]
struct Names {
    answers: HashMap<&'static str, Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let answers = self.answers.get(name.trim_end_matches('.'));
        let found = answers.map(|answers| vec![answers[turn % answers.len()]]);
        Box::pin(async move { found.ok_or_else(|| std::io::Error::other("no such name")) })
    }
}

fn names(answers: &[(&'static str, &[&str])]) -> Arc<Names> {
    let parsed = |list: &[&str]| list.iter().map(|address| address.parse().expect("an address")).collect();
    let answers = answers.iter().map(|(name, list)| (*name, parsed(list))).collect();
    Arc::new(Names { answers, asked: AtomicUsize::new(0) })
}

/// A host that answers each connection with what its path says.
struct Files {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Files {
    async fn start(answer: fn(&str, SocketAddr) -> Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let heads = Arc::new(Mutex::new(vec![]));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&seen), answer, address));
            }
        });
        Self { address, heads }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }
}

/// What a host sends.
enum Script {
    /// This, and then it closes.
    Bytes(Vec<u8>),
    /// The head, and then this again and again.
    Forever(String, Vec<u8>),
    /// The head, and then a byte now and then.
    Drip(String),
    Silence,
}

async fn converse(
    mut stream: TcpStream,
    heads: Arc<Mutex<Vec<String>>>,
    answer: fn(&str, SocketAddr) -> Script,
    address: SocketAddr,
) {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    heads.lock().expect("not poisoned").push(head);
    match answer(&path, address) {
        Script::Bytes(bytes) => drop(stream.write_all(&bytes).await),
        Script::Forever(head, piece) => {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(&piece).await.is_ok() {}
        }
        Script::Drip(head) => {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Script::Silence => drop(stream.read_u8().await),
    }
}

fn ok(headers: &str, body: &[u8]) -> Script {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
    Script::Bytes([head.as_bytes(), body].concat())
}

fn moved(to: &str) -> Script {
    Script::Bytes(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(body).expect("in memory");
    encoder.finish().expect("in memory")
}

async fn fetching(fetch: FetchConfig) -> Fixture {
    Fixture::with(|config| config.fetch = fetch).await
}

async fn fetched(fixture: &Fixture, url: &str) -> Answer {
    draw(fixture.address, &json!({"urls": [url], "byte_limit": 1000}).to_string()).await
}

fn error(answer: &Answer) -> &str {
    answer.headers.get("x-fake-error").map_or("none", |name| name.to_str().expect("text"))
}

#[tokio::test]
async fn hostile_urls_are_refused_before_anything_is_connected() {
    let resolver = names(&[
        ("inside.test", &["10.1.2.3"]),
        ("metadata.test", &["169.254.169.254"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("localhost", &["127.0.0.1"]),
    ]);
    let fixture = fetching(FetchConfig { resolver, ..FetchConfig::default() }).await;
    let long = format!("http://example.com/{}", "x".repeat(9000));
    let hostile = [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fec0::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://169.254.169.254/latest/",
        "http://100.64.0.1/",
        "http://192.0.0.1/",
        "http://198.18.0.1/",
        "http://240.0.0.1/",
        "http://224.0.0.1/",
        "http://example.com@127.0.0.1/",
        "http://user:secret@8.8.8.8/",
        "http://127.0.0.1#@example.com/",
        "http://127.0.0.1\\@example.com/",
        "http://\u{ff11}27.0.0.1/",
        "http://127。0。0。1/",
        "http://inside.test/",
        "http://metadata.test:80/",
        "http://mapped.test/",
        "file:///etc/passwd",
        "ftp://8.8.8.8/",
        "gopher://8.8.8.8/",
        "data:image/png;base64,AAAA",
        "//8.8.8.8/",
        "http:",
        "http://",
        "not a url",
        "",
        &long,
    ];
    for url in hostile {
        let answer = soon(fetched(&fixture, url)).await;
        assert_eq!((answer.status, error(&answer)), (400, "FetchRefused"), "{url}");
    }
    assert_eq!(fixture.generator.counts().begun, 0);
}

#[tokio::test]
async fn an_allowed_origin_is_fetched_and_nothing_is_told_it() {
    let files = Files::start(|path, _| match path {
        "/gzip" => ok("content-encoding: gzip\r\n", &gzipped(&[7; 300])),
        _ => ok("content-type: text/html\r\nset-cookie: a=b\r\n", &[7; 21]),
    })
    .await;
    let allow = vec![files.address.to_string().parse().expect("an origin")];
    let fixture = fetching(FetchConfig { allow, ..FetchConfig::default() }).await;
    for (path, length) in [("/a.png?token=x#part", 21), ("/gzip", 300), ("/again", 21)] {
        let answer = fetched(&fixture, &files.url(path)).await;
        assert_eq!((answer.status, answer.json()["seed"].as_u64()), (200, Some(length)), "{path}");
    }
    let heads = files.heads();
    assert!(heads[0].starts_with("GET /a.png?token=x HTTP/1.1\r\n"), "{}", heads[0]);
    for head in heads {
        let head = head.to_lowercase();
        assert!(["cookie:", "authorization:", "referer:"].iter().all(|name| !head.contains(name)), "{head}");
    }
}

#[tokio::test]
async fn an_allowed_origin_is_this_host_and_port_only_and_its_redirects_are_judged() {
    let files = Files::start(|path, address| match path {
        "/metadata" => moved("http://169.254.169.254/latest/meta-data/"),
        "/other-port" => moved(&format!("http://127.0.0.1:{}/", address.port() ^ 1)),
        "/other-name" => moved(&format!("http://localhost:{}/", address.port())),
        "/file" => moved("file:///etc/passwd"),
        "/user" => moved(&format!("http://a:b@{address}/")),
        "/there" => moved("here"),
        "/round" => moved("/round"),
        "/nowhere" => Script::Bytes(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => ok("", b"file"),
    })
    .await;
    let allow = vec![files.address.to_string().parse().expect("an origin")];
    let resolver = names(&[("localhost", &["127.0.0.1"])]);
    let fixture = fetching(FetchConfig { allow, resolver, ..FetchConfig::default() }).await;
    for path in ["/metadata", "/other-port", "/other-name", "/file", "/user"] {
        let answer = fetched(&fixture, &files.url(path)).await;
        assert_eq!(error(&answer), "FetchRefused", "{path}");
    }
    assert_eq!(fetched(&fixture, &files.url("/there")).await.status, 200);
    assert_eq!(error(&fetched(&fixture, &files.url("/nowhere")).await), "FetchFailed");
    let before = files.heads().len();
    assert_eq!(error(&fetched(&fixture, &files.url("/round")).await), "FetchFailed");
    assert_eq!(files.heads().len() - before, 6, "the first request and five redirects");
}

#[tokio::test]
async fn a_name_is_resolved_once_and_what_it_says_later_changes_nothing() {
    let files = Files::start(|_, _| ok("", b"file")).await;
    let resolver = names(&[("flips.test", &["127.0.0.1", "10.0.0.1"]), ("rebinds.test", &["198.51.100.1"])]);
    let allow = vec![format!("flips.test:{}", files.address.port()).parse().expect("an origin")];
    let fixture = fetching(FetchConfig { allow, resolver: resolver.clone(), ..FetchConfig::default() }).await;
    let url = format!("http://flips.test:{}/", files.address.port());
    assert_eq!(fetched(&fixture, &url).await.status, 200);
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
    let other = format!("http://flips.test:{}/", files.address.port() ^ 1);
    assert_eq!(error(&fetched(&fixture, &other).await), "FetchRefused", "allowed is this port only");
    assert_eq!(error(&fetched(&fixture, "http://rebinds.test/").await), "FetchRefused");
    assert_eq!(error(&fetched(&fixture, "http://unknown.test/").await), "FetchFailed");
}

#[tokio::test]
async fn time_and_bytes_are_bounded_whatever_a_host_sends() {
    let files = Files::start(|path, _| match path {
        "/drip" => Script::Drip("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n".to_owned()),
        "/drip-head" => Script::Drip("HTTP/1.1 200 OK\r\nx: ".to_owned()),
        "/silence" => Script::Silence,
        "/endless" => Script::Forever(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            b"40\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".to_vec(),
        ),
        "/endless-head" => Script::Forever("HTTP/1.1 200 OK\r\n".to_owned(), b"x-header: value\r\n".to_vec()),
        "/announced" => Script::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec()),
        "/bomb" => ok("content-encoding: gzip\r\n", &gzipped(&vec![0; 200_000])),
        "/double-bomb" => ok("content-encoding: gzip, gzip\r\n", b"x"),
        "/broken-gzip" => ok("content-encoding: gzip\r\n", b"no gzip"),
        "/cut" => Script::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec()),
        "/no-http" => Script::Bytes(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
        "/partial" => Script::Bytes(b"HTTP/1.1 206 Partial Content\r\ncontent-length: 1\r\n\r\nx".to_vec()),
        "/missing" => Script::Bytes(b"HTTP/1.1 404 Not Found\r\ncontent-length: 1\r\n\r\nx".to_vec()),
        "/one-more" => ok("", &[1; 1001]),
        _ => ok("", &[1; 1000]),
    })
    .await;
    let allow = vec![files.address.to_string().parse().expect("an origin")];
    let timeout = Duration::from_millis(1500);
    let fixture = fetching(FetchConfig { allow, timeout, ..FetchConfig::default() }).await;
    let cases = [
        ("/drip", "FetchFailed"),
        ("/drip-head", "FetchFailed"),
        ("/silence", "FetchFailed"),
        ("/endless", "FetchTooLarge"),
        ("/endless-head", "FetchFailed"),
        ("/announced", "FetchTooLarge"),
        ("/bomb", "FetchTooLarge"),
        ("/double-bomb", "FetchFailed"),
        ("/broken-gzip", "FetchFailed"),
        ("/cut", "FetchFailed"),
        ("/no-http", "FetchFailed"),
        ("/partial", "FetchFailed"),
        ("/missing", "FetchFailed"),
        ("/one-more", "FetchTooLarge"),
    ];
    for (path, expected) in cases {
        let answer = soon(fetched(&fixture, &files.url(path))).await;
        assert_eq!(error(&answer), expected, "{path}");
    }
    assert_eq!(fetched(&fixture, &files.url("/just-so")).await.status, 200);
}
