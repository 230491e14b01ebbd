//! SCRFD: scores, distances to the four sides and to five points, for two anchors in each cell of three grids.
//!
//! Shapes: input `[1, 3, S, S]`, red first, `(v − 127.5) / 128`, the picture in the upper left corner; outputs for the
//! strides 8, 16 and 32: three of scores `[N, 1]`, three of distances `[N, 4]`, three of points `[N, 10]`, all in strides.
//! Source: Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection", as InsightFace runs it.

use crate::{
    Face, Landmarks,
    boxes::{Against, Corners, Measure, suppress},
    error::FaceError,
    network::Network,
    raster::Raster,
};

/// Side at which networks without a size of their own run (InsightFace's `det_size`).
const SIDE: usize = 640;

/// How sure the network has to be, and how much two faces may overlap (InsightFace's defaults).
const SURE: f32 = 0.5;
const OVERLAP: f32 = 0.4;

const STRIDES: [usize; 3] = [8, 16, 32];

/// An SCRFD network.
pub(crate) struct Scrfd {
    network: Network,
    width: usize,
    height: usize,
}

impl Scrfd {
    /// Accepts a network of three inputs' colours and nine outputs.
    pub(crate) fn new(network: Network) -> Result<Self, FaceError> {
        let unknown = "no detector of a known kind: SCRFD files have nine outputs (with landmarks), YuNet files \
                       outputs named cls_8 to kps_32";
        let (height, width) = sides(&network, SIDE).ok_or_else(|| network.unsupported(unknown))?;
        if network.outputs.len() == 6 {
            return Err(network.unsupported(
                "an SCRFD without landmarks, which alignment needs: take a file of nine outputs",
            ));
        }
        if network.outputs.len() != 9 {
            return Err(network.unsupported(unknown));
        }
        Ok(Self { network, width, height })
    }

    pub(crate) fn detect(&self, picture: &Raster) -> Result<Vec<Face>, FaceError> {
        let scale =
            (self.width as f64 / picture.width as f64).min(self.height as f64 / picture.height as f64);
        let side = |length: usize| ((length as f64 * scale) as usize).max(1);
        let shown = picture.interpolated(side(picture.width), side(picture.height));
        let values = shown.padded(self.width, self.height).planes([0, 1, 2], |value| (value - 127.5) / 128.0);
        let outputs = self.network.run([1, 3, self.height, self.width], values)?;
        let mut faces = Vec::new();
        for (index, stride) in STRIDES.into_iter().enumerate() {
            let level = [&outputs[index], &outputs[index + 3], &outputs[index + 6]];
            let (columns, rows) = (self.width / stride, self.height / stride);
            let wrong = || self.network.failed("outputs of another shape");
            // Two anchors a cell, behind one another.
            if level[0].row_count(1) != 2 * columns * rows {
                return Err(wrong());
            }
            let scores = level[0].rows(1).ok_or_else(wrong)?;
            let sides = level[1].rows(4).ok_or_else(wrong)?;
            let points = level[2].rows(10).ok_or_else(wrong)?;
            for (anchor, ((score, sides), points)) in scores.zip(sides).zip(points).enumerate() {
                if score[0] >= SURE {
                    let cell = anchor / 2;
                    let centre = [(cell % columns * stride) as f32, (cell / columns * stride) as f32];
                    faces.push(face(centre, stride as f32, score[0], sides, points, scale as f32));
                }
            }
        }
        let boxes: Vec<Corners> =
            faces.iter().map(|face| [face.left, face.top, face.right, face.bottom]).collect();
        let scores: Vec<f32> = faces.iter().map(|face| face.score).collect();
        let kept = suppress(&boxes, &scores, Measure { rim: 1.0, against: Against::Union, most: OVERLAP });
        Ok(kept.into_iter().map(|index| faces[index]).collect())
    }
}

/// Height and width of a network that takes one picture of three colours; `usual` where they are free.
pub(crate) fn sides(network: &Network, usual: usize) -> Option<(usize, usize)> {
    let [batch, Some(3), height, width] = network.input.as_slice() else { return None };
    // Some exporters write -1 or 0 for a size that is free.
    let side = |side: &Option<usize>| match side {
        None | Some(0) => Some(usual),
        Some(side) if side.is_multiple_of(32) && *side <= 2048 => Some(*side),
        Some(_) => None,
    };
    matches!(batch, None | Some(0 | 1)).then_some((side(height)?, side(width)?))
}

fn face(centre: [f32; 2], stride: f32, score: f32, sides: &[f32], points: &[f32], scale: f32) -> Face {
    let landmarks: Landmarks = [0, 1, 2, 3, 4]
        .map(|point| [0, 1].map(|axis| (centre[axis] + points[2 * point + axis] * stride) / scale));
    Face {
        left: (centre[0] - sides[0] * stride) / scale,
        top: (centre[1] - sides[1] * stride) / scale,
        right: (centre[0] + sides[2] * stride) / scale,
        bottom: (centre[1] + sides[3] * stride) / scale,
        score,
        landmarks,
    }
}
