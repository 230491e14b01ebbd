use crate::fixtures::{Bytes, GENEROUS, golden, receipt, size};
use pentimento_imaging::{Format, ImageErrorKind, decode, encode, read_receipt};
use pentimento_request::Channels;
use std::{cell::Cell, panic, sync::Once};

/// Small valid files of every format and coding.
fn valid_files() -> Vec<(String, Vec<u8>)> {
    let names = [
        "rgba.png",
        "palette_transparent.png",
        "one_bit.png",
        "animated.png",
        "baseline.jpg",
        "subsampled.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "lossy.webp",
        "lossy_alpha.webp",
        "lossless_alpha.webp",
        "animated_webp.webp",
    ];
    let mut files: Vec<_> =
        names.map(|name| (name.to_owned(), golden(&format!("decode/{name}")))).into_iter().collect();
    let picture = Bytes(2).picture(size(9, 7), Channels::Rgba);
    for format in Format::ALL {
        let file = encode(&picture, format, Some(&receipt())).expect("it fits");
        files.push((format!("our own {format}"), file));
    }
    files
}

#[test]
fn a_file_cut_off_anywhere_is_refused_or_whole() {
    for (name, file) in valid_files() {
        let whole = decode(&file, &GENEROUS).unwrap_or_else(|error| panic!("{name}: {error}"));
        for length in 0..file.len() {
            match decode(&file[..length], &GENEROUS) {
                Ok(picture) => assert_eq!(picture, whole, "{name} cut to {length} of {}", file.len()),
                Err(error) => check(&name, error.kind(), &error.to_string()),
            }
            let _ = read_receipt(&file[..length]);
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_never_pass_a_limit() {
    let panics = count_panics();
    for (name, file) in valid_files() {
        let mut damaged = file.clone();
        for bit in 0..file.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            look_at(&name, &damaged);
            damaged[bit / 8] = file[bit / 8];
        }
    }
    assert_eq!(panics(), 0, "a codec panicked; the decoder caught it, but find out why");
}

#[test]
fn several_wild_bytes_never_panic_and_never_pass_a_limit() {
    let panics = count_panics();
    let mut bytes = Bytes(3);
    for (name, file) in valid_files() {
        for _ in 0..1000 {
            let mut damaged = file.clone();
            for _ in 0..1 + bytes.next() % 8 {
                let place = usize::from(bytes.next()) << 8 | usize::from(bytes.next());
                damaged[place % file.len()] = bytes.next();
            }
            look_at(&name, &damaged);
        }
    }
    assert_eq!(panics(), 0, "a codec panicked; the decoder caught it, but find out why");
}

#[test]
fn frames_within_frames_exhaust_no_stack() {
    let mut frames = Vec::new();
    for depth in (0..20_000).rev() {
        // Each frame says how long all those within it are.
        let length = 16 + depth * 24_u32;
        frames.extend([b"ANMF".as_slice(), &length.to_le_bytes(), &[0; 16]].concat());
    }
    let length = 4 + frames.len() as u32;
    let file = [b"RIFF".as_slice(), &length.to_le_bytes(), b"WEBP", &frames].concat();
    let error = decode(&file, &GENEROUS).expect_err("no picture");
    assert_eq!(error.kind(), ImageErrorKind::Malformed);
}

#[test]
fn bytes_behind_the_end_do_not_matter() {
    for (name, file) in valid_files() {
        let longer = [file.as_slice(), b"ANMF\xff\xff\xff\xffmore"].concat();
        assert_eq!(decode(&longer, &GENEROUS), decode(&file, &GENEROUS), "{name}");
    }
}

/// Decodes a damaged file: a picture within the limits, or an error of a fitting kind.
fn look_at(name: &str, damaged: &[u8]) {
    match decode(damaged, &GENEROUS) {
        Ok(picture) => assert!(picture.size().pixels() <= GENEROUS.pixels, "{name}"),
        Err(error) => check(name, error.kind(), &error.to_string()),
    }
    let _ = read_receipt(damaged);
}

fn check(name: &str, kind: ImageErrorKind, message: &str) {
    use ImageErrorKind::{Malformed, TooManyPixels, UnknownFormat};
    assert!(matches!(kind, Malformed | TooManyPixels | UnknownFormat), "{name}: {kind:?}");
    assert!(!message.is_empty() && !message.contains('\n'), "{name}: {message}");
}

/// Answers how many panics this thread has seen since, caught ones included. They are not printed.
fn count_panics() -> impl Fn() -> usize {
    thread_local!(static SEEN: Cell<Option<usize>> = const { Cell::new(None) });
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match SEEN.get() {
            Some(count) if count < 3 => {
                SEEN.set(Some(count + 1));
                usual(info);
            }
            Some(count) => SEEN.set(Some(count + 1)),
            None => usual(info),
        }));
    });
    SEEN.set(Some(0));
    || SEEN.get().unwrap_or_default()
}
