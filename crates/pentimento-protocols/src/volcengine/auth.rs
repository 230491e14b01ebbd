//! Who asks: signatures of the gateway's kind, `HMAC-SHA256`.
//!
//! Works on the bytes as they were sent. Secrets are compared in constant time and never printed.
//! Source: the vendor's documents of its signature, and what its clients were seen to send (`docs/volcengine.md`).

use super::sign::{Authorization, is_signed_by};
use crate::{Context, HttpRequest, digest::same_secret, timestamp::Timestamp};
use std::{fmt, time::Duration};

/// Who may use the protocol.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Everybody: signatures are not even read.
    Off,
    /// Whoever holds one of these keys.
    Required(Vec<AccessKey>),
}

/// A pair that signs requests.
#[derive(Clone)]
pub struct AccessKey {
    /// The public half, as `AKLT…`.
    pub id: String,
    /// The secret half, used as the text that it is.
    pub secret: String,
    /// Where set, requests must carry this very session token; otherwise a token is ignored.
    pub session_token: Option<String>,
}

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// No `Authorization` header.
    NoToken,
    /// The header lacks its signature.
    NoSignature,
    /// This is missing: a header, or a part of the credential.
    Missing(&'static str),
    /// The header is no such signature.
    BadAuthorization,
    /// The credential is not `key/day/region/service/request`.
    BadCredential,
    /// Signed too long ago or in the future, or at no time at all.
    BadTime,
    /// The credential is for another service.
    OtherService(String),
    /// No such access key.
    UnknownKey(String),
    /// Not the session token that the key asks for.
    BadToken,
    /// The signature is wrong.
    BadSignature,
}

/// How long a signature is good, before and after its time, unless `X-Expires` says otherwise.
const VALIDITY: Duration = Duration::from_secs(900);

/// The longest that `X-Expires` may ask for.
const LONGEST_VALIDITY: u64 = 7 * 24 * 3600;

/// The service that requests are signed for.
const SERVICE: &str = "cv";

/// Characters of a client's own text that are told back at most.
const MOST_ECHOED: usize = 128;

/// The region that a request was signed for, which may be any, and the key that signed it (`None`: nobody was asked).
pub(super) fn authenticate(
    auth: &Auth,
    request: &HttpRequest,
    expires: Option<&str>,
    context: &Context,
) -> Result<Option<String>, Denial> {
    let Auth::Required(keys) = auth else { return Ok(None) };
    let header = request.header("authorization").map(str::trim).filter(|header| !header.is_empty());
    let authorization = Authorization::parse(header.ok_or(Denial::NoToken)?)?;
    let signed_at = request.header("x-date").map(str::trim).ok_or(Denial::Missing("X-Date"))?;
    check_time(signed_at, &authorization, expires, context)?;
    if authorization.service != SERVICE {
        return Err(Denial::OtherService(echo(authorization.service)));
    }
    let key = keys.iter().find(|key| key.id == authorization.access_key_id);
    let key = key.ok_or_else(|| Denial::UnknownKey(echo(authorization.access_key_id)))?;
    if let Some(token) = &key.session_token {
        let given = request.header("x-security-token").unwrap_or_default().trim();
        if !same_secret(token, given) {
            return Err(Denial::BadToken);
        }
    }
    if !is_signed_by(&authorization, request, signed_at, &key.secret) {
        return Err(Denial::BadSignature);
    }
    Ok(Some(key.id.clone()))
}

/// The region in a request's credential, for answers; the service's own where there is none.
pub(super) fn region(request: &HttpRequest) -> String {
    let header = request.header("authorization").unwrap_or_default();
    let region = Authorization::parse(header.trim()).map(|authorization| echo(authorization.region));
    region.unwrap_or_else(|_| "cn-north-1".to_owned())
}

fn check_time(
    signed_at: &str,
    authorization: &Authorization<'_>,
    expires: Option<&str>,
    context: &Context,
) -> Result<(), Denial> {
    let time = Timestamp::from_basic(signed_at).ok_or(Denial::BadTime)?;
    if authorization.day != time.day() {
        return Err(Denial::BadCredential);
    }
    let validity = match expires {
        None => VALIDITY,
        Some(text) => {
            let seconds = text.parse().ok().filter(|seconds| (1..=LONGEST_VALIDITY).contains(seconds));
            Duration::from_secs(seconds.ok_or(Denial::BadTime)?)
        }
    };
    let now = Timestamp::of(context.now);
    let is_good = now.minus(validity) <= time && time <= now.plus(VALIDITY);
    is_good.then_some(()).ok_or(Denial::BadTime)
}

fn echo(text: &str) -> String {
    text.chars().take(MOST_ECHOED).collect()
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, secret: _, session_token } = self;
        out.debug_struct("AccessKey")
            .field("id", id)
            .field("has_session_token", &session_token.is_some())
            .finish_non_exhaustive()
    }
}
