//! Faces in pictures: found with five landmarks, aligned, and put into 512 numbers that tell one person from another.
//!
//! [`Detector`] finds faces: by MTCNN's networks, which are built in, or by the user's SCRFD or YuNet file. [`align`] brings
//! a face to the upright 112×112 crop that ArcFace networks were trained on, and [`Embedder`], always the user's own file,
//! makes the numbers of it.
//!
//! Coordinates: pixels of the picture, x to the right, y down, as `f32`. ONNX files are not trusted: their size and their
//! operators are limited, and whatever is wrong with one is an error that names the file (see `network`).
//! Everything is deterministic: the same picture and file give the same numbers on the same instruction set.

mod align;
mod boxes;
mod detect;
mod embed;
mod error;
mod mtcnn;
mod network;
mod raster;
mod scrfd;
mod yunet;

#[cfg(test)]
mod goldens;

pub use align::align;
pub use detect::Detector;
pub use embed::Embedder;
pub use error::{FaceError, FaceErrorKind};

/// Landmarks of a face in the picture's own left and right: left eye, right eye, tip of the nose, left and right corner
/// of the mouth; each x and y.
pub type Landmarks = [[f32; 2]; 5];

/// A face that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// Left edge.
    pub left: f32,
    /// Upper edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Lower edge.
    pub bottom: f32,
    /// How sure the detector is, from 0 to 1.
    pub score: f32,
    /// Where eyes, nose and mouth are.
    pub landmarks: Landmarks,
}

impl Face {
    /// Area of its box in pixels.
    pub fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }
}
