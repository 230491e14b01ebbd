//! The untouched pixels put back over what the model drew.

use pentimento_request::{Channels, InvalidValue, Mask, Picture};

/// Shows `generated` where the mask is 255 and `input` where it is 0, and between them
/// `input + mask/255 · (generated − input)`, rounded to nearest. Where the mask is 0 the bytes equal the input's.
///
/// The result has the input's channels; an alpha channel of `generated` is not looked at. Where the input has one,
/// repainting makes opaque: `input + mask/255 · (255 − input)`. The colours of the input then count by their opacity,
/// so that the meaningless colour of a transparent pixel never shines through.
///
/// # Errors
/// When the three sizes differ.
pub fn composite(input: &Picture, generated: &Picture, mask: &Mask) -> Result<Picture, InvalidValue> {
    let size = input.size();
    if generated.size() != size || mask.size() != size {
        return Err(InvalidValue::new(format!(
            "a composite wants equal sizes: the input is {size}, the generated picture {}, the mask {}",
            generated.size(),
            mask.size()
        )));
    }
    let mut result = input.clone();
    let kept = result.pixels_mut().chunks_exact_mut(input.channels().count());
    let drawn = generated.pixels().chunks_exact(generated.channels().count());
    for ((kept, drawn), &mask) in kept.zip(drawn).zip(mask.values()) {
        match input.channels() {
            Channels::Rgb => mix(kept, drawn, 255, mask),
            Channels::Rgba => {
                let opacity = kept[3];
                mix(&mut kept[..3], drawn, opacity, mask);
                mix(&mut kept[3..], &[255], 255, mask);
            }
        }
    }
    Ok(result)
}

/// Lays `drawn`, as opaque as the mask says, over `kept`, as opaque as `opacity` says.
fn mix(kept: &mut [u8], drawn: &[u8], opacity: u8, mask: u8) {
    // Both in units of 1/255².
    let kept_weight = u32::from(opacity) * u32::from(255 - mask);
    let drawn_weight = 255 * u32::from(mask);
    let sum = kept_weight + drawn_weight;
    if sum == 0 {
        return;
    }
    for (kept, &drawn) in kept.iter_mut().zip(drawn) {
        let mixed = u32::from(*kept) * kept_weight + u32::from(drawn) * drawn_weight;
        *kept = ((mixed + sum / 2) / sum) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::Size;

    /// One row of pixels.
    fn row(channels: Channels, pixels: Vec<u8>) -> Picture {
        let width = (pixels.len() / channels.count()) as u32;
        Picture::new(Size::new(width, 1).expect("a valid size"), channels, pixels).expect("whole pixels")
    }

    fn mask(values: Vec<u8>) -> Mask {
        Mask::new(Size::new(values.len() as u32, 1).expect("a valid size"), values).expect("its own length")
    }

    #[test]
    fn every_colour_pair_and_mask_is_mixed_to_the_nearest_byte() {
        for kept in 0..=255_u8 {
            for drawn in (0..=255_u8).step_by(5) {
                let values: Vec<u8> = (0..=255).collect();
                let input = row(Channels::Rgb, vec![kept; 3 * 256]);
                let generated = row(Channels::Rgb, vec![drawn; 3 * 256]);
                let mixed = composite(&input, &generated, &mask(values.clone())).expect("equal sizes");
                for (value, got) in values.into_iter().zip(mixed.pixels().chunks_exact(3)) {
                    let share = f64::from(value) / 255.0;
                    let exact = f64::from(kept) + share * (f64::from(drawn) - f64::from(kept));
                    assert_eq!(got, [exact.round() as u8; 3], "{kept} {drawn} {value}");
                }
            }
        }
    }

    #[test]
    fn repainting_makes_opaque_and_ignores_the_colour_of_what_was_transparent() {
        let invisible_red = [255, 0, 0, 0];
        let input = row(Channels::Rgba, invisible_red.repeat(3));
        let generated = row(Channels::Rgb, [1, 2, 3].repeat(3));
        let mixed = composite(&input, &generated, &mask(vec![0, 100, 255])).expect("equal sizes");
        assert_eq!(mixed.pixels(), [255, 0, 0, 0, 1, 2, 3, 100, 1, 2, 3, 255]);
    }

    #[test]
    fn unequal_sizes_are_named() {
        let (one, two) = (row(Channels::Rgb, vec![0; 3]), row(Channels::Rgb, vec![0; 6]));
        let message = composite(&one, &two, &mask(vec![0])).expect_err("unequal").to_string();
        assert!(message.contains("1x1") && message.contains("2x1"), "{message}");
    }
}
