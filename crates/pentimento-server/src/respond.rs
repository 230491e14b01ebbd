//! Responses in hyper's types.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::Body,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use pentimento_protocols::Reply;
use std::{convert::Infallible, time::Duration};
use tracing::error;

pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// A protocol's reply, word for word.
pub(crate) fn reply(reply: Reply) -> Response<ResponseBody> {
    let body = Full::new(reply.body.clone());
    with_body(reply, body)
}

/// A reply's status and headers before another body.
pub(crate) fn with_body(
    head: Reply,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response<ResponseBody> {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or_else(|_| {
        error!(status = head.status, "a protocol answered with an impossible status");
        StatusCode::INTERNAL_SERVER_ERROR
    });
    for (name, value) in head.headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => drop(response.headers_mut().append(name, value)),
            _ => error!(name, "a protocol answered with an impossible header, which is left out"),
        }
    }
    response
}

/// A page of the server's own: one message in JSON. `message` is never a client's text, so nothing is escaped.
pub(crate) fn message(status: StatusCode, message: &'static str) -> Response<ResponseBody> {
    text(status, "application/json", format!("{{\"message\":\"{message}\"}}\n"))
}

/// A page of the server's own.
pub(crate) fn text(status: StatusCode, kind: &'static str, body: String) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A file that its reader may keep for so long.
pub(crate) fn file(bytes: Bytes, kind: &'static str, left: Duration) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&format!("private, max-age={}", left.as_secs())) {
        headers.insert(CACHE_CONTROL, value);
    }
    response
}
