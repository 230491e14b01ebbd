//! Who asks: SigV4 signatures and bearer keys.
//!
//! Secrets are compared in constant time and never printed. Access key ids are no secrets.

use super::sigv4::{self, Authorization};
use crate::{
    Context, HttpRequest,
    digest::{fingerprint, hex, same_secret},
    timestamp::Timestamp,
};
use hmac::Mac;
use std::fmt;

/// Who may use the protocol.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Everybody: signatures and keys are not even read.
    Off,
    /// Whoever holds one of these keys.
    Required(Keyring),
}

/// The keys that open the door.
#[derive(Clone, Default)]
pub struct Keyring {
    /// Pairs that sign requests (SigV4).
    pub access_keys: Vec<AccessKey>,
    /// Keys sent as `Authorization: Bearer …`.
    pub api_keys: Vec<String>,
}

/// A pair that signs requests.
#[derive(Clone)]
pub struct AccessKey {
    /// The public half, as `AKIA…`.
    pub id: String,
    /// The secret half.
    pub secret: String,
    /// Where set, requests must carry this very session token; otherwise a token is ignored.
    pub session_token: Option<String>,
}

/// Who asked: part of the key by which equal work is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody was asked for a name.
    Anyone,
    /// The holder of the access key of this id.
    AccessKey(String),
    /// The holder of a bearer key: its fingerprint.
    ApiKey([u8; 32]),
}

impl Caller {
    /// A name that tells callers apart and gives no key away.
    pub(super) fn public_name(&self) -> Option<String> {
        match self {
            Self::Anyone => None,
            Self::AccessKey(id) => Some(id.clone()),
            Self::ApiKey(fingerprint) => Some(format!("bearer-{}", hex(&fingerprint[..6]))),
        }
    }
}

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// No `Authorization` header.
    Missing,
    /// A part of the signature is absent or unreadable; says which.
    Incomplete(String),
    /// No such access key, or not with this session token.
    UnknownAccessKey,
    /// The signature is one, but for something else; says for what.
    Misplaced(String),
    /// The signature was made too long ago.
    Expired {
        /// When the request was signed.
        signed: Timestamp,
        /// The oldest time that would do.
        earliest: Timestamp,
        /// The server's time.
        now: Timestamp,
    },
    /// The signature was made too far in the future.
    NotYetValid {
        /// When the request was signed.
        signed: Timestamp,
        /// The latest time that would do.
        latest: Timestamp,
        /// The server's time.
        now: Timestamp,
    },
    /// The signature is wrong.
    WrongSignature,
    /// No such bearer key.
    UnknownApiKey,
}

/// Finds out who sent a request.
pub(super) fn authenticate(auth: &Auth, request: &HttpRequest, context: &Context) -> Result<Caller, Denial> {
    let Auth::Required(keyring) = auth else { return Ok(Caller::Anyone) };
    let credentials = request.header("authorization").ok_or(Denial::Missing)?.trim();
    let (scheme, key) = credentials.split_once(' ').unwrap_or((credentials, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return keyring.bearer(key.trim());
    }
    keyring.signed(credentials, request, context)
}

impl Keyring {
    fn bearer(&self, given: &str) -> Result<Caller, Denial> {
        // Every key is compared, so that the time tells nothing about their order either.
        let known = self.api_keys.iter().fold(false, |found, key| same_secret(key, given) | found);
        // An empty key is nobody's, whatever a configuration may hold.
        if !known || given.is_empty() {
            return Err(Denial::UnknownApiKey);
        }
        Ok(Caller::ApiKey(fingerprint(given).finalize().into_bytes().into()))
    }

    fn signed(&self, credentials: &str, request: &HttpRequest, context: &Context) -> Result<Caller, Denial> {
        let authorization = Authorization::parse(credentials)?;
        let key = self.access_keys.iter().find(|key| key.id == authorization.access_key_id);
        let key = key.ok_or(Denial::UnknownAccessKey)?;
        if let Some(token) = &key.session_token {
            let given = request.header("x-amz-security-token").unwrap_or_default().trim();
            if !same_secret(token, given) {
                return Err(Denial::UnknownAccessKey);
            }
        }
        sigv4::verify(&authorization, request, context, &key.secret)?;
        Ok(Caller::AccessKey(key.id.clone()))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_keys, api_keys } = self;
        out.debug_struct("Keyring")
            .field("access_keys", access_keys)
            .field("api_keys", &format_args!("{} hidden", api_keys.len()))
            .finish()
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, secret: _, session_token: _ } = self;
        out.debug_struct("AccessKey").field("id", id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let key =
            AccessKey { id: "AKID".into(), secret: "hush".into(), session_token: Some("hush-token".into()) };
        let keyring = Keyring { access_keys: vec![key], api_keys: vec!["hush-key".into()] };
        let printed = format!("{:?} {:#?}", Auth::Required(keyring.clone()), keyring);
        assert!(printed.contains("AKID") && !printed.contains("hush"), "{printed}");
    }

    #[test]
    fn secrets_are_equal_only_as_a_whole() {
        assert!(same_secret("abc", "abc"));
        for other in ["", "ab", "abcd", "abC"] {
            assert!(!same_secret("abc", other));
        }
    }
}
