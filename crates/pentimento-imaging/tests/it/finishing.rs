use crate::fixtures::{Bytes, GENEROUS, receipt, size};
use pentimento_imaging::{Corner, Finish, Format, Label, Mark, decode, encode, read_receipt, sniff, to_json};
use pentimento_request::Channels;

fn label() -> Label {
    Label {
        content_producer: "工作室".to_owned(),
        produce_id: "20261125-7".to_owned(),
        content_propagator: "a & b".to_owned(),
        propagate_id: "p".to_owned(),
    }
}

fn mark() -> Mark {
    Mark::new("AI生成", Corner::BottomRight, 0.3).expect("a possible mark")
}

fn drawn() -> Vec<u8> {
    let picture = Bytes(3).picture(size(96, 64), Channels::Rgb);
    encode(&picture, Format::Png, Some(&receipt())).expect("it fits")
}

fn holds(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn nothing_asked_leaves_every_byte() {
    let drawn = drawn();
    assert_eq!(*Finish::none().apply(&drawn).expect("a PNG"), *drawn);
}

#[test]
fn every_format_is_marked_and_keeps_the_receipt() {
    let drawn = drawn();
    for format in Format::ALL {
        let plain = Finish { format, ..Finish::none() }.apply(&drawn).expect("it fits");
        let marked = Finish { format, mark: Some(mark()), label: None }.apply(&drawn).expect("it fits");
        assert_eq!(sniff(&marked), Some(format));
        assert_eq!(read_receipt(&marked), Some(to_json(&receipt())), "{format}");
        let [plain, marked] = [plain, marked].map(|file| decode(&file, &GENEROUS).expect("just written"));
        assert!(plain != marked, "{format}: no mark is seen");
        // The mark is in its corner: the upper half is as it was.
        let half = plain.pixels().len() / 2;
        assert!(plain.pixels()[..half] == marked.pixels()[..half], "{format}");
    }
}

#[test]
fn png_and_jpeg_are_labelled_and_still_whole() {
    let drawn = drawn();
    for format in [Format::Png, Format::Jpeg] {
        let plain = Finish { format, ..Finish::none() }.apply(&drawn).expect("it fits");
        let labelled = Finish { format, mark: None, label: Some(label()) }.apply(&drawn).expect("it fits");
        assert!(holds(&labelled, "http://www.tc260.org.cn/ns/AIGC/1.0/"), "{format}");
        assert!(holds(&labelled, "&quot;ContentProducer&quot;:&quot;工作室&quot;"), "{format}");
        assert!(holds(&labelled, "&quot;ContentPropagator&quot;:&quot;a &amp; b&quot;"), "{format}");
        assert_eq!(read_receipt(&labelled), Some(to_json(&receipt())), "{format}");
        assert!(decode(&labelled, &GENEROUS) == decode(&plain, &GENEROUS), "{format}");
    }
    let webp = Finish { format: Format::WebP, mark: None, label: Some(label()) };
    assert!(webp.apply(&drawn).is_err());
}

#[test]
fn the_same_is_finished_to_the_same_bytes() {
    let drawn = drawn();
    let finish = Finish { format: Format::Jpeg, mark: Some(mark()), label: Some(label()) };
    assert_eq!(finish.apply(&drawn), finish.apply(&drawn));
}

#[test]
fn what_is_no_picture_is_an_error() {
    let finish = Finish { format: Format::Jpeg, mark: Some(mark()), label: Some(label()) };
    for file in [&b""[..], b"no picture", &drawn()[..60]] {
        assert!(finish.apply(file).is_err());
    }
}
