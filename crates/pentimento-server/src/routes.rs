//! Which request is whose, by its method and raw target.

use crate::{
    error::chain,
    execute::Execution,
    intake::{Rejection, raw_target},
    record::Record,
    respond::{self, ResponseBody},
    results::{self, Linked},
    server::App,
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, HOST, HeaderValue},
    http::request::Parts,
};
use pentimento_protocols::{Call, Context, Fetch, Protocol, Received, Refusal, Reply, Stopwatch};
use std::{sync::Arc, time::Instant};
use tracing::error;
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
        now: app.config.clock.wall(),
        request_id: Uuid::new_v4().as_hyphenated().to_string(),
        secure,
        stopwatch: Stopwatch::new(move || arrival.elapsed()),
    };
    let mut record = Record::new(app.metrics.clone(), &context.request_id, &parts.method, parts.uri.path());
    let target = raw_target(&parts.uri);
    if target.starts_with(results::PATH) {
        return linked(&app, &parts.method, target, record).await;
    }
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
    app.metrics.body_memory(app.intake.held());
    if let Some(lasting) = &app.lasting {
        lasting.tasks.count(&app.metrics);
    }
    respond::text(StatusCode::OK, METRICS_TEXT, app.metrics.render())
}

/// Reads, understands and carries out what a protocol claimed.
async fn call(
    app: &Arc<App>,
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
    let understood = match received {
        Ok(Received::Fetch(fetch)) => {
            match app.unless_closing(fetched(app, fetch, &protocol, &context)).await {
                Some(understood) => understood,
                None => Err(protocol.refuse(Refusal::ShuttingDown, &context)),
            }
        }
        Ok(Received::Call(call)) => Ok(*call),
        Err(reply) => Err(reply),
    };
    let call = match understood {
        Ok(call) => Arc::new(call),
        Err(reply) => return rejected(record, reply),
    };
    record.understood(&call);
    let asked_at = asked_at(app, &parts, context.secure);
    Execution { protocol, call, context, record, asked_at }.run(app).await
}

/// Fetches what a request names by URL, and goes on with it.
async fn fetched(
    app: &App,
    fetch: Fetch,
    protocol: &Arc<dyn Protocol>,
    context: &Context,
) -> Result<Call, Reply> {
    let Fetch { urls, byte_limit, resume } = fetch;
    let files = app.fetcher.fetch(&urls, byte_limit, &context.request_id).await;
    app.intake.decoding(protocol, context, move || resume(files)).await
}

/// What stands before the path in links that this client can follow: scheme and host as it asked.
fn asked_at(app: &App, parts: &Parts, secure: bool) -> String {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(host);
    // A host's name or address and nothing else, whatever the header may hold.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte);
    let host = host.filter(|host| !host.is_empty() && host.bytes().all(plain));
    let scheme = if secure { "https" } else { "http" };
    host.map_or_else(|| format!("{scheme}://{}", app.address), |host| format!("{scheme}://{host}"))
}

/// A result by its link.
async fn linked(app: &App, method: &Method, target: &str, mut record: Record) -> Response<ResponseBody> {
    record.protocol("results");
    let mut tell = |status: StatusCode, name, text| {
        record.answered(status.as_u16(), name);
        respond::message(status, text)
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return tell(StatusCode::METHOD_NOT_ALLOWED, "method", "results are read with GET or HEAD");
    }
    let Some(lasting) = &app.lasting else {
        return tell(StatusCode::NOT_FOUND, "not_found", "no results are kept here");
    };
    match lasting.results.follow(target).await {
        Linked::Denied => tell(StatusCode::FORBIDDEN, "denied", "this link is wrong, or its time is over"),
        Linked::Missing => tell(StatusCode::NOT_FOUND, "not_found", "there is nothing here any more"),
        Linked::Unreachable(cause) => {
            error!(error = chain(&cause), "the store of results does not answer");
            tell(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "results cannot be read for now")
        }
        Linked::File { bytes, kind, left } => {
            record.sent(bytes.len());
            record.answered(StatusCode::OK.as_u16(), "none");
            respond::file(bytes, kind, left)
        }
    }
}

fn rejected(mut record: Record, reply: Reply) -> Response<ResponseBody> {
    record.replied(&reply);
    respond::reply(reply)
}
