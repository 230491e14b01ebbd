//! The gateway's signature: like AWS' fourth version, but that the key has no prefix and the scope ends in `request`.
//!
//! Official clients differ in what they sign, so the list of signed headers is theirs; only `x-date` has to be in it. Two
//! things they disagree on are tried both ways: Python and Go sign a host without `:80` and `:443` and send it with
//! them, and values of one query key are signed in their order or sorted (Node).

use super::auth::{AccessKey, Denial};
use crate::{
    HttpRequest,
    digest::{from_hex, hex, hmac},
    escaping::{joined, query_pairs},
    timestamp::Timestamp,
};
use hmac::Mac;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, time::SystemTime};

const ALGORITHM: &str = "HMAC-SHA256";
const TERMINATOR: &str = "request";

/// The parts of an `Authorization` header.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    /// Who signed.
    pub(super) access_key_id: &'a str,
    /// The day of the signature.
    pub(super) day: &'a str,
    /// The region, which may be any.
    pub(super) region: &'a str,
    /// The service.
    pub(super) service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: Vec<u8>,
}

impl<'a> Authorization<'a> {
    /// Takes a header's value apart.
    pub(super) fn parse(value: &'a str) -> Result<Self, Denial> {
        let parts = value.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with([' ', '\t']));
        let parts = parts.ok_or(Denial::BadAuthorization)?;
        let part = |name: &str| {
            let mut named = parts.split(',').filter_map(|part| part.trim().split_once('='));
            named.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        let credential = part("Credential").ok_or(Denial::Missing("Credential"))?;
        let mut scope = credential.rsplitn(5, '/');
        let (terminator, service, region, day, access_key_id) = scope
            .next()
            .and_then(|last| Some((last, scope.next()?, scope.next()?, scope.next()?, scope.next()?)))
            .ok_or(Denial::BadCredential)?;
        for (what, value) in [("AccessKeyId", access_key_id), ("Region", region), ("Service", service)] {
            if value.is_empty() {
                return Err(Denial::Missing(what));
            }
        }
        if terminator != TERMINATOR {
            return Err(Denial::BadCredential);
        }
        let signature = part("Signature").filter(|text| !text.is_empty()).ok_or(Denial::NoSignature)?;
        let signature = from_hex(signature).ok_or(Denial::BadSignature)?;
        let signed_headers: Vec<_> =
            part("SignedHeaders").ok_or(Denial::BadAuthorization)?.split(';').collect();
        // A header named twice would be a way to blow up the canonical request.
        let names: BTreeSet<_> = signed_headers.iter().collect();
        if names.len() != signed_headers.len() || !names.contains(&"x-date") {
            return Err(Denial::BadAuthorization);
        }
        Ok(Self { access_key_id, day, region, service, signed_headers, signature })
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.day, self.region, self.service)
    }
}

/// Whether this secret signed the request.
pub(super) fn is_signed_by(
    authorization: &Authorization<'_>,
    request: &HttpRequest,
    signed_at: &str,
    secret: &str,
) -> bool {
    let body_hash = hex(&Sha256::digest(&request.body));
    let claimed = request.header("x-content-sha256").map(str::trim);
    if claimed.is_some_and(|claimed| !claimed.eq_ignore_ascii_case(&body_hash)) {
        return false;
    }
    let key = signing_key(secret, authorization);
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let matches = |ports: Ports, values: Values| {
        let headers = canonical_headers(request, &authorization.signed_headers, ports);
        let query = canonical_query(query, values);
        let canonical =
            canonical_request(request, &query, &headers, &authorization.signed_headers, &body_hash);
        let to_sign = string_to_sign(signed_at, authorization, &canonical);
        hmac(&key, to_sign.as_bytes()).verify_slice(&authorization.signature).is_ok()
    };
    matches(Ports::Stripped, Values::AsSent)
        || matches(Ports::AsSent, Values::AsSent)
        || matches(Ports::Stripped, Values::Sorted)
        || matches(Ports::AsSent, Values::Sorted)
}

/// Signs a request as the vendor's Python client does: adds `x-date`, `x-content-sha256`, the key's session token if it
/// has one, and `authorization`. The headers `host` and `content-type` must be there.
pub fn sign(request: &mut HttpRequest, key: &AccessKey, now: SystemTime, region: &str, service: &str) {
    let now = Timestamp::of(now);
    let body_hash = hex(&Sha256::digest(&request.body));
    let mut signed_headers = vec!["content-type", "host", "x-content-sha256", "x-date"];
    request.headers.push(("x-content-sha256".to_owned(), body_hash.clone().into_bytes()));
    request.headers.push(("x-date".to_owned(), now.to_string().into_bytes()));
    if let Some(token) = &key.session_token {
        signed_headers.push("x-security-token");
        request.headers.push(("x-security-token".to_owned(), token.clone().into_bytes()));
    }
    let day = now.day();
    let authorization = Authorization {
        access_key_id: &key.id,
        day: &day,
        region,
        service,
        signed_headers,
        signature: Vec::new(),
    };
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let query = canonical_query(query, Values::AsSent);
    let names = &authorization.signed_headers;
    let headers = canonical_headers(request, names, Ports::Stripped);
    let canonical = canonical_request(request, &query, &headers, names, &body_hash);
    let to_sign = string_to_sign(&now.to_string(), &authorization, &canonical);
    let signature = hmac(&signing_key(&key.secret, &authorization), to_sign.as_bytes());
    let value = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
        key.id,
        authorization.scope(),
        names.join(";"),
        hex(&signature.finalize().into_bytes())
    );
    request.headers.push(("authorization".to_owned(), value.into_bytes()));
}

/// How a host with the port of its scheme is signed.
#[derive(Clone, Copy)]
enum Ports {
    Stripped,
    AsSent,
}

/// In which order values of the same query key are signed.
#[derive(Clone, Copy)]
enum Values {
    AsSent,
    Sorted,
}

fn signing_key(secret: &str, authorization: &Authorization<'_>) -> Vec<u8> {
    let Authorization { day, region, service, .. } = authorization;
    [day, region, service, TERMINATOR].iter().fold(secret.as_bytes().to_vec(), |key, part| {
        hmac(&key, part.as_bytes()).finalize().into_bytes().to_vec()
    })
}

fn string_to_sign(signed_at: &str, authorization: &Authorization<'_>, canonical: &[u8]) -> String {
    let scope = authorization.scope();
    format!("{ALGORITHM}\n{signed_at}\n{scope}\n{}", hex(&Sha256::digest(canonical)))
}

fn canonical_request(
    request: &HttpRequest,
    query: &str,
    headers: &[u8],
    names: &[&str],
    body_hash: &str,
) -> Vec<u8> {
    let path = match request.path() {
        "" => "/",
        path => path,
    };
    let head = format!("{}\n{path}\n{query}\n", request.method);
    let tail = format!("\n{}\n{body_hash}", names.join(";"));
    [head.as_bytes(), headers, tail.as_bytes()].concat()
}

fn canonical_headers(request: &HttpRequest, names: &[&str], ports: Ports) -> Vec<u8> {
    let mut lines = Vec::new();
    for name in names {
        let sent = request.headers.iter().filter(|(key, _)| key == name);
        let value = sent.map(|(_, value)| value.trim_ascii()).collect::<Vec<_>>().join(&b',');
        let value = match (ports, *name) {
            (Ports::Stripped, "host") => bare_host(&value),
            _ => &value,
        };
        lines.extend([name.as_bytes(), b":", value, b"\n"].concat());
    }
    lines
}

fn bare_host(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":80").or_else(|| host.strip_suffix(b":443")).unwrap_or(host)
}

/// Names and values encoded alike, sorted by name.
fn canonical_query(query: &str, values: Values) -> String {
    let mut pairs = query_pairs(query);
    match values {
        Values::AsSent => pairs.sort_by(|one, other| one.0.cmp(&other.0)),
        Values::Sorted => pairs.sort(),
    }
    joined(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"req_key": "img2img_pastel_boys_style_usage", "image_urls": ["https://example.com/a.jpg"], "prompt": "white statue"}"#;

    fn request(host: &str) -> HttpRequest {
        let headers = [
            ("host", host),
            ("content-type", "application/json"),
            ("x-date", "20240522T125945Z"),
            ("x-content-sha256", "d898e1c6ac7a31b5a196557ab07970feca7a82dcadb1484d2d947962361d9de4"),
            ("x-security-token", "STSexampletoken"),
        ];
        HttpRequest {
            method: "POST".into(),
            target: "/?Action=CVProcess&Version=2022-08-31".into(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec(),
            body: BODY.into(),
        }
    }

    fn is_good(host: &str, names: &str, signature: &str) -> bool {
        let header = format!(
            "HMAC-SHA256 Credential=AKLTEXAMPLE/20240522/cn-north-1/cv/request, SignedHeaders={names}, Signature={signature}"
        );
        let authorization = Authorization::parse(&header).expect("it is whole");
        is_signed_by(&authorization, &request(host), "20240522T125945Z", "U0tFWEFNUExF")
    }

    #[test]
    fn the_key_is_made_step_by_step() {
        let header =
            "HMAC-SHA256 Credential=a/20240522/cn-north-1/cv/request, SignedHeaders=x-date, Signature=00";
        let authorization = Authorization::parse(header).expect("it is whole");
        assert_eq!(
            hex(&signing_key("U0tFWEFNUExF", &authorization)),
            "7e913929c38b63d3d25ac8d84efd270916a98c15e921344150688ed22a1f61e6"
        );
    }

    #[test]
    fn the_canonical_request_is_the_official_clients_own() {
        let names = ["content-type", "host", "x-content-sha256", "x-date"];
        let request = request("127.0.0.1:8080");
        let headers = canonical_headers(&request, &names, Ports::Stripped);
        let query = canonical_query("Version=2022-08-31&Action=CVProcess", Values::AsSent);
        let hash = hex(&Sha256::digest(&request.body));
        assert_eq!(
            hex(&Sha256::digest(canonical_request(&request, &query, &headers, &names, &hash))),
            "01ee55815342b57d7dfb4dc19bfcc5e22fbc65fb42a88d82044bb2a4a113d47b"
        );
    }

    #[test]
    fn official_signatures_are_good() {
        const PYTHON: &str = "content-type;host;x-content-sha256;x-date";
        const WITH_TOKEN: &str = "content-type;host;x-content-sha256;x-date;x-security-token";
        let table = [
            ("127.0.0.1:8080", PYTHON, "fffcdd0be47603cfe8cdbb388a68e6f6ad5c090c6d996da926857f562f814819"),
            (
                "visual.volcengineapi.com",
                PYTHON,
                "f6f0502fde7bce0440105bb29257ce0462c3b1516d2d1532850937c58597f817",
            ),
            ("127.0.0.1:80", PYTHON, "912d4572b8c51dfcf39447f7f16ee16b09bd485874cb3e1870aca0fc0477e39c"),
            (
                "127.0.0.1:8080",
                WITH_TOKEN,
                "543e0bf8c39eda8beb4b25637c7e38d80139d57d4d6c34d3eb9218beee703694",
            ),
            (
                "any",
                "x-content-sha256;x-date",
                "eef4b309d761a45f8dc9e61679a8328bf73178ae3224cf8a1edb2e1393f85111",
            ),
        ];
        for (host, names, signature) in table {
            assert!(is_good(host, names, signature), "{host} {names}");
            assert!(is_good(host, names, &signature.to_uppercase()), "{host} {names}");
            let wrong = signature.replacen(|digit| digit != '0', "0", 1);
            assert!(!is_good(host, names, &wrong), "{host} {names}");
        }
        assert!(!is_good("127.0.0.1:8081", PYTHON, table[0].2));
    }

    #[test]
    fn values_of_one_key_are_in_their_order_or_sorted() {
        assert_eq!(canonical_query("b=2&a=z&a=y&c=%20+", Values::AsSent), "a=z&a=y&b=2&c=%20%2B");
        assert_eq!(canonical_query("b=2&a=z&a=y", Values::Sorted), "a=y&a=z&b=2");
    }

    #[test]
    fn headers_are_taken_apart_with_and_without_spaces() {
        let whole =
            "HMAC-SHA256 Credential=a/b/20240522/r/cv/request,SignedHeaders=host;x-date,Signature=0aFF";
        let authorization = Authorization::parse(whole).expect("it is whole");
        assert_eq!((authorization.access_key_id, authorization.signature), ("a/b", vec![10, 255]));
        let table = [
            ("AWS4-HMAC-SHA256 Credential=a/1/r/cv/request", Denial::BadAuthorization),
            ("HMAC-SHA256", Denial::BadAuthorization),
            ("HMAC-SHA256 Signature=00", Denial::Missing("Credential")),
            ("HMAC-SHA256 Credential=a/1/r/request", Denial::BadCredential),
            ("HMAC-SHA256 Credential=a/1/r/cv/aws4_request", Denial::BadCredential),
            ("HMAC-SHA256 Credential=/1/r/cv/request", Denial::Missing("AccessKeyId")),
            ("HMAC-SHA256 Credential=a/1//cv/request", Denial::Missing("Region")),
            ("HMAC-SHA256 Credential=a/1/r//request", Denial::Missing("Service")),
            ("HMAC-SHA256 Credential=a/1/r/cv/request, SignedHeaders=x-date", Denial::NoSignature),
            (
                "HMAC-SHA256 Credential=a/1/r/cv/request, SignedHeaders=x-date, Signature=xy",
                Denial::BadSignature,
            ),
            ("HMAC-SHA256 Credential=a/1/r/cv/request, Signature=00", Denial::BadAuthorization),
            (
                "HMAC-SHA256 Credential=a/1/r/cv/request, SignedHeaders=host, Signature=00",
                Denial::BadAuthorization,
            ),
            (
                "HMAC-SHA256 Credential=a/1/r/cv/request, SignedHeaders=x-date;x-date, Signature=00",
                Denial::BadAuthorization,
            ),
        ];
        for (header, expected) in table {
            assert_eq!(Authorization::parse(header).expect_err(header), expected, "{header}");
        }
    }
}
