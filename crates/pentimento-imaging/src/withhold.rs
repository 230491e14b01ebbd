//! Pictures that are not shown.

use crate::{
    resample::Filter,
    resize::{resize_by, without_alpha},
};
use pentimento_request::{Channels, Picture, Size};

/// Cells along the longer side that are left of a blurred picture: enough for the mood of its colours, too few for what
/// it shows.
const CELLS: u32 = 8;

/// The picture blurred past recognition, of the same size: what is left of it are a few dozen colours, so that nothing can
/// be won back. Opaque.
pub fn blur_away(picture: &Picture) -> Picture {
    let (width, height) = (picture.size().width(), picture.size().height());
    let longer = width.max(height);
    let cells = |side: u32| (side * CELLS / longer).max(1);
    let picture = without_alpha(picture);
    let few = Size::new(cells(width), cells(height)).expect("from 1 to the cells of the longer side");
    let left = resize_by(Filter::Triangle, &picture, few);
    resize_by(Filter::Triangle, &left, picture.size())
}

/// Black, of the same size. Opaque.
pub fn black(picture: &Picture) -> Picture {
    let size = picture.size();
    let bytes = vec![0; size.pixels() as usize * Channels::Rgb.count()];
    Picture::new(size, Channels::Rgb, bytes).expect("three bytes for each pixel")
}
