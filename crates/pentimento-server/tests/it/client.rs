//! Clients: hyper's connections where the answer matters, bare sockets where the connection does.

use crate::fake::PATIENCE;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::{future::Future, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

pub(crate) type Sender1 = http1::SendRequest<Full<Bytes>>;
pub(crate) type Sender2 = http2::SendRequest<Full<Bytes>>;

/// Fails the test instead of hanging.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

pub(crate) fn post(target: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(target).header("host", "localhost");
    request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
}

pub(crate) fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).header("host", "localhost").body(Full::default()).expect("a request")
}

/// An HTTP/1.1 connection on any stream.
pub(crate) async fn http1_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender1 {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

/// An HTTP/2 connection on any stream, with prior knowledge.
pub(crate) async fn http2_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender2 {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    soon(TcpStream::connect(address)).await.expect("a connection")
}

pub(crate) async fn send1(sender: &mut Sender1, request: Request<Full<Bytes>>) -> Answer {
    whole(soon(sender.send_request(request)).await.expect("an answer")).await
}

pub(crate) async fn send2(sender: &mut Sender2, request: Request<Full<Bytes>>) -> Answer {
    whole(soon(sender.send_request(request)).await.expect("an answer")).await
}

pub(crate) async fn whole(response: hyper::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.expect("a whole body").to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// One request over a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let mut sender = http1_on(connect(address).await).await;
    send1(&mut sender, request).await
}

/// One request of the fake protocol.
pub(crate) async fn draw(address: SocketAddr, body: &str) -> Answer {
    ask(address, post("/fake/draw", body)).await
}

/// A bare socket that has sent this much.
pub(crate) async fn socket_with(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = connect(address).await;
    stream.write_all(bytes.as_bytes()).await.expect("sent");
    stream
}

/// A bare socket with a whole request of the fake protocol; dropping it is leaving.
pub(crate) async fn socket_drawing(address: SocketAddr, body: &str) -> TcpStream {
    let head =
        format!("POST /fake/draw HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    socket_with(address, &(head + body)).await
}

/// Everything that a peer sends until it closes. A reset counts as closing.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
