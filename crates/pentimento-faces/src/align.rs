//! A face brought upright to the place where ArcFace networks expect it.
//!
//! Source: Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", section 4.1 (the crop);
//! Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns", in the plane, where
//! the best similarity has a closed form over complex numbers.

use crate::{Landmarks, raster::Raster};
use pentimento_request::Picture;

/// Side of the crop.
pub(crate) const SIDE: usize = 112;

/// Where the landmarks of an aligned face lie: the five points published with ArcFace.
const TEMPLATE: [[f64; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// A turn with scale, and a shift: `(x, y) -> (a·x − b·y + u, b·x + a·y + v)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Similarity {
    pub(crate) a: f64,
    pub(crate) b: f64,
    pub(crate) u: f64,
    pub(crate) v: f64,
}

impl Similarity {
    /// The one that brings the landmarks closest to the template; `None` where all of them lie on one place.
    pub(crate) fn to_template(landmarks: &Landmarks) -> Option<Self> {
        let from = landmarks.map(|[x, y]| [f64::from(x), f64::from(y)]);
        let mean =
            |points: &[[f64; 2]; 5], axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / 5.0;
        let (from_mean, to_mean) =
            ([mean(&from, 0), mean(&from, 1)], [mean(&TEMPLATE, 0), mean(&TEMPLATE, 1)]);
        let (mut along, mut across, mut spread) = (0.0, 0.0, 0.0);
        for (from, to) in from.iter().zip(&TEMPLATE) {
            let (x, y) = (from[0] - from_mean[0], from[1] - from_mean[1]);
            let (p, q) = (to[0] - to_mean[0], to[1] - to_mean[1]);
            along += x * p + y * q;
            across += x * q - y * p;
            spread += x * x + y * y;
        }
        // Written so that a spread that is no number counts as none.
        if !(spread > 1e-6 && spread.is_finite()) {
            return None;
        }
        let (a, b) = (along / spread, across / spread);
        let (u, v) = (
            to_mean[0] - a * from_mean[0] + b * from_mean[1],
            to_mean[1] - b * from_mean[0] - a * from_mean[1],
        );
        (a * a + b * b > 1e-12).then_some(Self { a, b, u, v })
    }

    /// Where a point of the crop comes from.
    fn back(self, x: f64, y: f64) -> [f64; 2] {
        let Self { a, b, u, v } = self;
        let (x, y, square) = (x - u, y - v, a * a + b * b);
        [(a * x + b * y) / square, (a * y - b * x) / square]
    }
}

/// The square crop of a face in its usual place, with this side; `None` where the landmarks have no extent or the side is 0.
/// What lies outside the picture is black.
pub fn align(picture: &Picture, landmarks: &Landmarks, side: usize) -> Option<Picture> {
    let similarity = Similarity::to_template(landmarks)?;
    let source = Raster::of(picture);
    let step = SIDE as f64 / side as f64;
    let mut values = Vec::with_capacity(3 * side * side);
    for y in 0..side {
        for x in 0..side {
            let [x, y] = similarity.back(x as f64 * step, y as f64 * step);
            values.extend(source.between(x as f32, y as f32));
        }
    }
    Raster { width: side, height: side, values }.to_picture()
}
