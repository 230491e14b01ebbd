//! The visible mark: a line of text in a corner, white with a soft dark edge, so that it is read on light and dark.
//!
//! Units: pixels; an *em* is the font's size, about the height of a Chinese character. Opacities go from 0 to 1.
//! The font (`fonts/mark.otf`, SIL Open Font License) is a part of Noto Sans CJK: ASCII, the 3755 characters of
//! GB 2312's first level and common punctuation; `reference/mark_font.py` cut it out. Any other letter is drawn as a box.

use ab_glyph::{Font, FontRef, Glyph, GlyphId, Point, PxScale, Rect as Box};
use pentimento_request::{InvalidValue, Picture};

const FONT: &[u8] = include_bytes!("../fonts/mark.otf");

/// The font's size as a share of the picture's short side.
const EM: f32 = 0.04;

/// The size in small pictures: below it Chinese characters run together.
const SMALLEST_EM: f32 = 12.0;

/// The size to which a long text shrinks before it is cut.
const SHRUNK_EM: f32 = 8.0;

/// Distance to the picture's borders as a share of its short side.
const MARGIN: f32 = 0.02;

/// Width of the dark edge as a share of the font's size.
const EDGE: f32 = 0.08;

/// What stands at the end of a text that was cut.
const ELLIPSIS: char = '…';

/// A line of text in a corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    text: String,
    corner: Corner,
    opacity: f32,
}

/// Where a mark stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// Below, at the right.
    BottomRight,
    /// Below, at the left.
    BottomLeft,
    /// Above, at the left.
    TopLeft,
    /// Above, at the right.
    TopRight,
}

impl Mark {
    /// Letters of the longest text.
    pub const LONGEST: usize = 64;

    /// A mark of this text. It shrinks, and is cut at last, where the picture is too narrow for it.
    ///
    /// # Errors
    /// When the text is empty, longer than [`Mark::LONGEST`] or more than one line; when the opacity is not from 0 to 1.
    pub fn new(text: impl Into<String>, corner: Corner, opacity: f32) -> Result<Self, InvalidValue> {
        let text = text.into();
        if text.trim().is_empty() || text.chars().count() > Self::LONGEST || text.contains(char::is_control) {
            return Err(InvalidValue::new(format!("a mark is one line of 1 to {} letters", Self::LONGEST)));
        }
        if !(0.0..=1.0).contains(&opacity) {
            return Err(InvalidValue::new("a mark's opacity goes from 0 to 1"));
        }
        Ok(Self { text, corner, opacity })
    }

    /// Draws the mark.
    pub(crate) fn draw(&self, picture: &mut Picture) {
        let font = FontRef::try_from_slice(FONT).expect("the embedded font is whole");
        let size = picture.size();
        let short = size.width().min(size.height()) as f32;
        let margin = (short * MARGIN).max(2.0).round();
        let em = (short * EM).max(SMALLEST_EM).min(short * 0.5);
        let line = Line::fitting(&font, &self.text, em, size.width() as f32 - 2.0 * margin);
        let Some(ink) = Ink::of(&font, line) else { return };
        let [left, top] = [margin as i64 - ink.edge as i64; 2];
        let right = i64::from(size.width()) - ink.width as i64 - left;
        let bottom = i64::from(size.height()) - ink.height as i64 - top;
        let at = match self.corner {
            Corner::BottomRight => [right, bottom],
            Corner::BottomLeft => [left, bottom],
            Corner::TopLeft => [left, top],
            Corner::TopRight => [right, top],
        };
        ink.lay_on(picture, at, self.opacity);
    }
}

/// Glyphs at their places on a base line at 0, and their size.
struct Line {
    glyphs: Vec<Glyph>,
    em: f32,
}

impl Line {
    /// The text at this size, smaller or cut where it is wider than that.
    fn fitting(font: &FontRef<'_>, text: &str, em: f32, width: f32) -> Self {
        let letters: Vec<GlyphId> = text.chars().map(|letter| font.glyph_id(letter)).collect();
        let length = |letters: &[GlyphId]| letters.iter().map(|&id| advance(font, id)).sum::<f32>();
        let em = em.min((width / length(&letters)).max(SHRUNK_EM.min(em)));
        if length(&letters) * em <= width {
            return Self::of(font, &letters, em);
        }
        let ellipsis = font.glyph_id(ELLIPSIS);
        let mut kept = letters;
        while kept.pop().is_some() && (length(&kept) + advance(font, ellipsis)) * em > width {}
        kept.push(ellipsis);
        Self::of(font, &kept, em)
    }

    fn of(font: &FontRef<'_>, letters: &[GlyphId], em: f32) -> Self {
        // The crate's scale is the height from the lowest descender to the highest ascender.
        let scale = PxScale::from(em * font.height_unscaled() / units_per_em(font));
        let mut x = 0.0;
        let mut place = |&id: &GlyphId| {
            let position = Point { x, y: 0.0 };
            x += advance(font, id) * em;
            Glyph { id, scale, position }
        };
        Self { glyphs: letters.iter().map(&mut place).collect(), em }
    }
}

/// How much of each pixel a text covers, and its edge.
struct Ink {
    width: usize,
    height: usize,
    edge: usize,
    text: Vec<f32>,
    shade: Vec<f32>,
}

impl Ink {
    /// `None` where nothing is to be seen.
    fn of(font: &FontRef<'_>, Line { glyphs, em }: Line) -> Option<Self> {
        let outlines: Vec<_> = glyphs.into_iter().filter_map(|glyph| font.outline_glyph(glyph)).collect();
        let bounds = outlines.iter().map(|outline| outline.px_bounds()).reduce(union)?;
        let edge = (em * EDGE).round().max(1.0) as usize;
        let [width, height] =
            [bounds.width(), bounds.height()].map(|length| length.ceil() as usize + 2 * edge);
        let mut text = vec![0.0; width * height];
        for outline in &outlines {
            let from = outline.px_bounds().min - bounds.min;
            let [left, top] = [from.x, from.y].map(|offset| offset as usize + edge);
            outline.draw(|x, y, coverage| {
                let (x, y) = (x as usize + left, y as usize + top);
                if let (true, Some(pixel)) = (x < width, text.get_mut(y * width + x)) {
                    *pixel = f32::min(*pixel + coverage, 1.0);
                }
            });
        }
        let shade = shade(&text, [width, height], edge);
        Some(Self { width, height, edge, text, shade })
    }

    /// Darkens the edge, then brightens the letters. What lies outside of the picture is left out.
    fn lay_on(&self, picture: &mut Picture, [left, top]: [i64; 2], opacity: f32) {
        let (size, channels) = (picture.size(), picture.channels().count());
        let inside = |start: i64, offset: usize, side: u32| {
            usize::try_from(start + offset as i64).ok().filter(|&place| place < side as usize)
        };
        for row in 0..self.height {
            let Some(y) = inside(top, row, size.height()) else { continue };
            for column in 0..self.width {
                let Some(x) = inside(left, column, size.width()) else { continue };
                let at = (y * size.width() as usize + x) * channels;
                let pixel = &mut picture.pixels_mut()[at..at + channels];
                let text = self.text[row * self.width + column] * opacity;
                let shade = self.shade[row * self.width + column] * opacity;
                let (colors, alpha) = pixel.split_at_mut(3);
                for color in colors {
                    let shaded = f32::from(*color) * (1.0 - shade);
                    *color = (shaded + (255.0 - shaded) * text).round() as u8;
                }
                if let [alpha] = alpha {
                    *alpha = (*alpha).max((255.0 * text.max(shade)).round() as u8);
                }
            }
        }
    }
}

/// The text grown by the edge's width and softened, less the text itself.
fn shade(text: &[f32], [width, height]: [usize; 2], edge: usize) -> Vec<f32> {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let mean = |values: &mut dyn Iterator<Item = f32>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    let grown = over_neighbours(text, [width, height], edge, &largest);
    let soft = over_neighbours(&grown, [width, height], edge.div_ceil(2), &mean);
    soft.iter().zip(text).map(|(&shade, &text)| shade * (1.0 - text)).collect()
}

/// One number of each pixel's neighbours within `reach`, along the rows and then along the columns.
fn over_neighbours(
    values: &[f32],
    [width, height]: [usize; 2],
    reach: usize,
    number: &dyn Fn(&mut dyn Iterator<Item = f32>) -> f32,
) -> Vec<f32> {
    let around = |place: usize, length: usize| place.saturating_sub(reach)..(place + reach + 1).min(length);
    let places = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rows: Vec<f32> =
        places().map(|(x, y)| number(&mut around(x, width).map(|x| values[y * width + x]))).collect();
    places().map(|(x, y)| number(&mut around(y, height).map(|y| rows[y * width + x]))).collect()
}

fn union(one: Box, other: Box) -> Box {
    let (min, max) = (one.min, one.max);
    Box {
        min: Point { x: min.x.min(other.min.x), y: min.y.min(other.min.y) },
        max: Point { x: max.x.max(other.max.x), y: max.y.max(other.max.y) },
    }
}

/// From a glyph's place to the next one's, in ems.
fn advance(font: &FontRef<'_>, id: GlyphId) -> f32 {
    font.h_advance_unscaled(id) / units_per_em(font)
}

fn units_per_em(font: &FontRef<'_>) -> f32 {
    font.units_per_em().expect("the embedded font tells its units")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::{Channels, Size};

    fn ground(width: u32, height: u32, channels: Channels, value: u8) -> Picture {
        let size = Size::new(width, height).expect("possible");
        let pixels = vec![value; size.pixels() as usize * channels.count()];
        Picture::new(size, channels, pixels).expect("as many bytes")
    }

    /// The box of pixels that a mark changed: left, top, right, bottom.
    fn changed(mark: &Mark, width: u32, height: u32, value: u8) -> Option<[u32; 4]> {
        let mut picture = ground(width, height, Channels::Rgb, value);
        mark.draw(&mut picture);
        let places = (0..width * height)
            .filter(|&place| picture.pixels()[place as usize * 3..][..3] != [value; 3])
            .map(|place| [place % width, place / width]);
        places.fold(None, |found: Option<[u32; 4]>, [x, y]| {
            let [left, top, right, bottom] = found.unwrap_or([x, y, x, y]);
            Some([left.min(x), top.min(y), right.max(x), bottom.max(y)])
        })
    }

    fn mark(text: &str, corner: Corner, opacity: f32) -> Mark {
        Mark::new(text, corner, opacity).expect("a possible mark")
    }

    #[test]
    fn each_corner_is_where_it_says() {
        for (corner, is_right, is_below) in [
            (Corner::BottomRight, true, true),
            (Corner::BottomLeft, false, true),
            (Corner::TopLeft, false, false),
            (Corner::TopRight, true, false),
        ] {
            for value in [0, 128, 255] {
                let [left, top, right, bottom] =
                    changed(&mark("AI生成", corner, 0.3), 400, 300, value).expect("it is seen");
                assert_eq!((left >= 300, right < 100), (is_right, !is_right), "{corner:?} on {value}");
                assert_eq!((top >= 250, bottom < 50), (is_below, !is_below), "{corner:?} on {value}");
            }
        }
    }

    #[test]
    fn any_text_fits_any_picture() {
        let long = "生".repeat(Mark::LONGEST);
        for text in ["x", "AI生成", "Generated by AI", &long, "日本語ﬂ🙂"] {
            for (width, height) in [(1, 1), (3, 200), (200, 3), (64, 64), (1024, 640)] {
                let _ = changed(&mark(text, Corner::TopRight, 1.0), width, height, 90);
            }
        }
        let [left, _, right, _] =
            changed(&mark(&long, Corner::TopLeft, 1.0), 200, 200, 0).expect("it is seen");
        assert!(left >= 1 && right <= 198, "{left} {right}");
    }

    #[test]
    fn opacity_goes_from_nothing_to_white() {
        assert_eq!(changed(&mark("AI生成", Corner::TopLeft, 0.0), 200, 200, 60), None);
        let mut picture = ground(600, 600, Channels::Rgba, 0);
        mark("█AI生成", Corner::TopLeft, 1.0).draw(&mut picture);
        assert!(picture.pixels().chunks(4).any(|pixel| pixel == [255; 4]), "no pixel is white");
    }

    #[test]
    fn impossible_marks_are_refused() {
        let long = "x".repeat(Mark::LONGEST + 1);
        for text in ["", "  ", "a\nb", "a\0", &long] {
            assert!(Mark::new(text, Corner::TopLeft, 0.3).is_err(), "{text:?}");
        }
        for opacity in [-0.1, 1.1, f32::NAN] {
            assert!(Mark::new("x", Corner::TopLeft, opacity).is_err());
        }
    }
}
