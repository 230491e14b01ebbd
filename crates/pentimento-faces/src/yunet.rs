//! YuNet: class and object scores, boxes and points for each cell of three grids.
//!
//! Shapes: input `[1, 3, H, W]`, blue first, values as they are; outputs named `cls_8` to `kps_32`: `[1, N, 1]`, `[1, N, 1]`,
//! `[1, N, 4]` (centre in strides from the cell, logarithms of the sides) and `[1, N, 10]`.
//! Source: Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector", as OpenCV's `FaceDetectorYN` runs it.

use crate::{
    Face,
    boxes::{Against, Corners, Measure, suppress},
    error::FaceError,
    network::{Network, Output},
    raster::Raster,
    scrfd::sides,
};

/// How sure the network has to be, and how much two faces may overlap (OpenCV's default).
const SURE: f32 = 0.6;
const OVERLAP: f32 = 0.3;

const STRIDES: [usize; 3] = [8, 16, 32];
const KINDS: [(&str, usize); 4] = [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)];

/// A YuNet network.
pub(crate) struct Yunet {
    network: Network,
    /// Width and height; `None` where the network takes any.
    fixed: Option<(usize, usize)>,
    /// Places of `cls`, `obj`, `bbox` and `kps` among the outputs, for each stride.
    places: [[usize; 4]; 3],
}

impl Yunet {
    /// Whether the outputs have YuNet's names.
    pub(crate) fn recognises(network: &Network) -> bool {
        places(network).is_some()
    }

    pub(crate) fn new(network: Network) -> Result<Self, FaceError> {
        let wrong = || network.unsupported("a YuNet of an unknown input: [1, 3, height, width] is expected");
        // 0 is no size: it tells that both sides are free.
        let fixed = match sides(&network, 0) {
            Some((0, 0)) => None,
            Some((height, width)) if height > 0 && width > 0 => Some((width, height)),
            _ => return Err(wrong()),
        };
        let places = places(&network).ok_or_else(wrong)?;
        Ok(Self { network, fixed, places })
    }

    pub(crate) fn detect(&self, picture: &Raster) -> Result<Vec<Face>, FaceError> {
        let (shown, scale) = match self.fixed {
            None => (picture.clone(), 1.0),
            Some((width, height)) => {
                let scale = (width as f64 / picture.width as f64).min(height as f64 / picture.height as f64);
                let side = |length: usize| ((length as f64 * scale) as usize).max(1);
                (picture.interpolated(side(picture.width), side(picture.height)), scale as f32)
            }
        };
        let whole = |length: usize| length.next_multiple_of(32);
        let (width, height) = self.fixed.unwrap_or((whole(shown.width), whole(shown.height)));
        let values = shown.padded(width, height).planes([2, 1, 0], |value| value);
        let outputs = self.network.run([1, 3, height, width], values)?;
        let mut faces = Vec::new();
        for (stride, places) in STRIDES.into_iter().zip(self.places) {
            let level = places.map(|place| &outputs[place]);
            let found = decoded(level, stride, width / stride, height / stride);
            faces.extend(found.ok_or_else(|| self.network.failed("outputs of another shape"))?);
        }
        let kept = thinned(&faces);
        let smaller = |value: f32| value / scale;
        Ok(kept.into_iter().map(|index| mapped(&faces[index], smaller)).collect())
    }
}

fn places(network: &Network) -> Option<[[usize; 4]; 3]> {
    let place = |name: String| network.outputs.iter().position(|output| *output == name);
    let mut places = [[0; 4]; 3];
    for (row, stride) in places.iter_mut().zip(STRIDES) {
        for (slot, (kind, _)) in row.iter_mut().zip(KINDS) {
            *slot = place(format!("{kind}_{stride}"))?;
        }
    }
    Some(places)
}

/// The faces of one grid; `None` where the outputs do not have one row a cell.
fn decoded(level: [&Output; 4], stride: usize, columns: usize, rows: usize) -> Option<Vec<Face>> {
    let [class, object, boxes, points] = level;
    if KINDS.iter().zip(level).any(|((_, size), output)| output.row_count(*size) != columns * rows) {
        return None;
    }
    let scores = class.rows(1)?.zip(object.rows(1)?).map(|(class, object)| {
        let share = |value: f32| value.clamp(0.0, 1.0);
        (share(class[0]) * share(object[0])).sqrt()
    });
    let cells = scores.zip(boxes.rows(4)?).zip(points.rows(10)?).enumerate();
    let size = stride as f32;
    let faces =
        cells.filter(|(_, ((score, _), _))| *score >= SURE).map(|(cell, ((score, sides), points))| {
            let (column, row) = ((cell % columns) as f32, (cell / columns) as f32);
            let (x, y) = ((column + sides[0]) * size, (row + sides[1]) * size);
            let (width, height) = (sides[2].exp() * size, sides[3].exp() * size);
            let (left, top) = (x - width / 2.0, y - height / 2.0);
            let landmark =
                |point: usize| [(points[2 * point] + column) * size, (points[2 * point + 1] + row) * size];
            let landmarks = [0, 1, 2, 3, 4].map(landmark);
            Face { left, top, right: left + width, bottom: top + height, score, landmarks }
        });
    Some(faces.collect())
}

/// OpenCV compares boxes of whole pixels.
fn thinned(faces: &[Face]) -> Vec<usize> {
    let whole = |face: &Face| -> Corners {
        let (left, top) = (face.left.trunc(), face.top.trunc());
        [left, top, left + (face.right - face.left).trunc(), top + (face.bottom - face.top).trunc()]
    };
    let boxes: Vec<Corners> = faces.iter().map(whole).collect();
    let scores: Vec<f32> = faces.iter().map(|face| face.score).collect();
    suppress(&boxes, &scores, Measure { rim: 0.0, against: Against::Union, most: OVERLAP })
}

fn mapped(face: &Face, map: impl Fn(f32) -> f32) -> Face {
    let Face { left, top, right, bottom, score, landmarks } = *face;
    Face {
        left: map(left),
        top: map(top),
        right: map(right),
        bottom: map(bottom),
        score,
        landmarks: landmarks.map(|point| point.map(&map)),
    }
}
