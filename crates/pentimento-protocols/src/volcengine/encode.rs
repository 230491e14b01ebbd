//! Outcomes and errors in the vendor's words. The only place that knows its status codes.
//!
//! What the gateway refuses is `ResponseMetadata` with an `Error`; everything else is the business body, whose keys come
//! in alphabetical order, alone or inside `Result`. Internal error texts are never shown.
//! Source: the vendor's tables of errors, and answers of the service seen in public (`docs/volcengine.md`).

use super::{
    action::{Envelope, Query, Verb},
    auth::Denial,
    elapsed,
    fault::{Code, Fault},
};
use crate::{Answer, Finished, Refusal, Reply, Stopwatch, TaskReport, TaskState};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_request::{ErrorKind, GenerateError, Verdict};
use serde_json::{Map, Value, json};

/// Number and message of a success.
const SUCCESS: (u32, &str) = (10_000, "Success");

/// What an algorithm's failure was seen to say.
const PREDICT_FAILED: (u32, &str) = (100_202, "do predict failed.");

/// What answers depend on beside their outcome.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// The query, as it is told back.
    pub(super) query: Query,
    /// The region that was signed for.
    pub(super) region: String,
    /// How the answer is wrapped.
    pub(super) envelope: Envelope,
    /// What was asked to be done.
    pub(super) verb: Verb,
    /// What was left out of what was asked.
    pub(super) notes: Vec<String>,
    /// Whether a label was asked for.
    pub(super) is_labelled: bool,
    /// The service's name of the request.
    pub(super) request_id: String,
    /// How long the request has taken.
    pub(super) stopwatch: Stopwatch,
}

/// What is wrong, on either level.
enum Problem {
    Gateway(Gateway),
    Business { status: u16, code: u32, name: &'static str, message: String, algorithm: bool },
}

/// The gateway's refusal.
struct Gateway {
    status: u16,
    number: u32,
    code: &'static str,
    message: String,
}

/// The answer to a request with this fault.
pub(super) fn fault(fault: Fault, form: &Form) -> Reply {
    let query = &form.query;
    let problem = match fault {
        Fault::MissingQuery(name) => {
            gateway(400, 100_002, "MissingParameter", format!("The request is missing {name} parameter."))
        }
        Fault::UnknownAction => gateway(
            404,
            100_008,
            "InvalidActionOrVersion",
            format!("Could not find operation {} for version {}.", query.action, query.version),
        ),
        Fault::Denied(denial) => denied(denial),
        Fault::Refused(code, message) => {
            let (number, name) = numbered(code);
            business(400, number, name, message)
        }
    };
    problem.reply(form)
}

/// The answer to a request that was not read to its end.
pub(super) fn refusal(refusal: Refusal, body_limit: usize, form: &Form) -> Reply {
    let problem = match refusal {
        Refusal::BodyTooLarge => business(
            400,
            50_213,
            "ECReqBodySizeLimited",
            format!("Request Body Size Limited: at most {body_limit} bytes are allowed"),
        ),
        // No text of the service's is known for this; 408 is HTTP's own.
        Refusal::BodyTooSlow => {
            business(408, 50_204, "ECParseArgs", "Parse Args: the body did not arrive in time")
        }
        Refusal::Overloaded => overloaded(),
        Refusal::ShuttingDown => unavailable(),
        Refusal::Internal => internal(),
    };
    problem.reply(form)
}

/// The answer to a call.
pub(super) fn answer(form: &Form, wants_link: bool, outcome: Result<&Answer, &GenerateError>) -> Reply {
    match outcome.map_err(|error| failed(error, form.verb)).and_then(|answer| data(form, wants_link, answer))
    {
        Ok(data) => {
            let body = flat(SUCCESS.0, data, SUCCESS.1, form);
            reply(200, wrapped(body, form), form, None)
        }
        Err(problem) => problem.reply(form),
    }
}

/// The data of a success.
fn data(form: &Form, wants_link: bool, answer: &Answer) -> Result<Value, Problem> {
    let mut data = Map::new();
    match (answer, form.verb) {
        (Answer::Picture(finished), Verb::Process) => {
            data.insert("algorithm_base_resp".into(), json!({"status_code": 0, "status_message": "Success"}));
            picture(&mut data, finished, wants_link, form)?;
        }
        (Answer::Task(TaskReport { id, state, finished: _ }), Verb::Submit | Verb::Cancel) => {
            if form.verb == Verb::Cancel && matches!(state, TaskState::NotFound | TaskState::Expired) {
                return Err(unknown_task());
            }
            data.insert("task_id".into(), json!(id));
        }
        (Answer::Task(report), Verb::GetResult { unknown_is_error }) => {
            result(&mut data, report, unknown_is_error, wants_link, form)?;
        }
        (Answer::Picture(_), _) | (Answer::Task(_), Verb::Process) => return Err(internal()),
    }
    if !form.notes.is_empty() {
        data.insert("pentimento_notes".into(), json!(form.notes));
    }
    Ok(Value::Object(data))
}

/// What has become of a task.
fn result(
    data: &mut Map<String, Value>,
    report: &TaskReport,
    unknown_is_error: bool,
    wants_link: bool,
    form: &Form,
) -> Result<(), Problem> {
    let TaskReport { id: _, state, finished } = report;
    let status = match state {
        TaskState::Queued => "in_queue",
        TaskState::Running => "generating",
        TaskState::Done => "done",
        TaskState::Cancelled => {
            return Err(business(
                400,
                50_215,
                "ECRPCProcess",
                "Input invalid for this service: the task was cancelled.",
            ));
        }
        TaskState::NotFound if unknown_is_error => return Err(unknown_task()),
        TaskState::NotFound => "not_found",
        TaskState::Expired => "expired",
    };
    match (state, finished) {
        (TaskState::Done, Some(finished)) => picture(data, finished, wants_link, form)?,
        (TaskState::Done, None) => return Err(internal()),
        _ => {
            data.insert("binary_data_base64".into(), json!([]));
            data.insert("image_urls".into(), Value::Null);
        }
    }
    data.insert("status".into(), json!(status));
    Ok(())
}

/// The picture, as bytes or as a link, unless a filter took it away.
fn picture(
    data: &mut Map<String, Value>,
    finished: &Finished,
    wants_link: bool,
    form: &Form,
) -> Result<(), Problem> {
    let Finished { file, link, seed: _, verdict, latency: _ } = finished;
    if matches!(verdict, Verdict::Blurred | Verdict::Blocked) {
        return Err(business(400, 50_511, "ECPostImgRisk", "Post Img Risk Not Pass"));
    }
    if form.is_labelled {
        data.insert("aigc_meta_tagged".into(), json!(true));
    }
    match (wants_link, link) {
        (false, _) => {
            data.insert("binary_data_base64".into(), json!([STANDARD.encode(file)]));
        }
        (true, Some(link)) => {
            data.insert("binary_data_base64".into(), json!([]));
            data.insert("image_urls".into(), json!([link]));
        }
        (true, None) => return Err(internal()),
    }
    Ok(())
}

fn denied(denial: Denial) -> Problem {
    match denial {
        Denial::NoToken => {
            gateway(401, 100_003, "MissingAuthenticationToken", "Request is missing Authentication Token.")
        }
        Denial::NoSignature => gateway(401, 100_005, "MissingSignature", "The request is missing signature."),
        Denial::Missing(what) => {
            gateway(400, 100_004, "MissingRequestInfo", format!("The request is missing {what} information."))
        }
        Denial::BadAuthorization => gateway(
            400,
            100_024,
            "InvalidAuthorization",
            "Invalid 'Authorization' header, Pls check authorization header.",
        ),
        Denial::BadCredential => gateway(
            400,
            100_025,
            "InvalidCredential",
            "Invalid credential in 'Authorization', Pls check credential in authorization header.",
        ),
        Denial::BadTime => {
            gateway(400, 100_006, "InvalidTimestamp", "The Signature of the request is expired.")
        }
        Denial::OtherService(service) => {
            gateway(404, 100_007, "ServiceNotFound", format!("This service[{service}] not found."))
        }
        Denial::UnknownKey(id) => gateway(
            401,
            100_009,
            "InvalidAccessKey",
            format!("The accesskey [{id}] included in the request is invalid."),
        ),
        Denial::BadToken => gateway(
            401,
            100_026,
            "InvalidSecretToken",
            "Invalid secret token, msg: it is not the one that belongs to this access key.",
        ),
        Denial::BadSignature => gateway(
            401,
            100_010,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your Secret Access \
             Key and signing method. Consult the service documentation for details.",
        ),
    }
}

const fn numbered(code: Code) -> (u32, &'static str) {
    match code {
        Code::InvalidArgs => (50_200, "ECReqInvalidArgs"),
        Code::MissingArgs => (50_201, "ECReqMissingArgs"),
        Code::ParseArgs => (50_204, "ECParseArgs"),
        Code::ImageSize => (50_205, "ECImageSizeLimited"),
        Code::ImageEmpty => (50_206, "ECImageEmpty"),
        Code::ImageDecode => (50_207, "ECImageDecodeError"),
    }
}

/// What a failure is called. A deadline and a shutdown are the gateway's to tell where a picture is waited for; of a task
/// they are failures like others, since the question itself was answered in time.
fn failed(error: &GenerateError, verb: Verb) -> Problem {
    match error.kind() {
        ErrorKind::InvalidRequest | ErrorKind::Unsupported => {
            business(400, 50_200, "ECReqInvalidArgs", format!("Invalid Args: {}", error.message()))
        }
        ErrorKind::NoFace => business(400, 60_102, "ECJPFaceDetect", "No face is found in the image"),
        // Which word it was goes to the log: a list that answers is a list that can be read out.
        ErrorKind::PromptRefused => business(400, 50_413, "ECPostTextRisk", "Post Text Risk Not Pass"),
        ErrorKind::Overloaded => overloaded(),
        ErrorKind::RateLimited => {
            business(429, 50_429, "ECReqLimit", "Request Has Reached API Limit, Please Try Later")
        }
        ErrorKind::DeadlineExceeded if verb == Verb::Process => gateway(
            504,
            100_016,
            "InternalServiceTimeout",
            "Internal Service is timeout. Pls Contact With Admin.",
        ),
        ErrorKind::Unavailable if !matches!(verb, Verb::GetResult { .. }) => unavailable(),
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Cancelled => internal(),
        _ => Problem::Business {
            status: 500,
            code: 50_501,
            name: "ECRPCInternal",
            message: format!("Internal RPC Error: {}", PREDICT_FAILED.1),
            algorithm: true,
        },
    }
}

fn overloaded() -> Problem {
    business(429, 50_430, "ECReqConcurrent", "Request Has Reached API Concurrent Limit, Please Try Later")
}

fn unavailable() -> Problem {
    gateway(
        503,
        100_019,
        "ServiceUnavailableTemp",
        "The service is temporarily unavailable. Please try later.",
    )
}

fn internal() -> Problem {
    business(500, 50_500, "ECInternal", "Internal Error")
}

fn unknown_task() -> Problem {
    business(400, 50_215, "ECRPCProcess", "Input invalid for this service.")
}

fn gateway(status: u16, number: u32, code: &'static str, message: impl Into<String>) -> Problem {
    Problem::Gateway(Gateway { status, number, code, message: message.into() })
}

fn business(status: u16, code: u32, name: &'static str, message: impl Into<String>) -> Problem {
    Problem::Business { status, code, name, message: message.into(), algorithm: false }
}

impl Problem {
    fn reply(self, form: &Form) -> Reply {
        match self {
            Self::Gateway(Gateway { status, number, code, message }) => {
                let error = json!({"CodeN": number, "Code": code, "Message": message});
                reply(status, json!({"ResponseMetadata": metadata(form, Some(error))}), form, Some(code))
            }
            Self::Business { status, code, name, message, algorithm: _ }
                if form.envelope == Envelope::Wrapped =>
            {
                let error = json!({"Code": code.to_string(), "Message": message});
                reply(status, json!({"ResponseMetadata": metadata(form, Some(error))}), form, Some(name))
            }
            Self::Business { status, code, name, message, algorithm } => {
                let (number, text) = PREDICT_FAILED;
                let data = match algorithm {
                    true => json!({
                        "algorithm_base_resp": {"status_code": number, "status_message": text},
                        "binary_data_base64": [],
                    }),
                    false => Value::Null,
                };
                reply(status, flat(code, data, &message, form), form, Some(name))
            }
        }
    }
}

/// The business body.
fn flat(code: u32, data: Value, message: &str, form: &Form) -> Value {
    json!({
        "code": code,
        "data": data,
        "message": message,
        "request_id": form.request_id,
        "status": code,
        "time_elapsed": elapsed::written(form.stopwatch.elapsed()),
    })
}

fn wrapped(body: Value, form: &Form) -> Value {
    match form.envelope {
        Envelope::Flat => body,
        Envelope::Wrapped => json!({"ResponseMetadata": metadata(form, None), "Result": body}),
    }
}

fn metadata(form: &Form, error: Option<Value>) -> Value {
    let Query { action, version, expires: _ } = &form.query;
    let mut metadata = json!({
        "RequestId": form.request_id,
        "Action": action,
        "Version": version,
        "Service": "cv",
        "Region": form.region,
    });
    if let (Some(error), Some(members)) = (error, metadata.as_object_mut()) {
        members.insert("Error".to_owned(), error);
    }
    metadata
}

fn reply(status: u16, body: Value, form: &Form, error: Option<&'static str>) -> Reply {
    let headers = vec![
        ("content-type", "application/json; charset=utf-8".to_owned()),
        ("x-tt-logid", form.request_id.clone()),
    ];
    Reply { status, headers, body: body.to_string().into(), error }
}
