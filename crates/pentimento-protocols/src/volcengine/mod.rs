//! Volcengine's visual service `cv`, as far as it stylises pictures: `CVProcess`, its asynchronous pairs, and their twins.
//!
//! One path, `/`, and everything else in the query: `Action` and `Version`. What every field means, and where the vendor's
//! documents leave a choice, stands in `docs/volcengine.md`.
//!
//! Order of checks: action and version given, caller, action, body's members, style, picture.

mod action;
mod auth;
mod decode;
mod elapsed;
mod encode;
mod fault;
mod members;
mod sign;
mod styles;
mod wire;

pub use auth::{AccessKey, Auth};
pub use decode::{ImageRules, KnownLoras};
pub use sign::sign;
pub use styles::{Defaults, Style, Styles, UnknownLoras};

use crate::{
    Answer, Call, Context, Delivery, Fetch, FetchError, HttpRequest, KeepAlive, Operation, Protocol,
    Received, Refusal, Reply, Seed, TaskName, digest::hex,
};
use action::{Action, Envelope, Query, Verb};
use bytes::Bytes;
use decode::{Draft, Source};
use encode::Form;
use fault::{Code, Fault};
use pentimento_imaging::{Finish, Format};
use pentimento_request::{ErrorKind, GenerateError};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use wire::{Output, ProcessBody, TaskBody};

/// Bytes of a body that are no picture at most.
const BODY_ROOM: usize = 1 << 20;

/// Everything that shapes this protocol. [`VolcengineConfig::new`] documents the defaults.
#[derive(Clone, Debug)]
pub struct VolcengineConfig {
    /// Who may ask.
    pub auth: Auth,
    /// What each `req_key` stands for.
    pub styles: Styles,
    /// Which adapters requests can name. Default: none.
    pub loras: KnownLoras,
    /// How pictures that are sent have to be. Default: [`ImageRules::vendor`].
    pub images: ImageRules,
    /// The format of results. Default: JPEG.
    pub format: Format,
}

impl VolcengineConfig {
    /// The protocol with its defaults.
    pub fn new(auth: Auth, styles: Styles) -> Self {
        let (loras, images) = (KnownLoras::none(), ImageRules::vendor());
        Self { auth, styles, loras, images, format: Format::Jpeg }
    }

    /// Largest body in bytes: a picture in base64, and room for the rest.
    fn body_limit(&self) -> usize {
        self.images.bytes.div_ceil(3).saturating_mul(4).saturating_add(BODY_ROOM)
    }
}

/// The protocol.
#[derive(Clone, Debug)]
pub struct Volcengine {
    config: Arc<VolcengineConfig>,
}

impl Volcengine {
    /// The protocol of this shape.
    pub fn new(config: VolcengineConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    fn understand(
        &self,
        request: &HttpRequest,
        context: &Context,
        form: &mut Form,
    ) -> Result<Received, Fault> {
        form.query.check()?;
        let caller = auth::authenticate(&self.config.auth, request, form.query.expires.as_deref(), context)?;
        let Action { verb, envelope, style } = form.query.resolve(&request.method)?;
        (form.verb, form.envelope) = (verb, envelope);
        let object = wire::object(&request.body)?;
        match verb {
            Verb::Process | Verb::Submit => {
                let body = ProcessBody::read(object)?;
                let key = body.req_key.as_deref().or(style).unwrap_or_default();
                let scope = scope(caller.as_deref(), key);
                let draft = Draft::of(body, style, &self.config.styles)?;
                let work = (verb == Verb::Process && matches!(draft.source, Source::Sent(_)))
                    .then(|| same_work(caller.as_deref(), request));
                self.start(draft, Pending { form: form.clone(), caller, scope, work })
            }
            Verb::GetResult { .. } | Verb::Cancel => {
                let TaskBody { req_key, task_id, output } = TaskBody::read(object)?;
                decode::find(&self.config.styles, &req_key)?;
                let name = TaskName { id: task_id, scope: scope(caller.as_deref(), &req_key) };
                let operation =
                    if verb == Verb::Cancel { Operation::Cancel(name) } else { Operation::Poll(name) };
                Ok(Received::Call(Box::new(self.call(operation, output, form.clone(), caller))))
            }
        }
    }

    /// Goes on with a draft once its picture is there.
    fn start(&self, draft: Draft, pending: Pending) -> Result<Received, Fault> {
        let url = match &draft.source {
            Source::Sent(text) => {
                let file = decode::file_in(text.clone())?;
                return self.complete(draft, &file, pending).map(|call| Received::Call(Box::new(call)));
            }
            Source::Url(url) => url.clone(),
        };
        let this = self.clone();
        let byte_limit = self.config.images.bytes;
        let resume = move |files: Result<Vec<Bytes>, FetchError>| {
            let form = pending.form.clone();
            let completed = match files.map(|files| files.into_iter().next()) {
                Ok(Some(file)) => this.complete(draft, &file, pending),
                Ok(None) => Err(fetch_fault(FetchError::Failed, byte_limit)),
                Err(error) => Err(fetch_fault(error, byte_limit)),
            };
            completed.map_err(|fault| encode::fault(fault, &form))
        };
        Ok(Received::Fetch(Fetch { urls: vec![url], byte_limit, resume: Box::new(resume) }))
    }

    fn complete(&self, draft: Draft, file: &[u8], pending: Pending) -> Result<Call, Fault> {
        let Pending { mut form, caller, scope, work } = pending;
        let output = draft.output.clone();
        let decoded = draft.complete(file, &self.config.images, &self.config.loras)?;
        form.notes = decoded.notes;
        let (request, seed) = (Box::new(decoded.request), decoded.seed);
        if form.verb == Verb::Submit {
            // How a task's picture is answered is asked for with its result.
            let operation = Operation::Submit { request, seed, scope };
            return Ok(self.call(operation, Output::default(), form, caller));
        }
        let same_work = work.filter(|_| seed == Seed::Given);
        let call = self.call(Operation::Generate { request, seed }, output, form, caller);
        Ok(Call { same_work, ..call })
    }

    fn call(&self, operation: Operation, output: Output, mut form: Form, caller: Option<String>) -> Call {
        let Output { return_url, mark, label } = output;
        form.is_labelled = label.is_some();
        Call {
            operation,
            delivery: Delivery::Json,
            finish: Finish { format: self.config.format, mark, label },
            link: return_url,
            caller,
            same_work: None,
            may_retry: false,
            request_id: form.request_id.clone(),
            memo: Some(Arc::new(form)),
        }
    }

    fn form(&self, request: &HttpRequest, context: &Context) -> Form {
        let query = Query::read(&request.target);
        let envelope = query.resolve(&request.method).map_or(Envelope::Flat, |action| action.envelope);
        Form { query, region: auth::region(request), envelope, ..blank_form(context) }
    }
}

/// What a request waits with for its picture.
struct Pending {
    form: Form,
    caller: Option<String>,
    scope: String,
    work: Option<String>,
}

impl Protocol for Volcengine {
    fn name(&self) -> &'static str {
        "volcengine"
    }

    fn claims(&self, method: &str, target: &str) -> bool {
        action::claims(method, target)
    }

    fn body_limit(&self) -> usize {
        self.config.body_limit()
    }

    fn receive(&self, request: &HttpRequest, context: &Context) -> Result<Received, Reply> {
        let mut form = self.form(request, context);
        self.understand(request, context, &mut form).map_err(|fault| encode::fault(fault, &form))
    }

    fn refuse(&self, refusal: Refusal, context: &Context) -> Reply {
        encode::refusal(refusal, self.body_limit(), &blank_form(context))
    }

    fn answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply {
        match call.memo.as_ref().and_then(|memo| memo.downcast_ref::<Form>()) {
            Some(form) => encode::answer(form, call.link, outcome),
            // Only another protocol's call has no form, and the server asks each protocol about its own.
            None => encode::answer(&form_of(call), call.link, Err(&foreign())),
        }
    }

    fn keep_alive(&self, _: &Call) -> Option<KeepAlive> {
        // The status says whether it worked, so it cannot be sent before that is known.
        None
    }

    fn late_answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes {
        self.answer(call, outcome).body
    }
}

/// The form of an answer to a request of which nothing is known.
fn blank_form(context: &Context) -> Form {
    Form {
        query: Query::read(""),
        region: "cn-north-1".to_owned(),
        envelope: Envelope::Flat,
        verb: Verb::Process,
        notes: Vec::new(),
        is_labelled: false,
        request_id: elapsed::request_id(context.now, &context.request_id),
        stopwatch: context.stopwatch.clone(),
    }
}

fn form_of(call: &Call) -> Form {
    let context = Context {
        now: std::time::UNIX_EPOCH,
        request_id: String::new(),
        secure: false,
        stopwatch: crate::Stopwatch::new(|| std::time::Duration::ZERO),
    };
    Form { request_id: call.request_id.clone(), ..blank_form(&context) }
}

fn foreign() -> GenerateError {
    GenerateError::new(ErrorKind::Internal, "the call is another protocol's")
}

/// Who may ask for a task: its caller, by the style that it was submitted with.
fn scope(caller: Option<&str>, req_key: &str) -> String {
    format!("volcengine/{}/{req_key}", caller.unwrap_or_default())
}

fn fetch_fault(error: FetchError, byte_limit: usize) -> Fault {
    match error {
        FetchError::Refused => {
            Fault::Refused(Code::ImageDecode, "Image Decode Error: the image's URL is not allowed".to_owned())
        }
        FetchError::Failed => {
            Fault::Refused(Code::ImageDecode, "Image Decode Error: the image cannot be downloaded".to_owned())
        }
        FetchError::TooLarge => Fault::Refused(
            Code::ImageSize,
            format!("Image Size Limited: the image has more than {byte_limit} bytes"),
        ),
    }
}

/// The key by which equal work is found: the same body of the same caller, of which the picture is a part.
fn same_work(caller: Option<&str>, request: &HttpRequest) -> String {
    let mut hash = Sha256::new();
    for part in
        [b"volcengine", caller.unwrap_or_default().as_bytes(), request.target.as_bytes(), &request.body]
    {
        // With their lengths, so that no two lists of parts run together to the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
