//! Sizes: at which one the model works, which part of the input it sees, and how large the result is.
//!
//! Units: pixels. A model works at multiples of its autoencoder's factor (8).

use pentimento_imaging::{Rect, bounding_box};
use pentimento_request::{
    Canvas, ErrorKind, GenerateError, GenerationRequest, InvalidValue, Mask, Region, Size, Task,
};

/// What a model can work at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The size it was made for.
    pub(crate) native: Size,
    /// Pixels per latent cell and side.
    pub(crate) factor: u32,
    /// Largest number of pixels.
    pub(crate) pixel_cap: u64,
}

/// The sizes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The size at which the model works.
    pub(crate) work: Size,
    /// The part of the input that it sees; `None` for all of it.
    pub(crate) region: Option<Rect>,
    /// The size of the result.
    pub(crate) output: Size,
}

impl Frame {
    /// Resolves the sizes of a request.
    pub(crate) fn of(request: &GenerationRequest, limits: Limits) -> Result<Self, GenerateError> {
        let frame = match (&request.task, request.canvas) {
            (Task::Repaint { init, mask, region, .. }, Canvas::Native(output)) => {
                let region = surroundings(mask, *region, limits.native);
                let shown = match region {
                    Some(rect) => Size::new(rect.width, rect.height).map_err(invalid)?,
                    None => init.size(),
                };
                let output = output.unwrap_or(init.size());
                Self { work: limits.near_native(shown)?, region, output }
            }
            (task, Canvas::Exact(size)) => {
                let input = task.init().map(|init| limits.cut_to_factor(init.size())).transpose()?;
                let size = size.or(input).unwrap_or(limits.native);
                Self { work: size, region: None, output: size }
            }
            (task, Canvas::Native(size)) => {
                let output = size.or(task.init().map(|init| init.size())).unwrap_or(limits.native);
                Self { work: limits.near_native(output)?, region: None, output }
            }
        };
        limits.check(frame.work)?;
        Ok(frame)
    }
}

impl Limits {
    fn check(&self, size: Size) -> Result<(), GenerateError> {
        let divides = |side: u32| side.is_multiple_of(self.factor);
        if !divides(size.width()) || !divides(size.height()) {
            let message = format!("size: {size} is not made of multiples of {}", self.factor);
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        if size.pixels() > self.pixel_cap {
            let message = format!("size: {size} has more than the {} pixels allowed here", self.pixel_cap);
            return Err(GenerateError::new(ErrorKind::InvalidRequest, message));
        }
        Ok(())
    }

    /// The size with both sides multiplied, to the nearest multiples of the factor.
    pub(crate) fn scaled(&self, size: Size, scale: f64) -> Result<Size, GenerateError> {
        let factor = f64::from(self.factor);
        let side = |side: u32| (f64::from(side) * scale / factor).round() as u32 * self.factor;
        let scaled = Size::new(side(size.width()), side(size.height())).map_err(invalid)?;
        self.check(scaled)?;
        Ok(scaled)
    }

    /// The size cut down to multiples of the factor, at least one cell.
    fn cut_to_factor(&self, size: Size) -> Result<Size, GenerateError> {
        let cut = |side: u32| (side - side % self.factor).max(self.factor);
        Size::new(cut(size.width()), cut(size.height())).map_err(invalid)
    }

    /// The size itself where the model can be expected to draw well at it, else one of about the native number of
    /// pixels in the same proportions.
    fn near_native(&self, size: Size) -> Result<Size, GenerateError> {
        let share = size.pixels() as f64 / self.native.pixels() as f64;
        let divides = |side: u32| side.is_multiple_of(self.factor);
        // Between half and one and a half times the pixels of their training, models draw whole things.
        if (0.5..=1.5).contains(&share) && divides(size.width()) && divides(size.height()) {
            return Ok(size);
        }
        let factor = f64::from(self.factor);
        let longest = 4 * self.native.width().max(self.native.height());
        let scaled = |side: u32| {
            let cells = (f64::from(side) / share.sqrt() / factor).round() as u32;
            (cells * self.factor).clamp(self.factor, longest)
        };
        Size::new(scaled(size.width()), scaled(size.height())).map_err(invalid)
    }
}

/// The part of the picture around the mask that is shown, `None` for all of it.
fn surroundings(mask: &Mask, region: Region, native: Size) -> Option<Rect> {
    let Region::Surroundings { padding } = region else { return None };
    let size = mask.size();
    if size.width() <= native.width() && size.height() <= native.height() {
        return None;
    }
    let painted = bounding_box(mask)?;
    let padded = |side: u32| side.saturating_add(padding.saturating_mul(2));
    let side = padded(painted.width).max(padded(painted.height)).max(native.width()).max(native.height());
    let (width, height) = (side.min(size.width()), side.min(size.height()));
    let start = |at: u32, painted: u32, shown: u32, whole: u32| {
        (at + painted / 2).saturating_sub(shown / 2).min(whole - shown)
    };
    let rect = Rect {
        x: start(painted.x, painted.width, width, size.width()),
        y: start(painted.y, painted.height, height, size.height()),
        width,
        height,
    };
    (width < size.width() || height < size.height()).then_some(rect)
}

fn invalid(error: InvalidValue) -> GenerateError {
    GenerateError::new(ErrorKind::InvalidRequest, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).expect("a size")
    }

    fn limits() -> Limits {
        Limits { native: size(128, 128), factor: 8, pixel_cap: 1 << 20 }
    }

    #[test]
    fn other_scales_are_brought_to_the_native_number_of_pixels() {
        let work = |width, height| limits().near_native(size(width, height)).expect("a size");
        assert_eq!(work(1024, 1024), size(128, 128));
        assert_eq!(work(1536, 640), size(200, 80));
        assert_eq!(work(128, 160), size(128, 160));
        assert_eq!(work(16384, 1), size(512, 8));
    }

    #[test]
    fn the_surroundings_lie_inside_the_picture_and_hold_the_mask() {
        let mut values = vec![0; 300 * 200];
        values[299 + 100 * 300] = 255;
        let mask = Mask::new(size(300, 200), values).expect("a mask");
        let rect = surroundings(&mask, Region::Surroundings { padding: 8 }, size(128, 128));
        assert_eq!(rect, Some(Rect { x: 172, y: 36, width: 128, height: 128 }));
        assert_eq!(surroundings(&mask, Region::Whole, size(128, 128)), None);
    }
}
