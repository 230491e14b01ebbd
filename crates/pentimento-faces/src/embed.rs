//! Who a face is: 512 numbers from an aligned crop.
//!
//! Shapes: `[N, 3, 112, 112]`, red first, `(v − 127.5) / 127.5`, to `[N, 512]`.
//! Source: Deng et al. 2019 (ArcFace), as InsightFace runs its recognition networks.

use crate::{Landmarks, align, align::SIDE, error::FaceError, network::Network, raster::Raster};
use pentimento_request::Picture;

/// Length of an embedding.
const WIDTH: usize = 512;

/// An ArcFace-type network.
pub struct Embedder {
    network: Network,
}

impl Embedder {
    /// The network in an ONNX file, as InsightFace names them (`w600k_r50.onnx`, `glintr100.onnx`). `label` is the file's
    /// name in messages.
    ///
    /// # Errors
    /// When the file is damaged, or does not make 512 numbers of a crop of 112×112 pixels.
    pub fn load(file: &[u8], label: &str) -> Result<Self, FaceError> {
        let network = Network::load(file, label)?;
        let free = |size: &Option<usize>, wanted: usize| size.is_none_or(|size| size == wanted);
        let fits = match network.input.as_slice() {
            [_, colours, height, width] => free(colours, 3) && free(height, SIDE) && free(width, SIDE),
            _ => false,
        };
        if !fits || network.outputs.len() != 1 {
            return Err(network.unsupported("no face embedder: [N, 3, 112, 112] to one output is expected"));
        }
        let embedder = Self { network };
        // A grey crop shows whether the output is what it should be, before a request depends on it.
        embedder.run(vec![0.0; 3 * SIDE * SIDE])?;
        Ok(embedder)
    }

    /// The numbers of the face with these landmarks; `None` where the landmarks have no extent. As the network gives
    /// them: not brought to length 1.
    ///
    /// # Errors
    /// When the network does not give what its kind gives.
    pub fn embed(&self, picture: &Picture, landmarks: &Landmarks) -> Result<Option<Vec<f32>>, FaceError> {
        let Some(crop) = align(picture, landmarks, SIDE) else { return Ok(None) };
        self.embed_aligned(&crop).map(Some)
    }

    /// The numbers of a crop of 112×112 pixels.
    pub(crate) fn embed_aligned(&self, crop: &Picture) -> Result<Vec<f32>, FaceError> {
        self.run(Raster::of(crop).planes([0, 1, 2], |value| (value - 127.5) / 127.5))
    }

    fn run(&self, values: Vec<f32>) -> Result<Vec<f32>, FaceError> {
        let outputs = self.network.run([1, 3, SIDE, SIDE], values)?;
        match outputs.into_iter().next() {
            Some(output) if output.values.len() == WIDTH => {
                if output.values.iter().any(|value| !value.is_finite()) {
                    return Err(self.network.failed("the embedding holds values that are no numbers"));
                }
                Ok(output.values)
            }
            _ => Err(self.network.unsupported("no face embedder of 512 numbers")),
        }
    }
}
