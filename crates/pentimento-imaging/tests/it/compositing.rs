use crate::fixtures::{Bytes, size};
use pentimento_imaging::{MaskSource, composite, mask};
use pentimento_request::{Channels, Mask, Picture};

/// Input, generated picture and mask of noise, in all four pairs of channels.
fn cases() -> impl Iterator<Item = (Picture, Picture, Mask)> {
    let both = [Channels::Rgb, Channels::Rgba];
    let pairs = both.into_iter().flat_map(move |one| both.map(|other| (one, other)));
    pairs.cycle().take(40).zip(0..).map(|((one, other), seed)| {
        let mut bytes = Bytes(seed);
        let size = size(1 + u32::from(bytes.next()) % 40, 1 + u32::from(bytes.next()) % 40);
        (bytes.picture(size, one), bytes.picture(size, other), bytes.mask(size))
    })
}

#[test]
fn nothing_changes_where_the_mask_is_zero_and_everything_where_it_is_full() {
    for (input, generated, mask) in cases() {
        let mixed = composite(&input, &generated, &mask).expect("equal sizes");
        assert_eq!(mixed.channels(), input.channels());
        let (bytes, drawn) = (input.channels().count(), generated.channels().count());
        for (pixel, &value) in mask.values().iter().enumerate() {
            let got = &mixed.pixels()[pixel * bytes..][..bytes];
            match value {
                0 => assert_eq!(got, &input.pixels()[pixel * bytes..][..bytes]),
                255 => {
                    assert_eq!(got[..3], generated.pixels()[pixel * drawn..][..3]);
                    assert!(got.get(3).is_none_or(|&alpha| alpha == 255));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn colours_lie_between_both_and_repainting_only_adds_opacity() {
    for (input, generated, mask) in cases() {
        let mixed = composite(&input, &generated, &mask).expect("equal sizes");
        let (bytes, drawn) = (input.channels().count(), generated.channels().count());
        for pixel in 0..mask.values().len() {
            let (got, kept) = (&mixed.pixels()[pixel * bytes..], &input.pixels()[pixel * bytes..]);
            let drawn = &generated.pixels()[pixel * drawn..];
            for color in 0..3 {
                let (low, high) = (kept[color].min(drawn[color]), kept[color].max(drawn[color]));
                assert!((low..=high).contains(&got[color]));
            }
            if bytes == 4 {
                let share = f64::from(mask.values()[pixel]) / 255.0;
                let exact = f64::from(kept[3]) + share * (255.0 - f64::from(kept[3]));
                assert_eq!(got[3], exact.round() as u8);
            }
        }
    }
}

#[test]
fn an_opaque_alpha_channel_changes_no_colour() {
    for (input, generated, mask) in cases().filter(|(input, ..)| input.channels() == Channels::Rgb) {
        let pixels = input.pixels().chunks_exact(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]);
        let opaque = Picture::new(input.size(), Channels::Rgba, pixels.collect()).expect("all pixels");
        let plain = composite(&input, &generated, &mask).expect("equal sizes");
        let mixed = composite(&opaque, &generated, &mask).expect("equal sizes");
        for (plain, mixed) in plain.pixels().chunks_exact(3).zip(mixed.pixels().chunks_exact(4)) {
            assert_eq!([plain[0], plain[1], plain[2], 255], mixed);
        }
    }
}

#[test]
fn repainting_what_is_transparent_hides_its_colour() {
    for (mut input, generated, _) in cases().filter(|(input, ..)| input.channels() == Channels::Rgba) {
        let (mut red, mut blue) = (input.clone(), input.clone());
        for pixel in (0..input.pixels().len()).step_by(8) {
            input.pixels_mut()[pixel + 3] = 0;
            red.pixels_mut()[pixel..pixel + 4].copy_from_slice(&[255, 0, 0, 0]);
            blue.pixels_mut()[pixel..pixel + 4].copy_from_slice(&[0, 0, 255, 0]);
        }
        let mask = mask::from_picture(&input, MaskSource::Alpha).expect("it has alpha");
        let red = composite(&red, &generated, &mask).expect("equal sizes");
        assert!(red == composite(&blue, &generated, &mask).expect("equal sizes"));
    }
}
