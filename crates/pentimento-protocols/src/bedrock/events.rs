//! Frames of `application/vnd.amazon.eventstream`.
//!
//! A frame, big endian: `u32 whole length | u32 length of the headers | u32 CRC of these eight bytes | headers |
//! payload | u32 CRC of everything before`. A header: `u8 length of the name | name | u8 7 | u16 length | text`.
//! CRC is that of zlib and PNG.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crc32fast::hash as crc32;

/// The media type of a stream of frames.
pub(super) const MEDIA_TYPE: &str = "application/vnd.amazon.eventstream";

/// Bytes of the model's answer in one frame. boto3 refuses payloads above 24 MiB, which base64 fills with 18.8 million
/// bytes; clients put the chunks together again.
const CHUNK: usize = 16_000_000;

/// Bytes around headers and payload.
const OVERHEAD: usize = 16;

/// The type of a header whose value is text.
const TEXT: u8 = 7;

/// The model's answer as `chunk` events: one, unless it is too large for clients.
pub(super) fn chunks(answer: &[u8]) -> Vec<u8> {
    answer.chunks(CHUNK).flat_map(chunk).collect()
}

/// An event of a type that no client knows, which all of them skip.
pub(super) fn ping() -> Vec<u8> {
    event("ping", b"{}")
}

/// An exception in the middle of a stream; `member` is its name in the service's model of the stream.
pub(super) fn exception(member: &str, payload: &[u8]) -> Vec<u8> {
    let headers =
        [(":exception-type", member), (":content-type", "application/json"), (":message-type", "exception")];
    frame(&headers, payload)
}

/// One `chunk` event with these bytes of the answer.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    event("chunk", format!(r#"{{"bytes":"{}"}}"#, STANDARD.encode(bytes)).as_bytes())
}

fn event(name: &str, payload: &[u8]) -> Vec<u8> {
    // In the order of the service's own frames.
    let headers = [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")];
    frame(&headers, payload)
}

fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| header(name, value)).collect();
    let length = OVERHEAD + headers.len() + payload.len();
    let mut frame = Vec::with_capacity(length);
    frame.extend((length as u32).to_be_bytes());
    frame.extend((headers.len() as u32).to_be_bytes());
    frame.extend(crc32(&frame).to_be_bytes());
    frame.extend(headers);
    frame.extend(payload);
    frame.extend(crc32(&frame).to_be_bytes());
    frame
}

fn header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![name.len() as u8];
    header.extend(name.as_bytes());
    header.push(TEXT);
    header.extend((value.len() as u16).to_be_bytes());
    header.extend(value.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // Both vectors were decoded by boto3 and by the JavaScript SDK.
    #[test]
    fn a_chunk_is_byte_for_byte_the_services() {
        let payload = br#"{"bytes":"eyJhIjoxfQ==","p":"abc"}"#;
        assert_eq!(
            hex(&event("chunk", payload)),
            "0000007d0000004b856e630f0b3a6576656e742d747970650700056368756e6b0d3a636f6e74656e742d747970650700106170\
             706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b226279746573223a2265794a6849\
             6a6f7866513d3d222c2270223a22616263227d31a0e6b7"
        );
    }

    #[test]
    fn an_exception_is_byte_for_byte_the_services() {
        assert_eq!(
            hex(&exception("throttlingException", br#"{"message":"slow down"}"#)),
            "0000008800000061de0175f40f3a657863657074696f6e2d747970650700137468726f74746c696e67457863657074696f6e0d\
             3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700096578\
             63657074696f6e7b226d657373616765223a22736c6f7720646f776e227d832ee072"
        );
    }

    #[test]
    fn a_chunk_holds_the_answer_in_base64() {
        let frame = chunks(br#"{"a":1}"#);
        let payload = &frame[12 + 75..frame.len() - 4];
        assert_eq!(payload, br#"{"bytes":"eyJhIjoxfQ=="}"#);
    }

    #[test]
    fn an_answer_too_large_for_a_frame_takes_several() {
        let stream = chunks(&vec![b'x'; CHUNK + 5]);
        let first = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]) as usize;
        assert!(first < 24 << 20);
        let second = &stream[first..];
        assert_eq!(&second[12 + 75..second.len() - 4], br#"{"bytes":"eHh4eHg="}"#);
    }
}
