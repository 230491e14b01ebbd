//! Limits of size, time and memory.

use crate::{
    client::{ask, connect, draw, http1_on, http2_on, post, rest, send1, send2, socket_with, soon},
    fake::{BODY_LIMIT, Fixture, eventually},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::{Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn json_of(bytes: usize) -> String {
    let frame = "{\"x\":\"\"}".len();
    format!("{{\"x\":\"{}\"}}", "a".repeat(bytes - frame))
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    let fixture = Fixture::start().await;
    for (bytes, status) in [(BODY_LIMIT, 200), (BODY_LIMIT + 1, 413), (20 * BODY_LIMIT, 413)] {
        let body = json_of(bytes);
        assert_eq!(draw(fixture.address, &body).await.status, status);
        let mut sender = http2_on(connect(fixture.address).await).await;
        let answer = send2(&mut sender, post("http://localhost/fake/x", &body)).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_connection_survives_a_body_that_is_too_large() {
    let fixture = Fixture::start().await;
    let mut sender = http2_on(connect(fixture.address).await).await;
    let large = json_of(5 * BODY_LIMIT);
    assert_eq!(send2(&mut sender, post("http://localhost/fake/x", &large)).await.status, 413);
    assert_eq!(send2(&mut sender, post("http://localhost/fake/x", "{}")).await.status, 200);
}

#[tokio::test]
async fn over_http2_the_answer_comes_after_the_end_of_a_body_that_is_too_large() {
    let fixture = Fixture::start().await;
    let io = TokioIo::new(connect(fixture.address).await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
    tokio::spawn(connection);
    let sent = Arc::new(AtomicUsize::new(0));
    let pieces = stream::iter(0..20).map({
        let sent = Arc::clone(&sent);
        move |_| {
            sent.fetch_add(BODY_LIMIT, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; BODY_LIMIT])))
        }
    });
    let request = Request::post("http://localhost/fake/x").header("content-length", 20 * BODY_LIMIT);
    let request = request.body(StreamBody::new(pieces)).expect("a request");
    let answer = soon(sender.send_request(request)).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), sent.load(Ordering::Relaxed)), (413, 20 * BODY_LIMIT));
}

#[tokio::test]
async fn bytes_are_counted_where_no_length_is_announced() {
    let fixture = Fixture::start().await;
    let head = "POST /fake/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = socket_with(fixture.address, head).await;
    let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, "a".repeat(64 << 10));
    for _ in 0..17 {
        stream.write_all(chunk.as_bytes()).await.expect("the server keeps reading");
    }
    stream.write_all(b"0\r\n\r\n").await.expect("the server keeps reading");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_to_go_on_or_why_not() {
    let fixture = Fixture::start().await;
    let head = |length: usize| {
        format!(
            "POST /fake/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut stream = socket_with(fixture.address, &head(2)).await;
    let mut interim = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    soon(stream.read_exact(&mut interim)).await.expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.expect("sent");
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));

    let mut stream = socket_with(fixture.address, &head(BODY_LIMIT + 1)).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let fixture = Fixture::with(|config| config.body_timeout = Duration::from_millis(100)).await;
    let half = "POST /fake/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{\"x\"";
    let answer = rest(&mut socket_with(fixture.address, half).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(fixture.generator.counts().begun, 0);
}

#[tokio::test]
async fn silent_and_half_said_first_requests_are_closed() {
    let fixture = Fixture::with(|config| config.header_timeout = Duration::from_millis(100)).await;
    for said in ["", "P", "POST /fake/x HTTP/1.1\r\nho", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = rest(&mut socket_with(fixture.address, said).await).await;
        assert!(!answer.contains(" 200 "), "{said}: {answer}");
    }
}

#[tokio::test]
async fn further_connections_wait_for_a_place() {
    let fixture = Fixture::with(|config| config.max_connections = 1).await;
    let first = connect(fixture.address).await;
    let mut second = socket_with(fixture.address, "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_peer_that_does_not_take_its_answer_is_dropped() {
    let fixture = Fixture::with(|config| {
        config.header_timeout = Duration::from_secs(2);
        config.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let io = TokioIo::new(connect(fixture.address).await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let handshake = builder.initial_stream_window_size(0).handshake(io).await;
    let (mut sender, connection) = handshake.expect("a handshake");
    tokio::spawn(connection);
    let answer = soon(sender.send_request(post("http://localhost/fake/x", "{}"))).await.expect("a head");
    assert_eq!(answer.status(), 200);
    eventually("the connection ends", || sender.is_closed()).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_a_busy_one_is_not() {
    let fixture = Fixture::with(|config| {
        config.header_timeout = Duration::from_secs(2);
        config.idle_timeout = Duration::from_millis(50);
    })
    .await;
    let mut sender = http1_on(connect(fixture.address).await).await;
    let drawing = tokio::spawn(async move {
        let answer = send1(&mut sender, post("/fake/x", "{\"script\": \"wait\"}")).await;
        (answer, sender)
    });
    fixture.generator.begun(1).await;
    // Many idle times pass until another connection is closed, on which nothing was asked.
    rest(&mut connect(fixture.address).await).await;
    fixture.generator.open();
    let (answer, mut sender) = soon(drawing).await.expect("no panic");
    assert_eq!(answer.status, 200);
    soon(async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_share_a_budget_of_memory() {
    let fixture = Fixture::with(|config| {
        config.body_memory = 512 << 10;
        config.intake_wait = Duration::from_millis(100);
    })
    .await;
    let too_much = json_of(700 << 10);
    let answer = ask(fixture.address, post("/fake/x", &too_much)).await;
    assert_eq!((answer.status, answer.headers["x-fake-error"].as_bytes()), (429, &b"Throttled"[..]));
    // What was granted came back.
    assert_eq!(draw(fixture.address, &json_of(440 << 10)).await.status, 200);
}

#[tokio::test]
async fn a_slow_sender_holds_only_what_it_has_sent() {
    let fixture = Fixture::with(|config| config.body_memory = 1 << 20).await;
    let head = format!("POST /fake/x HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_LIMIT}\r\n\r\n{{");
    let mut slow = vec![];
    for _ in 0..20 {
        slow.push(socket_with(fixture.address, &head).await);
    }
    assert_eq!(draw(fixture.address, &json_of(800 << 10)).await.status, 200);
}

#[tokio::test]
async fn a_protocol_that_panics_is_an_internal_error_of_one_request() {
    let fixture = Fixture::start().await;
    assert_eq!(draw(fixture.address, "{\"script\": \"unreadable\"}").await.status, 500);
    let malformed = draw(fixture.address, "{").await;
    assert_eq!((malformed.status, malformed.headers["x-fake-error"].as_bytes()), (400, &b"Malformed"[..]));
    assert_eq!(draw(fixture.address, "{}").await.status, 200);
}

#[tokio::test]
async fn long_bodies_at_once_do_not_wait_for_one_another_in_a_circle() {
    // Each is a third of the budget; together they are four times as much.
    let fixture = Fixture::with(|config| config.body_memory = 2 << 20).await;
    let body = json_of(700 << 10);
    let asked = (0..12).map(|_| {
        let (address, body) = (fixture.address, body.clone());
        tokio::spawn(async move { draw(address, &body).await.status })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(soon(answer).await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn a_body_without_a_length_gives_back_what_it_did_not_need() {
    let fixture = Fixture::with(|config| {
        config.body_memory = 1 << 20;
        config.intake_wait = Duration::from_millis(100);
    })
    .await;
    let head = "POST /fake/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    for _ in 0..3 {
        let mut stream = socket_with(fixture.address, head).await;
        let body = json_of(100 << 10);
        stream.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).await.expect("sent");
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(draw(fixture.address, &json_of(800 << 10)).await.status, 200);
}
