//! In which form a body comes and an answer is wanted.

use super::fault::Fault;
use crate::{Delivery, HttpRequest};

/// The kinds of body that are read, all of them as JSON: clients that were not told send the second or none.
const READ: [&str; 3] = ["application/json", "application/octet-stream", "*/*"];

/// What an answer holds.
#[derive(Clone, Copy)]
enum Content {
    Json,
    Picture,
}

/// Refuses bodies that are not meant to be JSON.
pub(super) fn check_content_type(request: &HttpRequest) -> Result<(), Fault> {
    let given = request.header("content-type").unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (essence.is_empty() || READ.contains(&essence.as_str())).then_some(()).ok_or(Fault::ContentType)
}

/// What the answer to InvokeModel shall be.
pub(super) fn delivery(request: &HttpRequest) -> Result<Delivery, Fault> {
    Ok(match wanted(&list(request, "accept"))? {
        Content::Json => Delivery::Json,
        Content::Picture => Delivery::Picture,
    })
}

/// What the answer to InvokeModelWithResponseStream shall be: its `Accept` is about the frames, not their content.
pub(super) fn streamed_delivery(request: &HttpRequest) -> Result<Delivery, Fault> {
    Ok(match wanted(&list(request, "x-amzn-bedrock-accept"))? {
        Content::Json => Delivery::Events,
        Content::Picture => Delivery::PictureEvents,
    })
}

/// A header that may be spread over several lines, as the one list that it then is.
fn list(request: &HttpRequest, name: &str) -> String {
    let lines = request.headers.iter().filter(|(key, _)| key == name);
    let lines = lines.filter_map(|(_, value)| std::str::from_utf8(value).ok());
    lines.filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join(",")
}

/// The first of the most wanted media types that can be written.
fn wanted(accept: &str) -> Result<Content, Fault> {
    let accept = if accept.is_empty() { "*/*" } else { accept };
    let mut best: Option<(f32, Content)> = None;
    for item in accept.split(',') {
        let Some((quality, content)) = readable(item) else { continue };
        if quality > best.map_or(0.0, |(best, _)| best) {
            best = Some((quality, content));
        }
    }
    best.map(|(_, content)| content).ok_or(Fault::Accept)
}

fn readable(item: &str) -> Option<(f32, Content)> {
    let mut parts = item.split(';').map(|part| part.trim().to_ascii_lowercase());
    let content = match parts.next()?.as_str() {
        "*/*" | "application/*" | "application/json" => Content::Json,
        "image/png" | "image/*" => Content::Picture,
        _ => return None,
    };
    let quality = parts.find_map(|part| part.strip_prefix("q=").map(|value| value.parse().unwrap_or(0.0)));
    Some((quality.unwrap_or(1.0), content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn with(name: &str, value: &str) -> HttpRequest {
        HttpRequest {
            method: "POST".into(),
            target: "/".into(),
            headers: vec![(name.into(), value.as_bytes().to_vec())],
            body: Bytes::new(),
        }
    }

    #[test]
    fn what_real_clients_send_is_read() {
        for value in
            ["", "application/json", "Application/JSON; charset=utf-8", "application/octet-stream", "*/*"]
        {
            assert_eq!(check_content_type(&with("content-type", value)), Ok(()), "{value}");
        }
        assert_eq!(check_content_type(&with("x", "y")), Ok(()));
        for value in ["application/x-www-form-urlencoded", "text/plain", "image/png", "json"] {
            assert_eq!(check_content_type(&with("content-type", value)), Err(Fault::ContentType), "{value}");
        }
    }

    #[test]
    fn the_most_wanted_form_is_delivered() {
        let table = [
            ("", Ok(Delivery::Json)),
            ("*/*", Ok(Delivery::Json)),
            ("application/json", Ok(Delivery::Json)),
            ("application/json;png", Ok(Delivery::Json)),
            ("image/png", Ok(Delivery::Picture)),
            ("image/png, application/json", Ok(Delivery::Picture)),
            ("application/json, image/png", Ok(Delivery::Json)),
            ("application/json;q=0.5, image/png", Ok(Delivery::Picture)),
            ("image/webp, image/png", Ok(Delivery::Picture)),
            ("image/jpeg", Err(Fault::Accept)),
            ("image/png;q=0", Err(Fault::Accept)),
            ("text/html", Err(Fault::Accept)),
        ];
        for (value, expected) in table {
            assert_eq!(delivery(&with("accept", value)), expected, "{value}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut request = with("accept", "text/html");
        for (value, expected) in [
            (" ", Err(Fault::Accept)),
            ("application/json;q=0.1", Ok(Delivery::Json)),
            ("image/png", Ok(Delivery::Picture)),
        ] {
            request.headers.push(("accept".into(), value.as_bytes().to_vec()));
            assert_eq!(delivery(&request), expected, "{value}");
        }
    }

    #[test]
    fn streams_are_asked_for_their_content_by_a_header_of_their_own() {
        assert_eq!(streamed_delivery(&with("accept", "image/jpeg")), Ok(Delivery::Events));
        let picture = with("x-amzn-bedrock-accept", "image/png");
        assert_eq!(streamed_delivery(&picture), Ok(Delivery::PictureEvents));
    }
}
