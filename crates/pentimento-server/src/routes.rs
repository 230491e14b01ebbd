//! Which request is whose, by its method and raw target.

use crate::{
    execute::Execution,
    intake::{Rejection, raw_target},
    record::Record,
    respond::{self, ResponseBody},
    server::App,
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue},
    http::request::Parts,
};
use pentimento_protocols::{Context, FetchError, Protocol, Received, Refusal, Reply, Stopwatch};
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};
use uuid::Uuid;

/// Prometheus' text exposition format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Answers any request.
pub(crate) async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    secure: bool,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    if let Some(response) = page(&app, &parts) {
        return response;
    }
    let arrival = Instant::now();
    let context = Context {
        now: SystemTime::now(),
        request_id: Uuid::new_v4().as_hyphenated().to_string(),
        secure,
        stopwatch: Stopwatch::new(move || arrival.elapsed()),
    };
    let mut record = Record::new(app.metrics.clone(), &context.request_id, &parts.method, parts.uri.path());
    let target = raw_target(&parts.uri);
    let claimed = app.protocols.iter().find(|protocol| protocol.claims(parts.method.as_str(), target));
    let Some(protocol) = claimed else {
        record.answered(StatusCode::NOT_FOUND.as_u16(), "not_found");
        return respond::message(StatusCode::NOT_FOUND, "nothing answers this method and path here");
    };
    record.protocol(protocol.name());
    call(&app, Arc::clone(protocol), parts, body, context, record).await
}

/// The server's own pages. They ask nothing of the queue, so they answer however full it is.
fn page(app: &App, parts: &Parts) -> Option<Response<ResponseBody>> {
    let build = match parts.uri.path() {
        "/healthz" => healthy,
        "/readyz" => ready,
        "/metrics" => metrics,
        _ => return None,
    };
    if matches!(parts.method, Method::GET | Method::HEAD) {
        return Some(build(app));
    }
    let mut response = respond::message(StatusCode::METHOD_NOT_ALLOWED, "this page is read with GET or HEAD");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

fn healthy(_: &App) -> Response<ResponseBody> {
    respond::text(StatusCode::OK, PLAIN_TEXT, "ok\n".to_owned())
}

fn ready(app: &App) -> Response<ResponseBody> {
    let unready = |why: &str| respond::text(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, why.to_owned());
    if app.is_closing() {
        return unready("shutting down\n");
    }
    if !app.jobs.is_alive() {
        return unready("the worker has ended\n");
    }
    respond::text(StatusCode::OK, PLAIN_TEXT, "ready\n".to_owned())
}

fn metrics(app: &App) -> Response<ResponseBody> {
    respond::text(StatusCode::OK, METRICS_TEXT, app.metrics.render())
}

/// Reads, understands and carries out what a protocol claimed.
async fn call(
    app: &App,
    protocol: Arc<dyn Protocol>,
    parts: Parts,
    body: Incoming,
    context: Context,
    mut record: Record,
) -> Response<ResponseBody> {
    let reading = app.intake.body(&parts, body, &*protocol, &context);
    let body = match app.unless_closing(reading).await {
        Some(Ok(body)) => body,
        Some(Err(Rejection::Reply(reply))) => return rejected(record, reply),
        Some(Err(Rejection::Broken)) => return Rejection::broken(),
        None => return rejected(record, protocol.refuse(Refusal::ShuttingDown, &context)),
    };
    record.received(body.len());
    let received = app.intake.receive(&parts, body, &protocol, &context).await;
    let call = match received.and_then(|received| match received {
        Received::Call(call) => Ok(*call),
        Received::Fetch(fetch) => (fetch.resume)(Err(FetchError::Refused)),
    }) {
        Ok(call) => Arc::new(call),
        Err(reply) => return rejected(record, reply),
    };
    record.understood(&call);
    Execution { protocol, call, context, record }.run(&app.jobs, app.config.keep_alive).await
}

fn rejected(mut record: Record, reply: Reply) -> Response<ResponseBody> {
    record.replied(&reply);
    respond::reply(reply)
}
