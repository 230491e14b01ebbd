//! AWS Signature Version 4, for the service `bedrock`.
//!
//! Works on the bytes as they were sent: raw path and query, raw header values, raw body.
//!
//! The path is signed *encoded once more* by every AWS client (`%3A` becomes `%253A`), with or without dot and empty
//! segments taken out; curl signs it as sent. All of these name the same resource, so any of them is accepted.
//! Source: AWS General Reference, "Create a signed AWS API request"; ten requests captured from real clients.

use super::auth::{AccessKey, Denial};
use crate::{
    Context, HttpRequest,
    digest::{from_hex, hex, hmac},
    escaping::{ESCAPED, joined, query_pairs},
    timestamp::Timestamp,
};
use hmac::Mac;
use percent_encoding::{AsciiSet, percent_decode_str, percent_encode};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "bedrock";
const TERMINATOR: &str = "aws4_request";

/// How far the client's clock may be off, as the service has it.
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// The value of `x-amz-content-sha256` that leaves the body out of the signature.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// The characters that are escaped within a path.
const ESCAPED_IN_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// The parts of an `Authorization` header.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    /// Who signed.
    pub(super) access_key_id: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed_headers: Vec<&'a str>,
    signature: Vec<u8>,
}

impl<'a> Authorization<'a> {
    /// Takes a header's value apart.
    pub(super) fn parse(value: &'a str) -> Result<Self, Denial> {
        let incomplete = |text: &str| Denial::Incomplete(text.to_owned());
        let parts =
            value.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with([' ', '\t'])).ok_or_else(|| {
                incomplete("Authorization header must begin with 'AWS4-HMAC-SHA256' or 'Bearer'.")
            })?;
        let part = |name: &str| {
            let mut named = parts.split(',').filter_map(|part| part.trim().split_once('='));
            named.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        let required = |name: &str| {
            part(name).ok_or_else(|| {
                Denial::Incomplete(format!("Authorization header requires '{name}' parameter."))
            })
        };
        let mut scope = required("Credential")?.rsplitn(5, '/');
        let (terminator, service, region, day, access_key_id) = scope
            .next()
            .and_then(|last| Some((last, scope.next()?, scope.next()?, scope.next()?, scope.next()?)))
            .ok_or_else(|| incomplete("Credential must have exactly 5 slash-delimited elements."))?;
        let signed_headers = required("SignedHeaders")?.split(';').collect();
        let signature = from_hex(required("Signature")?)
            .ok_or_else(|| incomplete("Signature must be a hexadecimal number."))?;
        Ok(Self { access_key_id, day, region, service, terminator, signed_headers, signature })
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/{}", self.day, self.region, self.service, self.terminator)
    }
}

/// Checks that `secret` signed this request, for this service, a short while ago.
pub(super) fn verify(
    authorization: &Authorization<'_>,
    request: &HttpRequest,
    context: &Context,
    secret: &str,
) -> Result<(), Denial> {
    let signed_at = signing_time(request)?;
    check_scope(authorization, signed_at)?;
    check_window(signed_at, Timestamp::of(context.now))?;
    let payload_hash = payload_hash(request, context.secure)?;
    let signed_headers = &authorization.signed_headers;
    // A header named twice would also be a way to blow up the canonical request.
    if signed_headers.iter().collect::<BTreeSet<_>>().len() != signed_headers.len() {
        return Err(Denial::WrongSignature);
    }
    let key = signing_key(secret, authorization);
    let matches = |path: String| {
        let canonical = canonical_request(request, &path, signed_headers, &payload_hash);
        let to_sign = string_to_sign(signed_at, authorization, &canonical);
        hmac(&key, to_sign.as_bytes()).verify_slice(&authorization.signature).is_ok()
    };
    canonical_paths(request.path()).into_iter().any(matches).then_some(()).ok_or(Denial::WrongSignature)
}

/// Signs a request as AWS' clients do: adds `x-amz-date`, the key's session token if it has one, and `authorization`,
/// which covers these, the `host` header that the request must have, and the body.
pub fn sign(request: &mut HttpRequest, key: &AccessKey, now: SystemTime, region: &str) {
    let now = Timestamp::of(now);
    let mut signed_headers = vec!["host", "x-amz-date"];
    request.headers.push(("x-amz-date".to_owned(), now.to_string().into_bytes()));
    if let Some(token) = &key.session_token {
        signed_headers.push("x-amz-security-token");
        request.headers.push(("x-amz-security-token".to_owned(), token.clone().into_bytes()));
    }
    let day = now.day();
    let mut authorization = Authorization {
        access_key_id: &key.id,
        day: &day,
        region,
        service: SERVICE,
        terminator: TERMINATOR,
        signed_headers,
        signature: Vec::new(),
    };
    let path = encode_path(&without_dot_segments(request.path()));
    let body_hash = hex(&Sha256::digest(&request.body));
    let canonical = canonical_request(request, &path, &authorization.signed_headers, &body_hash);
    let to_sign = string_to_sign(now, &authorization, &canonical);
    authorization.signature =
        hmac(&signing_key(&key.secret, &authorization), to_sign.as_bytes()).finalize().into_bytes().to_vec();
    let value = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
        key.id,
        authorization.scope(),
        authorization.signed_headers.join(";"),
        hex(&authorization.signature)
    );
    request.headers.push(("authorization".to_owned(), value.into_bytes()));
}

/// When the request says that it was signed.
fn signing_time(request: &HttpRequest) -> Result<Timestamp, Denial> {
    let unreadable = |given: &str| {
        let given: String = given.chars().take(40).collect();
        Denial::Incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{given}'."))
    };
    if let Some(basic) = request.header("x-amz-date").map(str::trim) {
        return Timestamp::from_basic(basic).ok_or_else(|| unreadable(basic));
    }
    let Some(date) = request.header("date").map(str::trim) else {
        return Err(Denial::Incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.".to_owned(),
        ));
    };
    Timestamp::from_http(date).or_else(|| Timestamp::from_basic(date)).ok_or_else(|| unreadable(date))
}

/// The region is the client's choice; everything else in the scope is not.
fn check_scope(authorization: &Authorization<'_>, signed_at: Timestamp) -> Result<(), Denial> {
    let misplaced = |text: String| Err(Denial::Misplaced(text));
    if authorization.service != SERVICE {
        return misplaced(format!("Credential should be scoped to correct service: '{SERVICE}'."));
    }
    if authorization.terminator != TERMINATOR {
        return misplaced(format!("Credential should be scoped with a valid terminator: '{TERMINATOR}'."));
    }
    if authorization.day != signed_at.day() {
        return misplaced(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{signed_at}'."
        ));
    }
    if !authorization.signed_headers.iter().any(|name| ["host", ":authority"].contains(name)) {
        return misplaced(
            "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".to_owned(),
        );
    }
    Ok(())
}

fn check_window(signed: Timestamp, now: Timestamp) -> Result<(), Denial> {
    let (earliest, latest) = (now.minus(WINDOW), now.plus(WINDOW));
    if signed < earliest {
        return Err(Denial::Expired { signed, earliest, now });
    }
    if signed > latest {
        return Err(Denial::NotYetValid { signed, latest, now });
    }
    Ok(())
}

/// The hash that stands in the canonical request, checked against the body.
fn payload_hash(request: &HttpRequest, secure: bool) -> Result<String, Denial> {
    let actual = || hex(&Sha256::digest(&request.body));
    match request.header("x-amz-content-sha256").map(str::trim) {
        None => Ok(actual()),
        Some(UNSIGNED_PAYLOAD) if secure => Ok(UNSIGNED_PAYLOAD.to_owned()),
        Some(UNSIGNED_PAYLOAD) => {
            Err(Denial::Misplaced("UNSIGNED-PAYLOAD is only possible over HTTPS.".to_owned()))
        }
        Some(given) if given.eq_ignore_ascii_case(&actual()) => Ok(given.to_owned()),
        Some(_) => Err(Denial::Misplaced(
            "The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned(),
        )),
    }
}

fn signing_key(secret: &str, authorization: &Authorization<'_>) -> Vec<u8> {
    let Authorization { day, region, service, terminator, .. } = authorization;
    [day, region, service, terminator].iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| {
        hmac(&key, part.as_bytes()).finalize().into_bytes().to_vec()
    })
}

fn string_to_sign(signed_at: Timestamp, authorization: &Authorization<'_>, canonical: &[u8]) -> String {
    let scope = authorization.scope();
    format!("{ALGORITHM}\n{signed_at}\n{scope}\n{}", hex(&Sha256::digest(canonical)))
}

fn canonical_request(
    request: &HttpRequest,
    path: &str,
    signed_headers: &[&str],
    payload_hash: &str,
) -> Vec<u8> {
    let query = request.target.split_once('?').map_or_else(String::new, |(_, query)| canonical_query(query));
    let mut canonical = format!("{}\n{path}\n{query}\n", request.method).into_bytes();
    for name in signed_headers {
        canonical.extend(name.as_bytes());
        canonical.push(b':');
        canonical.extend(canonical_header(request, name));
        canonical.push(b'\n');
    }
    canonical.extend(format!("\n{}\n{payload_hash}", signed_headers.join(";")).as_bytes());
    canonical
}

/// A header's values, each trimmed and its runs of white space collapsed, joined by commas.
fn canonical_header(request: &HttpRequest, name: &str) -> Vec<u8> {
    // A proxy may turn HTTP/2 into HTTP/1.1 and `:authority` into `host`.
    let alias = match name {
        "host" => ":authority",
        ":authority" => "host",
        _ => name,
    };
    let sent = |name: &str| request.headers.iter().any(|(key, _)| key == name);
    let name = if sent(name) { name } else { alias };
    let values = request.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| collapsed(value));
    values.collect::<Vec<_>>().join(&b',')
}

fn collapsed(value: &[u8]) -> Vec<u8> {
    let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ')
}

/// Names and values encoded alike, sorted by name and then by value.
fn canonical_query(query: &str) -> String {
    let mut pairs = query_pairs(query);
    pairs.sort();
    joined(&pairs)
}

/// The ways in which clients write the path of one and the same request.
fn canonical_paths(raw: &str) -> BTreeSet<String> {
    let decoded: Vec<u8> = percent_decode_str(raw).collect();
    let encoded_once = percent_encode(&decoded, ESCAPED_IN_PATH).to_string();
    BTreeSet::from([encode_path(&without_dot_segments(raw)), encode_path(raw), raw.to_owned(), encoded_once])
}

fn encode_path(raw: &str) -> String {
    percent_encode(raw.as_bytes(), ESCAPED_IN_PATH).to_string()
}

/// The path without its empty and dot segments, as most clients sign it.
fn without_dot_segments(raw: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let closing = if raw.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{closing}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn request(target: &str, headers: &[(&str, &str)]) -> HttpRequest {
        let header = |&(name, value): &(&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        HttpRequest {
            method: "POST".into(),
            target: target.into(),
            headers: headers.iter().map(header).collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn captured_requests_give_the_canonical_requests_that_were_signed() {
        let file = include_str!("../../tests/data/sigv4_vectors.json");
        let vectors: Vec<serde_json::Value> = serde_json::from_str(file).expect("a list of vectors");
        for vector in vectors {
            let text = |key: &str| vector[key].as_str().expect("a text");
            let pairs = vector["headers"].as_array().expect("a list").iter();
            let pairs: Vec<(String, String)> = pairs
                .map(|pair| (pair[0].as_str().expect("a name"), pair[1].as_str().expect("a value")))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let borrowed: Vec<(&str, &str)> =
                pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let request = HttpRequest {
                body: text("body").to_owned().into(),
                ..request(text("target_as_sent"), &borrowed)
            };
            let authorization = request.header("authorization").expect("it is signed");
            let authorization = Authorization::parse(authorization).expect("it is whole");
            let body_hash = payload_hash(&request, false).expect("it is the body's");
            let canonical = canonical_paths(request.path())
                .into_iter()
                .map(|path| canonical_request(&request, &path, &authorization.signed_headers, &body_hash))
                .find(|canonical| canonical == text("canonical_request").as_bytes());
            let canonical = canonical.unwrap_or_else(|| panic!("{}", text("name")));
            let signed_at = signing_time(&request).expect("it has a date");
            assert_eq!(string_to_sign(signed_at, &authorization, &canonical), text("string_to_sign"));
        }
    }

    #[test]
    fn header_values_are_trimmed_collapsed_and_joined() {
        let request = request("/", &[("a", "  x \t y  "), ("b", "1"), ("a", "z"), ("host", "h:1")]);
        assert_eq!(canonical_header(&request, "a"), b"x y,z");
        assert_eq!(canonical_header(&request, "absent"), b"");
        assert_eq!(canonical_header(&request, ":authority"), b"h:1");
    }

    #[test]
    fn queries_are_sorted_and_encoded_alike() {
        let table = [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1&&", "a=1&a=2"),
            ("flag&x=a=b", "flag=&x=a%3Db"),
            ("k=%7e%2f:+", "k=~%2F%3A%2B"),
        ];
        for (raw, canonical) in table {
            assert_eq!(canonical_query(raw), canonical);
        }
    }

    #[test]
    fn paths_lose_dot_and_empty_segments() {
        let table = [
            ("/", "/"),
            ("/a//b/./c", "/a/b/c"),
            ("/a/../b/", "/b/"),
            ("/../..", "/"),
            ("/model/x%3A0/invoke", "/model/x%3A0/invoke"),
        ];
        for (raw, plain) in table {
            assert_eq!(without_dot_segments(raw), plain);
        }
        assert!(canonical_paths("/m/x%3A0/i").contains("/m/x%253A0/i"));
        assert!(canonical_paths("/m/x:0/i").contains("/m/x%3A0/i"));
    }

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(from_hex("00fFa1"), Some(vec![0, 255, 161]));
        for wrong in ["0", "0g", "+1", "é"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers_that_are_no_signature_are_refused() {
        let full =
            "AWS4-HMAC-SHA256 Credential=A/20261121/r/bedrock/aws4_request, SignedHeaders=host, Signature=00";
        assert!(Authorization::parse(full).is_ok());
        assert!(Authorization::parse(&full.replace(", ", ",")).is_ok());
        for wrong in [
            "",
            "Basic eDp5",
            "AWS4-HMAC-SHA256",
            &full.replace("Credential", "Cred"),
            &full.replace("/r/", "/"),
            &full.replace("SignedHeaders", "Signed"),
            &full.replace("Signature=00", ""),
            &full.replace("=00", "=0x"),
        ] {
            let denied = Authorization::parse(wrong).expect_err(wrong);
            assert!(matches!(denied, Denial::Incomplete(_)), "{wrong}: {denied:?}");
        }
    }
}
