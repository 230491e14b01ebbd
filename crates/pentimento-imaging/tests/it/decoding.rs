use crate::fixtures::{Bytes, GENEROUS, golden, golden_picture, size};
use pentimento_imaging::{Format, ImageErrorKind, Limits, decode, encode, sniff};
use pentimento_request::{Channels, Picture, Size};

/// How far colours may be from Pillow's. JPEG and VP8 leave the roundings of transforms and colours to the decoder.
const LOSSY: u8 = 4;

#[test]
fn files_of_every_kind_are_read_as_pillow_reads_them() {
    let cases = [
        ("rgb.png", Channels::Rgb, 0),
        ("rgba.png", Channels::Rgba, 0),
        ("grey.png", Channels::Rgb, 0),
        ("grey_alpha.png", Channels::Rgba, 0),
        ("one_bit.png", Channels::Rgb, 0),
        ("palette.png", Channels::Rgb, 0),
        ("palette_transparent.png", Channels::Rgba, 0),
        ("grey_transparent.png", Channels::Rgba, 0),
        ("rgb_transparent.png", Channels::Rgba, 0),
        ("animated.png", Channels::Rgb, 0),
        ("baseline.jpg", Channels::Rgb, LOSSY),
        ("subsampled.jpg", Channels::Rgb, LOSSY),
        ("progressive.jpg", Channels::Rgb, LOSSY),
        ("grey_jpeg.jpg", Channels::Rgb, LOSSY),
        ("cmyk.jpg", Channels::Rgb, LOSSY),
        ("lossy.webp", Channels::Rgb, LOSSY),
        ("lossy_alpha.webp", Channels::Rgba, LOSSY),
        ("lossless.webp", Channels::Rgb, 0),
        ("lossless_alpha.webp", Channels::Rgba, 0),
        ("animated_webp.webp", Channels::Rgb, 0),
    ];
    for (name, channels, tolerance) in cases {
        let picture = golden_picture(&format!("decode/{name}"));
        let stem = name.split('.').next().expect("a name");
        let expected = golden_picture(&format!("decode/{stem}.expected.png"));
        assert_eq!(picture.channels(), channels, "{name}");
        assert_eq!(picture.size(), expected.size(), "{name}");
        let apart = largest_difference(&picture, &expected);
        assert!(apart <= tolerance, "{name}: {apart} apart");
    }
}

#[test]
fn sixteen_bits_are_rounded_to_eight() {
    let samples = [0_u16, 128, 129, 0x7fff, 0x8000, 0xffff];
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 2, 1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().expect("a valid header");
    writer.write_image_data(&samples.map(u16::to_be_bytes).concat()).expect("six samples");
    writer.finish().expect("writes to memory");
    assert_eq!(read(&file).pixels(), [0, 0, 1, 127, 128, 255]);
}

#[test]
fn jpegs_are_turned_as_their_exif_says() {
    let upright = quadrants();
    for orientation in 1..=8 {
        let jpeg = encode(&stored(&upright, orientation), Format::Jpeg, None).expect("a JPEG");
        for block in [exif(orientation, true), exif(orientation, false)] {
            let shown = read(&with_jpeg_exif(&jpeg, &block));
            assert_eq!(shown.size(), upright.size(), "orientation {orientation}");
            let apart = largest_difference(&shown, &upright);
            assert!(apart <= LOSSY, "orientation {orientation}: {apart} apart");
        }
    }
}

#[test]
fn pngs_and_webps_are_turned_as_their_exif_says() {
    let upright = Bytes(5).picture(size(7, 5), Channels::Rgba);
    for orientation in 1..=8 {
        let stored = stored(&upright, orientation);
        assert_eq!(read(&png_with_exif(&stored, exif(orientation, true))), upright, "{orientation}");
        assert_eq!(read(&webp_with_exif(&stored, exif(orientation, false))), upright, "{orientation}");
    }
}

#[test]
fn a_nonsensical_orientation_turns_nothing() {
    let upright = quadrants();
    let jpeg = encode(&upright, Format::Jpeg, None).expect("a JPEG");
    for orientation in [0, 9, 255] {
        let shown = read(&with_jpeg_exif(&jpeg, &exif(orientation, true)));
        assert!(largest_difference(&shown, &upright) <= LOSSY, "{orientation}");
    }
}

#[test]
fn a_file_at_the_limit_is_read_and_one_above_it_is_told_the_limit() {
    for format in Format::ALL {
        let file = encode(&Bytes(1).picture(size(10, 6), Channels::Rgb), format, None).expect("it fits");
        let exactly = Limits { bytes: file.len(), pixels: 60 };
        assert!(decode(&file, &exactly).is_ok(), "{format}");

        let error = decode(&file, &Limits { bytes: file.len() - 1, ..exactly }).expect_err("too long");
        assert_eq!(error.kind(), ImageErrorKind::TooManyBytes);
        assert!(error.to_string().contains(&(file.len() - 1).to_string()), "{error}");

        let error = decode(&file, &Limits { pixels: 59, ..exactly }).expect_err("too many pixels");
        assert_eq!(error.kind(), ImageErrorKind::TooManyPixels);
        assert!(error.to_string().contains("10x6") && error.to_string().contains("59"), "{error}");
    }
}

#[test]
fn a_header_alone_is_enough_to_refuse_a_huge_picture() {
    for file in [png_header(20_000, 20_000), jpeg_header(20_000, 20_000), webp_header(15_000, 15_000)] {
        let error = decode(&file, &GENEROUS).expect_err("too many pixels");
        assert_eq!(error.kind(), ImageErrorKind::TooManyPixels, "{error}");
    }
}

#[test]
fn no_limit_on_pixels_allows_a_longer_side_than_a_size_has() {
    let limits = Limits { bytes: usize::MAX, pixels: u64::MAX };
    for file in [png_header(Size::MAX_SIDE + 1, 1), png_header(1, u32::MAX >> 1), jpeg_header(1, 65_535)] {
        let error = decode(&file, &limits).expect_err("too long a side");
        assert_eq!(error.kind(), ImageErrorKind::TooManyPixels, "{error}");
        assert!(error.to_string().contains("16384"), "{error}");
    }
}

#[test]
fn a_small_canvas_does_not_hide_a_huge_frame() {
    let mut file = golden("decode/lossy.webp");
    let frame = file.windows(4).position(|name| name == b"VP8 ").expect("a lossy frame") + 8;
    file[frame + 6..frame + 10].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    // A canvas of 24x18 in front of the frame.
    let canvas = [b"VP8X".as_slice(), &[10, 0, 0, 0], &[0; 4], &[23, 0, 0, 17, 0, 0]].concat();
    file.splice(12..12, canvas);
    let length = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    let error = decode(&file, &GENEROUS).expect_err("too many pixels");
    assert_eq!(error.kind(), ImageErrorKind::TooManyPixels, "{error}");
}

#[test]
fn other_formats_are_unknown_and_names_do_not_matter() {
    for bytes in [b"".as_slice(), b"GIF89a", b"BM", b"<svg/>", b"\x89PNG", b"RIFF\0\0\0\0WAVE"] {
        let error = decode(bytes, &GENEROUS).expect_err("no picture");
        assert_eq!(error.kind(), ImageErrorKind::UnknownFormat);
        assert!(error.to_string().contains("PNG, JPEG or WebP"), "{error}");
    }
    assert_eq!(sniff(&golden("decode/cmyk.jpg")), Some(Format::Jpeg));
}

fn read(file: &[u8]) -> Picture {
    decode(file, &GENEROUS).unwrap_or_else(|error| panic!("{error}"))
}

/// The largest difference between two samples. Colours of fully transparent pixels do not count.
fn largest_difference(one: &Picture, other: &Picture) -> u8 {
    let pixels = |picture: &Picture| {
        let pixels = picture.pixels().chunks_exact(picture.channels().count());
        let seen =
            pixels.flat_map(|pixel| if pixel.get(3) == Some(&0) { vec![0; 4] } else { pixel.to_vec() });
        seen.collect::<Vec<_>>()
    };
    let (one, other) = (pixels(one), pixels(other));
    assert_eq!(one.len(), other.len());
    one.into_iter().zip(other).map(|(one, other)| one.abs_diff(other)).max().expect("some pixels")
}

/// Four even colours, which survive JPEG as they lie on its 8x8 blocks.
fn quadrants() -> Picture {
    let color = |x: u32, y: u32| match (x < 16, y < 8) {
        (true, true) => [200, 30, 30],
        (false, true) => [30, 200, 30],
        (true, false) => [30, 30, 200],
        (false, false) => [220, 220, 220],
    };
    let pixels = (0..16).flat_map(|y| (0..32).flat_map(move |x| color(x, y))).collect();
    Picture::new(size(32, 16), Channels::Rgb, pixels).expect("all pixels")
}

/// How a camera of this orientation stores the picture (Exif 2.32, section 4.6.4, tag 0x0112: which side of what is
/// seen the first row and the first column are).
fn stored(upright: &Picture, orientation: u8) -> Picture {
    let (width, height) = (upright.size().width(), upright.size().height());
    let (right, bottom) = (width - 1, height - 1);
    let seen = |column: u32, row: u32| match orientation {
        2 => (right - column, row),
        3 => (right - column, bottom - row),
        4 => (column, bottom - row),
        5 => (row, column),
        6 => (right - row, column),
        7 => (right - row, bottom - column),
        8 => (row, bottom - column),
        _ => (column, row),
    };
    let size = if orientation >= 5 { size(height, width) } else { upright.size() };
    let bytes = upright.channels().count();
    let pixel = |(x, y): (u32, u32)| {
        let at = (y * width + x) as usize * bytes;
        &upright.pixels()[at..at + bytes]
    };
    let places = (0..size.height()).flat_map(|row| (0..size.width()).map(move |column| (column, row)));
    let pixels = places.flat_map(|(column, row)| pixel(seen(column, row))).copied().collect();
    Picture::new(size, upright.channels(), pixels).expect("as many pixels as before")
}

/// An EXIF block with nothing but an orientation, in either order of bytes.
fn exif(orientation: u8, big_endian: bool) -> Vec<u8> {
    let orientation = if big_endian { [0, orientation, 0, 0] } else { [orientation, 0, 0, 0] };
    let head: [&[u8]; 5] = if big_endian {
        [b"MM\0\x2a", &[0, 0, 0, 8], &[0, 1], &[0x01, 0x12, 0, 3], &[0, 0, 0, 1]]
    } else {
        [b"II\x2a\0", &[8, 0, 0, 0], &[1, 0], &[0x12, 0x01, 3, 0], &[1, 0, 0, 0]]
    };
    [&head.concat(), orientation.as_slice(), &[0; 4]].concat()
}

fn with_jpeg_exif(jpeg: &[u8], block: &[u8]) -> Vec<u8> {
    let length = (2 + 6 + block.len()) as u16;
    let segment = [&[0xff, 0xe1], length.to_be_bytes().as_slice(), b"Exif\0\0", block].concat();
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

fn png_with_exif(picture: &Picture, block: Vec<u8>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut info = png::Info::with_size(picture.size().width(), picture.size().height());
    info.color_type = png::ColorType::Rgba;
    info.bit_depth = png::BitDepth::Eight;
    info.exif_metadata = Some(block.into());
    let encoder = png::Encoder::with_info(&mut file, info).expect("a valid header");
    let mut writer = encoder.write_header().expect("a valid header");
    writer.write_image_data(picture.pixels()).expect("all pixels");
    writer.finish().expect("writes to memory");
    file
}

fn webp_with_exif(picture: &Picture, block: Vec<u8>) -> Vec<u8> {
    use image::ImageEncoder as _;
    let mut file = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut file);
    encoder.set_exif_metadata(block).expect("WebP has EXIF");
    let (width, height) = (picture.size().width(), picture.size().height());
    let color = image::ExtendedColorType::Rgba8;
    encoder.write_image(picture.pixels(), width, height, color).expect("writes to memory");
    file
}

/// The beginning of an 8-bit RGB PNG, with a checksum that is right.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    // Dropping the writer ends the file without any pixels.
    drop(encoder.write_header().expect("a valid header"));
    file
}

/// A JPEG whose header claims a size, with the markers of a scan that holds nothing.
fn jpeg_header(width: u16, height: u16) -> Vec<u8> {
    let mut file = encode(&quadrants(), Format::Jpeg, None).expect("a JPEG");
    let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline frame");
    file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    file
}

/// The beginning of a lossless WebP.
fn webp_header(width: u32, height: u32) -> Vec<u8> {
    let sides = (width - 1) | (height - 1) << 14;
    let chunk = [&[0x2f], sides.to_le_bytes().as_slice(), &[0]].concat();
    [b"RIFF".as_slice(), &[18, 0, 0, 0], b"WEBPVP8L", &[5, 0, 0, 0], &chunk].concat()
}
