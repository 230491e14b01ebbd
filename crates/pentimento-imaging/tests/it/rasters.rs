use crate::fixtures::{Bytes, golden_picture, size};
use pentimento_imaging::{Filter, MaskSource, Rect, black, blur_away, crop, mask, paste, resize, resize_by};
use pentimento_request::{Channels, Mask, Picture, Size};

/// The sizes that `reference/imaging.py` writes.
const SIZES: [(u32, u32); 6] = [(16, 11), (64, 80), (37, 12), (90, 29), (5, 3), (1, 1)];

#[test]
fn pictures_are_resized_to_the_very_bytes_of_pillow() {
    for mode in ["rgb", "rgba"] {
        let source = golden_picture(&format!("resize/{mode}.png"));
        for (width, height) in SIZES {
            let expected = golden_picture(&format!("resize/{mode}_{width}x{height}.png"));
            let resized = resize(&source, size(width, height));
            assert_eq!(resized.channels(), source.channels());
            assert!(resized == expected, "{mode} to {width}x{height}");
        }
    }
}

#[test]
fn the_cubic_filter_gives_the_very_bytes_of_pillow() {
    let source = golden_picture("resize/rgb.png");
    for (width, height) in SIZES {
        let expected = golden_picture(&format!("resize/cubic_{width}x{height}.png"));
        let resized = resize_by(Filter::Cubic, &source, size(width, height));
        assert!(resized == expected, "to {width}x{height}");
    }
}

#[test]
fn what_is_withheld_cannot_be_seen() {
    let source = golden_picture("resize/rgba.png");
    let blurred = blur_away(&source);
    assert_eq!((blurred.size(), blurred.channels()), (source.size(), Channels::Rgb));
    // Neighbours differ by less than a slope over a cell does.
    let rows = blurred.pixels().chunks_exact(3 * 37);
    let steps = rows.flat_map(|row| row.windows(4).map(|pixels| pixels[0].abs_diff(pixels[3])));
    assert!(steps.max() < Some(48));
    assert!(black(&source).pixels().iter().all(|&sample| sample == 0));
    for (width, height) in [(1, 1), (1, 9000), (9000, 1), (7, 3)] {
        let picture =
            Picture::new(size(width, height), Channels::Rgb, vec![9; (3 * width * height) as usize]);
        let blurred = blur_away(&picture.expect("as many bytes"));
        assert!(blurred.size() == size(width, height) && blurred.pixels().iter().all(|&sample| sample == 9));
    }
}

#[test]
fn masks_are_resized_to_the_very_bytes_of_pillow() {
    let read = |name: &str| {
        mask::from_picture(&golden_picture(name), MaskSource::White).expect("white needs no alpha")
    };
    let source = read("resize/l.png");
    for (width, height) in SIZES {
        let expected = read(&format!("resize/l_{width}x{height}.png"));
        assert!(mask::resize(&source, size(width, height)) == expected, "{width}x{height}");
    }
}

#[test]
fn luma_is_the_very_byte_of_pillow() {
    let read = |name: &str| {
        mask::from_picture(&golden_picture(name), MaskSource::White).expect("white needs no alpha")
    };
    assert_eq!(read("luma/rgb.png").values(), read("luma/l.png").values());
}

#[test]
fn the_same_size_is_the_same_picture_even_where_it_is_transparent() {
    let picture = Bytes(4).picture(size(6, 5), Channels::Rgba);
    assert!(resize(&picture, picture.size()) == picture);
}

#[test]
fn an_even_picture_stays_even_at_any_size() {
    let picture = Picture::new(size(19, 23), Channels::Rgb, vec![77; 19 * 23 * 3]).expect("all pixels");
    for (width, height) in [(1, 1), (7, 100), (200, 3), (19, 1)] {
        assert!(resize(&picture, size(width, height)).pixels().iter().all(|&sample| sample == 77));
    }
}

#[test]
fn what_is_invisible_does_not_bleed_into_what_is_seen() {
    // A white column beside an invisible red one.
    let pixels = [[255, 255, 255, 255], [255, 0, 0, 0]].concat().repeat(8);
    let picture = Picture::new(size(2, 8), Channels::Rgba, pixels).expect("16 pixels");
    let seen = resize(&picture, size(9, 9));
    let seen = seen.pixels().chunks_exact(4).filter(|pixel| pixel[3] > 8);
    assert!(seen.clone().count() > 9);
    for pixel in seen {
        assert!(pixel[..3].iter().all(|&color| color >= 225), "{pixel:?}");
    }
}

#[test]
fn what_is_cut_out_and_pasted_back_is_where_it_was() {
    for channels in [Channels::Rgb, Channels::Rgba] {
        let picture = Bytes(6).picture(size(13, 9), channels);
        let rect = Rect { x: 3, y: 2, width: 7, height: 5 };
        let part = crop(&picture, rect).expect("within");
        assert_eq!(part.size(), size(7, 5));
        let mut other = Bytes(7).picture(size(13, 9), channels);
        paste(&mut other, &part, 3, 2);
        assert_eq!(crop(&other, rect), Ok(part));
        let border = Rect { x: 0, y: 0, width: 13, height: 2 };
        assert_eq!(crop(&other, border), crop(&Bytes(7).picture(size(13, 9), channels), border));
    }
}

#[test]
fn pasting_beyond_the_edge_leaves_out_what_is_beyond() {
    let patch = Picture::new(size(3, 3), Channels::Rgb, vec![9; 27]).expect("9 pixels");
    let blank = || Picture::new(size(4, 4), Channels::Rgba, vec![1; 64]).expect("16 pixels");
    let mut target = blank();
    paste(&mut target, &patch, 2, 3);
    let changed: Vec<usize> = (0..16).filter(|&pixel| target.pixels()[pixel * 4] == 9).collect();
    assert_eq!(changed, [14, 15]);
    assert_eq!(target.pixels()[15 * 4..], [9, 9, 9, 255]);
    for (x, y) in [(4, 0), (0, 4), (u32::MAX, u32::MAX)] {
        let mut target = blank();
        paste(&mut target, &patch, x, y);
        assert!(target == blank());
    }
}

#[test]
fn a_rectangle_outside_is_an_error_that_names_it() {
    let picture = Bytes(1).picture(size(4, 3), Channels::Rgb);
    let values = Mask::new(size(4, 3), vec![0; 12]).expect("12 values");
    for (x, y, width, height) in [(0, 0, 5, 1), (0, 1, 1, 3), (4, 0, 1, 1), (0, 0, 0, 1), (u32::MAX, 0, 2, 1)]
    {
        let rect = Rect { x, y, width, height };
        let message = crop(&picture, rect).expect_err("outside").to_string();
        assert!(message.contains(&rect.to_string()) && message.contains("4x3"), "{message}");
        assert!(mask::crop(&values, rect).is_err());
    }
}

#[test]
fn the_longest_sides_do_not_overflow() {
    let line = Bytes(1).picture(size(Size::MAX_SIDE, 1), Channels::Rgb);
    assert_eq!(resize(&line, size(3, 2)).size(), size(3, 2));
    let spots: Vec<u8> = (0..Size::MAX_SIDE).flat_map(|x| [if x % 7 < 3 { 255 } else { 0 }; 3]).collect();
    let spots = Picture::new(size(Size::MAX_SIDE, 1), Channels::Rgb, spots).expect("one line");
    assert_eq!(resize(&spots, size(4000, 1)).size(), size(4000, 1));
}
