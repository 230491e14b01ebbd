//! Pictures at another size, cut out, and put into another.

use crate::{
    Rect,
    resample::{Filter, resample},
};
use pentimento_request::{Channels, InvalidValue, Picture, Size};

/// The picture at another size, by a Lanczos filter of three lobes that widens when shrinking (Pillow's `LANCZOS`,
/// with equal bytes). The sides' proportions are the caller's business.
///
/// Colours are weighted by their opacity, so that what is invisible does not bleed into what is seen; where the
/// result is fully transparent, its colour means nothing.
pub fn resize(picture: &Picture, size: Size) -> Picture {
    resize_by(Filter::Lanczos3, picture, size)
}

/// The same by another filter.
pub fn resize_by(filter: Filter, picture: &Picture, size: Size) -> Picture {
    if picture.size() == size {
        return picture.clone();
    }
    let pixels = match picture.channels() {
        Channels::Rgb => resample::<3>(picture.pixels(), picture.size(), size, filter),
        Channels::Rgba => {
            let mut premultiplied = picture.pixels().to_vec();
            premultiplied.chunks_exact_mut(4).for_each(premultiply);
            let mut pixels = resample::<4>(&premultiplied, picture.size(), size, filter);
            pixels.chunks_exact_mut(4).for_each(unpremultiply);
            pixels
        }
    };
    Picture::new(size, picture.channels(), pixels).expect("resample answers all channels of each pixel")
}

/// The part of the picture within the rectangle.
///
/// # Errors
/// When the rectangle is empty or does not lie within the picture.
pub fn crop(picture: &Picture, rect: Rect) -> Result<Picture, InvalidValue> {
    let size = rect.size_within(picture.size())?;
    let rows = rect.rows(picture.size().width(), picture.channels().count());
    let pixels = rows.flat_map(|row| &picture.pixels()[row]).copied().collect();
    Picture::new(size, picture.channels(), pixels)
}

/// Overwrites the part of `target` whose top left corner is at (`x`, `y`) with `patch`; what of it lies beyond the
/// target's edges is left out.
///
/// Nothing is blended: a target with alpha takes the patch's alpha over (255 where the patch has none), and a target
/// without takes its colours as they are.
pub fn paste(target: &mut Picture, patch: &Picture, x: u32, y: u32) {
    let visible = Rect {
        x,
        y,
        width: patch.size().width().min(target.size().width().saturating_sub(x)),
        height: patch.size().height().min(target.size().height().saturating_sub(y)),
    };
    if visible.width == 0 || visible.height == 0 {
        return;
    }
    let (from, to) = (patch.channels().count(), target.channels().count());
    let source = Rect { x: 0, y: 0, ..visible }.rows(patch.size().width(), from);
    for (source, goal) in source.zip(visible.rows(target.size().width(), to)) {
        let pixels = patch.pixels()[source].chunks_exact(from);
        for (pixel, goal) in pixels.zip(target.pixels_mut()[goal].chunks_exact_mut(to)) {
            let [red, green, blue] = [pixel[0], pixel[1], pixel[2]];
            let alpha = pixel.get(3).copied().unwrap_or(255);
            goal.copy_from_slice(&[red, green, blue, alpha][..to]);
        }
    }
}

/// The picture's colours, as they are where it is transparent too.
pub fn without_alpha(picture: &Picture) -> Picture {
    let pixels = picture.pixels().chunks_exact(picture.channels().count());
    let pixels = pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Picture::new(picture.size(), Channels::Rgb, pixels).expect("three bytes for each pixel")
}

/// Multiplies a pixel's colours by its opacity (Pillow, Convert.c, rgbA2rgba).
fn premultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    for color in &mut pixel[..3] {
        // The nearest of c·a/255 without a division (Pillow, ImagingUtils.h, MULDIV255).
        let product = u32::from(*color) * alpha + 128;
        *color = (((product >> 8) + product) >> 8) as u8;
    }
}

/// Divides a pixel's colours by its opacity, rounding down as Pillow does (Convert.c, rgba2rgbA).
fn unpremultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    if alpha == 0 {
        return;
    }
    for color in &mut pixel[..3] {
        // An overshooting filter can leave a colour above its opacity.
        *color = (u32::from(*color) * 255 / alpha).min(255) as u8;
    }
}
