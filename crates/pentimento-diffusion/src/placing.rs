//! Where a decoded picture goes: to the size asked for, into the picture that it is a part of, with what was not to be
//! touched put back.
//!
//! Units: pixels. Where a mask is 0 the bytes are the input's.

use crate::{canvas::Frame, generate::defect};
use pentimento_imaging as imaging;
use pentimento_request::{
    Canvas, Channels, GenerateError, GenerationRequest, Picture, Size, Task, Untouched,
};

/// The decoded picture at its place, at the size asked for, with what was not to be touched put back.
pub(crate) fn placed(
    request: &GenerationRequest,
    frame: &Frame,
    decoded: Picture,
) -> Result<Picture, GenerateError> {
    let exact = matches!(request.canvas, Canvas::Exact(_));
    match &request.task {
        Task::Repaint { init, mask, untouched: Untouched::Restored, .. } if exact => {
            let (init, mask) = (imaging::resize(init, frame.work), imaging::mask::resize(mask, frame.work));
            imaging::composite(&init, &decoded, &mask).map_err(defect)
        }
        _ if exact => Ok(decoded),
        Task::Repaint { init, mask, untouched, .. } => {
            let placed = at_input_scale(init, frame, &decoded)?;
            let finished = match untouched {
                Untouched::Restored => imaging::composite(init, &placed, mask).map_err(defect)?,
                Untouched::AsDecoded => placed,
            };
            Ok(imaging::resize(&finished, frame.output))
        }
        Task::ImageToImage { init, .. } => Ok(with_alpha_of(init, imaging::resize(&decoded, frame.output))),
        Task::TextToImage => Ok(imaging::resize(&decoded, frame.output)),
    }
}

/// The decoded picture at the input's scale: in its region of the input where it shows only that.
fn at_input_scale(init: &Picture, frame: &Frame, decoded: &Picture) -> Result<Picture, GenerateError> {
    let Some(rect) = frame.region else { return Ok(imaging::resize(decoded, init.size())) };
    let shown = Size::new(rect.width, rect.height).map_err(defect)?;
    let mut whole = imaging::without_alpha(init);
    imaging::paste(&mut whole, &imaging::resize(decoded, shown), rect.x, rect.y);
    Ok(whole)
}

/// An opaque picture with the alpha of another one, if that has any.
fn with_alpha_of(init: &Picture, picture: Picture) -> Picture {
    if init.channels() == Channels::Rgb {
        return picture;
    }
    let alpha = imaging::resize(init, picture.size());
    let colours = picture.pixels().chunks_exact(3);
    let alphas = alpha.pixels().chunks_exact(4).map(|pixel| pixel[3]);
    let pixels =
        colours.zip(alphas).flat_map(|(colour, alpha)| [colour[0], colour[1], colour[2], alpha]).collect();
    Picture::new(picture.size(), Channels::Rgba, pixels).expect("four bytes for each pixel")
}
