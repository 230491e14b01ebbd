//! The label in a file's metadata that says who made it with which machine: China's *implicit label*.
//!
//! GB 45438-2025, section 5.4 and appendix E, wants a field `AIGC` in the metadata whose value is JSON of seven members;
//! its guide for pictures (TC260-PG-20258A) puts it into XMP as `TC260:AIGC`. So it is done here: PNG holds the XMP in
//! the chunk `iTXt` of the keyword `XML:com.adobe.xmp`, JPEG in a segment `APP1` behind EXIF (XMP specification, part 3).
//! `Label` is "1", generated for certain; the two reserved codes are left empty, as nothing here signs.

use crate::{Format, ImageError, ImageErrorKind};
use pentimento_request::InvalidValue;
use serde_json::json;

/// Where a JPEG's XMP begins.
const JPEG_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The keyword of a PNG's XMP; uncompressed, without language and translation.
const PNG_PREFIX: &[u8] = b"XML:com.adobe.xmp\0\0\0\0\0";

/// Length of a PNG's signature and header chunk.
const PNG_HEADER: usize = 8 + 25;

/// Who made and who spreads a generated file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Name or code of the service that made it.
    pub content_producer: String,
    /// The maker's number of it.
    pub produce_id: String,
    /// Name or code of the service that spreads it.
    pub content_propagator: String,
    /// The spreader's number of it.
    pub propagate_id: String,
}

impl Label {
    /// Letters of a field at most; four of them fit a JPEG's segment with much to spare.
    pub const LONGEST: usize = 256;

    /// The label, if its fields are not too long.
    ///
    /// # Errors
    /// When a field is longer than [`Label::LONGEST`]; names it.
    pub fn checked(self) -> Result<Self, InvalidValue> {
        let Self { content_producer, produce_id, content_propagator, propagate_id } = &self;
        let fields = [
            ("content_producer", content_producer),
            ("producer_id", produce_id),
            ("content_propagator", content_propagator),
            ("propagate_id", propagate_id),
        ];
        let too_long = fields.iter().find(|(_, text)| text.chars().count() > Self::LONGEST);
        if let Some((name, _)) = too_long {
            let longest = Self::LONGEST;
            return Err(InvalidValue::new(format!("{name} may have {longest} letters at most")));
        }
        Ok(self)
    }

    /// The value of the field `AIGC`.
    fn json(&self) -> String {
        let Self { content_producer, produce_id, content_propagator, propagate_id } = self;
        json!({
            "Label": "1",
            "ContentProducer": content_producer,
            "ProduceID": produce_id,
            "ReservedCode1": "",
            "ContentPropagator": content_propagator,
            "PropagateID": propagate_id,
            "ReservedCode2": "",
        })
        .to_string()
    }

    fn xmp(&self) -> String {
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
             <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
             <rdf:Description rdf:about=\"\" xmlns:TC260=\"http://www.tc260.org.cn/ns/AIGC/1.0/\">\
             <TC260:AIGC>{}</TC260:AIGC></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>",
            escaped(&self.json())
        )
    }

    /// The file with the label in it.
    pub(crate) fn put_into(&self, file: &[u8], format: Format) -> Result<Vec<u8>, ImageError> {
        match format {
            Format::Png => Ok(into_png(file, &self.xmp())),
            Format::Jpeg => into_jpeg(file, &self.xmp()),
            Format::WebP => {
                Err(ImageError::new(ImageErrorKind::Unencodable, "labels are written into PNG and JPEG only"))
            }
        }
    }
}

/// Text of an XML element. JSON has escaped all control characters but these already.
fn escaped(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Puts a chunk behind the header.
fn into_png(file: &[u8], xmp: &str) -> Vec<u8> {
    let body = [b"iTXt", PNG_PREFIX, xmp.as_bytes()].concat();
    let length = (body.len() - 4) as u32;
    let (header, rest) = file.split_at(PNG_HEADER.min(file.len()));
    [header, &length.to_be_bytes(), &body, &crc32fast::hash(&body).to_be_bytes(), rest].concat()
}

/// Puts a segment behind those of the application data, which EXIF is one of.
fn into_jpeg(file: &[u8], xmp: &str) -> Result<Vec<u8>, ImageError> {
    let length = u16::try_from(2 + JPEG_PREFIX.len() + xmp.len()).map_err(|_| {
        ImageError::new(ImageErrorKind::Unencodable, "the label does not fit a JPEG's segment")
    })?;
    let mut at = 2;
    while let Some(&[0xff, 0xe0 | 0xe1, high, low]) = file.get(at..at + 4) {
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    let (before, after) = file.split_at(at.min(file.len()));
    Ok([before, &[0xff, 0xe1], &length.to_be_bytes(), JPEG_PREFIX, xmp.as_bytes(), after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_json_inside_xml() {
        let label = Label {
            content_producer: "a<b>&\"c\"\u{1}\u{ffff}".to_owned(),
            produce_id: "7".to_owned(),
            ..Label::default()
        };
        let xmp = label.xmp();
        let (_, rest) = xmp.split_once("<TC260:AIGC>").expect("the element");
        let (value, _) = rest.split_once("</TC260:AIGC>").expect("its end");
        assert!(!value.contains(['<', '>', '"', '\u{1}', '\u{ffff}']), "{value}");
        let json =
            value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let keys: Vec<_> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "Label",
                "ContentProducer",
                "ProduceID",
                "ReservedCode1",
                "ContentPropagator",
                "PropagateID",
                "ReservedCode2"
            ]
        );
        assert_eq!(json["Label"], "1");
        assert_eq!(json["ContentProducer"], "a<b>&\"c\"\u{1}\u{fffd}");
    }

    #[test]
    fn long_fields_are_named() {
        let label = Label { produce_id: "é".repeat(257), ..Label::default() };
        assert!(label.checked().expect_err("too long").to_string().contains("producer_id"));
        assert!(Label { produce_id: "é".repeat(256), ..Label::default() }.checked().is_ok());
    }
}
