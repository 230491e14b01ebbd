//! Which detector a file is, and faces in order.

use crate::{
    Face, error::FaceError, mtcnn::Mtcnn, network::Network, raster::Raster, scrfd::Scrfd, yunet::Yunet,
};
use pentimento_request::{Picture, Size};

/// Longest side at which a picture is searched; larger ones are searched in a smaller copy, and the faces told in the
/// picture's own pixels.
const LONGEST_SIDE: u32 = 1280;

/// Finds faces.
pub struct Detector {
    network: Kind,
}

enum Kind {
    Mtcnn(Box<Mtcnn>),
    Scrfd(Scrfd),
    Yunet(Yunet),
}

impl Detector {
    /// The detector that is always there: MTCNN (Zhang et al. 2016).
    ///
    /// # Errors
    /// Never for the files that are built in; the error names the one that cannot be read.
    pub fn built_in() -> Result<Self, FaceError> {
        Ok(Self { network: Kind::Mtcnn(Box::new(Mtcnn::built_in()?)) })
    }

    /// The detector in an ONNX file, recognised by its outputs: SCRFD with landmarks, or YuNet. `label` is the file's
    /// name in messages.
    ///
    /// # Errors
    /// When the file is damaged or another kind of network.
    pub fn load(file: &[u8], label: &str) -> Result<Self, FaceError> {
        let network = Network::load(file, label)?;
        if Yunet::recognises(&network) {
            return Ok(Self { network: Kind::Yunet(Yunet::new(network)?) });
        }
        Ok(Self { network: Kind::Scrfd(Scrfd::new(network)?) })
    }

    /// In words.
    pub fn name(&self) -> &'static str {
        match &self.network {
            Kind::Mtcnn(_) => "MTCNN",
            Kind::Scrfd(_) => "SCRFD",
            Kind::Yunet(_) => "YuNet",
        }
    }

    /// The faces in a picture, the largest first.
    ///
    /// # Errors
    /// When the network does not give what its kind gives.
    pub fn detect(&self, picture: &Picture) -> Result<Vec<Face>, FaceError> {
        let raster = Raster::of(picture);
        let (raster, scale) = shrunk(raster, picture.size());
        let mut faces = match &self.network {
            Kind::Mtcnn(network) => network.detect(&raster)?,
            Kind::Scrfd(network) => network.detect(&raster)?,
            Kind::Yunet(network) => network.detect(&raster)?,
        };
        faces.iter_mut().for_each(|face| *face = enlarged(face, scale));
        faces.sort_by(|one, other| other.area().total_cmp(&one.area()));
        Ok(faces)
    }
}

/// The raster with at most the longest side, and how often it goes into the picture.
fn shrunk(raster: Raster, size: Size) -> (Raster, f32) {
    let longest = size.width().max(size.height());
    if longest <= LONGEST_SIDE {
        return (raster, 1.0);
    }
    let side = |given: usize| (given * LONGEST_SIDE as usize / longest as usize).max(1);
    let all = [0, 0, raster.width, raster.height];
    let (width, height) = (side(raster.width), side(raster.height));
    (raster.averaged(all, width, height), longest as f32 / LONGEST_SIDE as f32)
}

fn enlarged(face: &Face, scale: f32) -> Face {
    let Face { left, top, right, bottom, score, landmarks } = *face;
    Face {
        left: left * scale,
        top: top * scale,
        right: right * scale,
        bottom: bottom * scale,
        score,
        landmarks: landmarks.map(|point| point.map(|value| value * scale)),
    }
}
