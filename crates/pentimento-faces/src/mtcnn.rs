//! MTCNN: three networks, each looking closer at what the one before it proposed.
//!
//! Shapes: the networks take `[N, x, y, 3]`, pictures lying on their side as their authors' MATLAB does it, and values
//! `(v − 127.5) / 128`. The first one runs over the whole picture at several scales and answers for each cell of two pixels
//! whether a face of twelve pixels lies there; the second and third see single squares of 24 and 48 pixels.
//! Source: Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks";
//! thresholds and roundings as in facenet-pytorch, whose boxes and points these are.

use crate::{
    Face,
    boxes::{Against, Corners, Measure, suppress},
    error::FaceError,
    network::{Network, Output},
    raster::Raster,
};

/// Smallest face that is looked for, in pixels; in pictures whose shorter side is above 480 pixels, a 24th of it.
const SMALLEST: usize = 20;
const SMALLEST_SHARE: usize = 24;

/// Ratio of two neighbouring scales (half the area).
const SCALE_RATIO: f64 = 0.709;

/// How sure the three networks have to be.
const SURE: [f32; 3] = [0.6, 0.7, 0.7];

/// Squares that are looked at together, which bounds memory.
const BATCH: usize = 256;

/// Proposals that go on to the second network at most, the best ones; a picture of a crowd has a few hundred.
const MOST_PROPOSALS: usize = 4096;

/// The three networks.
pub(crate) struct Mtcnn {
    propose: Network,
    refine: Network,
    output: Network,
}

/// A rectangle that may hold a face.
#[derive(Clone, Copy)]
struct Proposal {
    corners: Corners,
    score: f32,
    /// How the network would move the corners, in sides of the rectangle.
    moves: [f32; 4],
}

impl Mtcnn {
    pub(crate) fn built_in() -> Result<Self, FaceError> {
        Ok(Self {
            propose: Network::load(
                include_bytes!("../../../models/faces/mtcnn/pnet.onnx"),
                "embedded:pnet.onnx",
            )?,
            refine: Network::load(
                include_bytes!("../../../models/faces/mtcnn/rnet.onnx"),
                "embedded:rnet.onnx",
            )?,
            output: Network::load(
                include_bytes!("../../../models/faces/mtcnn/onet.onnx"),
                "embedded:onet.onnx",
            )?,
        })
    }

    pub(crate) fn detect(&self, picture: &Raster) -> Result<Vec<Face>, FaceError> {
        let squares = self.proposed(picture)?;
        let squares = self.refined(picture, &squares)?;
        self.finished(picture, &squares)
    }

    /// Squares from the first network at all scales.
    fn proposed(&self, picture: &Raster) -> Result<Vec<Corners>, FaceError> {
        let shorter = picture.width.min(picture.height);
        let first = 12.0 / SMALLEST.max(shorter / SMALLEST_SHARE) as f64;
        let mut found = Vec::new();
        let mut scale = first;
        while shorter as f64 * scale >= 12.0 {
            found.extend(self.proposed_at(picture, scale)?);
            scale *= SCALE_RATIO;
        }
        let kept = thinned(&found, Measure { rim: 0.0, against: Against::Union, most: 0.7 });
        Ok(kept.iter().take(MOST_PROPOSALS).map(|proposal| square(&moved(proposal, 0.0))).collect())
    }

    fn proposed_at(&self, picture: &Raster, scale: f64) -> Result<Vec<Proposal>, FaceError> {
        let side = |length: usize| (length as f64 * scale + 1.0) as usize;
        let (width, height) = (side(picture.width), side(picture.height));
        let small = picture.averaged([0, 0, picture.width, picture.height], width, height);
        let outputs = self.propose.run([1, width, height, 3], lying(&small))?;
        let [moves, sure] = outputs.as_slice() else { return Err(self.propose.failed("not two outputs")) };
        let rows = sure.shape.get(2).copied().unwrap_or(1).max(1);
        let wrong = || self.propose.failed("outputs of another shape");
        let pairs = moves.rows(4).ok_or_else(wrong)?.zip(sure.rows(2).ok_or_else(wrong)?);
        let scale = scale as f32;
        let proposals =
            pairs.enumerate().filter(|(_, (_, sure))| sure[1] >= SURE[0]).map(|(cell, (moves, sure))| {
                // The network's picture lies on its side: x is the slow index.
                let (x, y) = ((cell / rows) as f32, (cell % rows) as f32);
                let (left, top) = (((2.0 * x + 1.0) / scale).floor(), ((2.0 * y + 1.0) / scale).floor());
                let (right, bottom) =
                    (((2.0 * x + 12.0) / scale).floor(), ((2.0 * y + 12.0) / scale).floor());
                Proposal { corners: [left, top, right, bottom], score: sure[1], moves: four(moves) }
            });
        let proposals: Vec<Proposal> = proposals.collect();
        Ok(thinned(&proposals, Measure { rim: 0.0, against: Against::Union, most: 0.5 }))
    }

    /// The squares that the second network agrees with, put right.
    fn refined(&self, picture: &Raster, squares: &[Corners]) -> Result<Vec<Corners>, FaceError> {
        let mut found = Vec::new();
        self.look(&self.refine, picture, squares, 24, |corners, outputs, index| {
            let [moves, sure] = outputs else { return None };
            let (moves, score) = (moves.rows(4)?.nth(index)?, sure.rows(2)?.nth(index)?[1]);
            if score > SURE[1] {
                found.push(Proposal { corners, score, moves: four(moves) });
            }
            Some(())
        })?;
        let kept = thinned(&found, Measure { rim: 0.0, against: Against::Union, most: 0.7 });
        Ok(kept.iter().map(|proposal| square(&moved(proposal, 1.0))).collect())
    }

    /// The faces that the third network sees, with their landmarks.
    fn finished(&self, picture: &Raster, squares: &[Corners]) -> Result<Vec<Face>, FaceError> {
        let mut faces = Vec::new();
        self.look(&self.output, picture, squares, 48, |corners, outputs, index| {
            let [moves, points, sure] = outputs else { return None };
            let (moves, score) = (moves.rows(4)?.nth(index)?, sure.rows(2)?.nth(index)?[1]);
            let points = points.rows(10)?.nth(index)?;
            if score > SURE[2] {
                let (width, height) = (corners[2] - corners[0] + 1.0, corners[3] - corners[1] + 1.0);
                let landmark = |point: usize| {
                    [width * points[point] + corners[0] - 1.0, height * points[point + 5] + corners[1] - 1.0]
                };
                let [left, top, right, bottom] = moved(&Proposal { corners, score, moves: four(moves) }, 1.0);
                faces.push(Face {
                    left,
                    top,
                    right,
                    bottom,
                    score,
                    landmarks: [0, 1, 2, 3, 4].map(landmark),
                });
            }
            Some(())
        })?;
        let boxes: Vec<Corners> =
            faces.iter().map(|face| [face.left, face.top, face.right, face.bottom]).collect();
        let scores: Vec<f32> = faces.iter().map(|face| face.score).collect();
        let kept = suppress(&boxes, &scores, Measure { rim: 1.0, against: Against::Smaller, most: 0.7 });
        Ok(kept.into_iter().map(|index| faces[index]).collect())
    }

    /// Shows squares of the picture to a network, and hands each one's outputs to `body`, which answers `None` where
    /// they have another shape than they should.
    fn look(
        &self,
        network: &Network,
        picture: &Raster,
        squares: &[Corners],
        side: usize,
        mut body: impl FnMut(Corners, &[Output], usize) -> Option<()>,
    ) -> Result<(), FaceError> {
        let shown: Vec<(Corners, [usize; 4])> =
            squares.iter().filter_map(|corners| Some((*corners, within(corners, picture)?))).collect();
        for batch in shown.chunks(BATCH) {
            let values =
                batch.iter().flat_map(|(_, rect)| lying(&picture.averaged(*rect, side, side))).collect();
            let outputs = network.run([batch.len(), side, side, 3], values)?;
            for (index, (corners, _)) in batch.iter().enumerate() {
                body(*corners, &outputs, index).ok_or_else(|| network.failed("outputs of another shape"))?;
            }
        }
        Ok(())
    }
}

/// `[x, y, 3]` from `[y, x, 3]`, normalised.
fn lying(raster: &Raster) -> Vec<f32> {
    let mut values = Vec::with_capacity(raster.values.len());
    for x in 0..raster.width {
        for y in 0..raster.height {
            let start = 3 * (y * raster.width + x);
            // 1 / 128
            values.extend(raster.values[start..start + 3].iter().map(|value| (value - 127.5) * 0.007_812_5));
        }
    }
    values
}

fn four(values: &[f32]) -> [f32; 4] {
    [values[0], values[1], values[2], values[3]]
}

fn thinned(proposals: &[Proposal], measure: Measure) -> Vec<Proposal> {
    let boxes: Vec<Corners> = proposals.iter().map(|proposal| proposal.corners).collect();
    let scores: Vec<f32> = proposals.iter().map(|proposal| proposal.score).collect();
    suppress(&boxes, &scores, measure).into_iter().map(|index| proposals[index]).collect()
}

/// The corners where the network would put them; `rim` as in [`Measure`].
fn moved(proposal: &Proposal, rim: f32) -> Corners {
    let Proposal { corners, moves, .. } = proposal;
    let (width, height) = (corners[2] - corners[0] + rim, corners[3] - corners[1] + rim);
    [
        corners[0] + moves[0] * width,
        corners[1] + moves[1] * height,
        corners[2] + moves[2] * width,
        corners[3] + moves[3] * height,
    ]
}

/// The square around the same middle that is as long as the longer side.
fn square(corners: &Corners) -> Corners {
    let (width, height) = (corners[2] - corners[0], corners[3] - corners[1]);
    let side = width.max(height);
    let (left, top) = (corners[0] + width * 0.5 - side * 0.5, corners[1] + height * 0.5 - side * 0.5);
    [left, top, left + side, top + side]
}

/// The pixels of a rectangle, whose corners count from 1, that lie in the picture.
fn within(corners: &Corners, picture: &Raster) -> Option<[usize; 4]> {
    // A cast cuts off fractions and holds numbers beyond the range at its ends.
    let (left, top) = ((corners[0] as i64).max(1) - 1, (corners[1] as i64).max(1) - 1);
    let right = (corners[2] as i64).min(picture.width as i64);
    let bottom = (corners[3] as i64).min(picture.height as i64);
    (right > left && bottom > top).then(|| [left, top, right, bottom].map(|value| value as usize))
}
