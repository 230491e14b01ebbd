//! The pictures and the face of a request: found by name, looked at, and made into streams.
//!
//! A scale of 0 is the same as not asking: nothing is loaded, and no face is looked for.

use super::{ImagePromptFile, Looked, Shown, Sight};
use crate::{
    conditioning::{unfit, unknown},
    config::{UnetConfig, read_json},
    error::{LoadError, LoadErrorKind},
    files::ModelFiles,
    generate::internal,
    library::Library,
    lora::LoraFile,
    model::Model,
    unet::Stream,
};
use candle_core::{Device, Tensor};
use pentimento_faces::{Detector, Embedder, Face, FaceError, FaceErrorKind, align};
use pentimento_request::{
    ErrorKind, Faces, GenerateError, GenerationRequest, Identity, ImagePrompt, LookReport, Lora, Picture,
};
use std::{fmt, sync::Arc};

/// What finds faces and tells them apart.
pub struct FaceReader {
    detector: Detector,
    embedder: Embedder,
    /// Of the files that it was read from.
    length: u64,
}

impl FaceReader {
    /// A reader of these two networks.
    pub fn new(detector: Detector, embedder: Embedder) -> Self {
        Self { detector, embedder, length: 0 }
    }

    /// Bytes of the files that it was read from.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The networks among the `.onnx` files of a folder: the first detector by name, else the built-in one, and the first
    /// embedder; `None` where there is no embedder.
    ///
    /// # Errors
    /// When a file is neither.
    pub fn open(files: &dyn ModelFiles) -> Result<Option<Self>, LoadError> {
        let (mut detector, mut embedder, mut length) = (None, None, 0);
        for name in files.list("")?.into_iter().filter(|name| name.ends_with(".onnx")) {
            let Some(bytes) = files.read(&name)? else { continue };
            let label = files.describe(&name);
            length += bytes.len() as u64;
            if let Ok(found) = Detector::load(&bytes, &label) {
                detector = detector.or(Some(found));
                continue;
            }
            let found = Embedder::load(&bytes, &label).map_err(unusable)?;
            embedder = embedder.or(Some(found));
        }
        let Some(embedder) = embedder else { return Ok(None) };
        let detector = detector.map_or_else(|| Detector::built_in().map_err(unusable), Ok)?;
        Ok(Some(Self { detector, embedder, length }))
    }

    /// The largest face with its embedding, of length 1.
    fn read(&self, picture: &Picture) -> Result<Option<(Face, Vec<f32>)>, FaceError> {
        let Some(face) = self.detector.detect(picture)?.into_iter().next() else { return Ok(None) };
        let Some(mut embedding) = self.embedder.embed(picture, &face.landmarks)? else { return Ok(None) };
        let length = embedding.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        embedding.iter_mut().for_each(|value| *value /= length);
        Ok(Some((face, embedding)))
    }
}

impl fmt::Debug for FaceReader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "FaceReader({})", self.detector.name())
    }
}

/// Side of the picture of a face that FaceID Plus is shown, as its authors cut it.
const FACE_SIDE: usize = 224;

/// What a request's pictures and face are to the networks.
#[derive(Default)]
pub(crate) struct Looks {
    pub(crate) streams: Vec<Stream>,
    /// The low-rank parts of the adapters.
    pub(crate) loras: Vec<(Lora, Arc<LoraFile>)>,
    /// What was looked at, for the receipt.
    pub(crate) reports: Vec<LookReport>,
}

/// Looks at all that a request shows. `guided`: with both halves. `between` is called before each picture, and its error ends
/// the work.
pub(crate) fn looks(
    model: &Model,
    request: &GenerationRequest,
    guided: bool,
    between: &mut dyn FnMut() -> Result<(), GenerateError>,
) -> Result<Looks, GenerateError> {
    let mut looks = Looks::default();
    for prompt in &request.conditioning.image_prompts {
        if is_asked("image_prompts", prompt.scale)? {
            between()?;
            looks.add_pictures(model, prompt, guided)?;
        }
    }
    if let Some(identity) = &request.conditioning.identity
        && is_asked("identity", identity.scale)?
    {
        between()?;
        looks.add_face(model, request, identity, guided)?;
    }
    Ok(looks)
}

fn is_asked(field: &str, scale: f32) -> Result<bool, GenerateError> {
    match (0.0..=1.0).contains(&scale) {
        true => Ok(scale > 0.0),
        false => Err(invalid(format!("{field}: a scale of {scale} is not possible: it goes from 0 to 1"))),
    }
}

impl Looks {
    fn add_pictures(
        &mut self,
        model: &Model,
        prompt: &ImagePrompt,
        guided: bool,
    ) -> Result<(), GenerateError> {
        let ImagePrompt { adapter, pictures, scale } = prompt;
        let library = &model.options.library;
        let file = library.image_prompt(adapter).map_err(unfit)?.ok_or_else(|| {
            unknown("image_prompts", "picture adapter", adapter, &library.image_prompt_names())
        })?;
        if file.sight() != Sight::Pictures {
            return Err(invalid(format!(
                "image_prompts: '{adapter}' is shown faces, not pictures: use identity"
            )));
        }
        if pictures.is_empty() {
            return Err(invalid(format!("image_prompts: '{adapter}' is shown no picture")));
        }
        let pictures: Vec<_> = pictures.iter().map(|picture| &**picture).collect();
        let looked = file.look(&pictures).map_err(unfit)?;
        let shown: Vec<_> =
            looked.into_iter().map(|picture| Shown { picture: Some(picture), face: None }).collect();
        self.add(model, (adapter, &file), &shown, Vec::new(), *scale, guided)
    }

    fn add_face(
        &mut self,
        model: &Model,
        request: &GenerationRequest,
        identity: &Identity,
        guided: bool,
    ) -> Result<(), GenerateError> {
        let Identity { adapter, faces, scale } = identity;
        let (name, file) = face_adapter(model, adapter.as_deref())?;
        let reader = model.options.library.faces().map_err(unfit)?.ok_or_else(|| {
            let message = "identity: no face embedder here: put an ArcFace file, as w600k_r50.onnx, in the data folder's 'faces'";
            GenerateError::new(ErrorKind::Unsupported, message)
        })?;
        let pictures: Vec<&Picture> = match faces {
            Faces::OfInput => request.task.init().into_iter().map(|init| &**init).collect(),
            Faces::Of(pictures) => pictures.iter().map(|picture| &**picture).collect(),
        };
        if pictures.is_empty() {
            return Err(invalid("identity: there is no picture to find a face in".to_owned()));
        }
        let found =
            pictures.iter().map(|picture| face_in(&reader, picture)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = match file.sight() {
            Sight::FacesAndPictures => seen_faces(&file, &pictures, &found)?.into_iter().map(Some).collect(),
            Sight::Pictures | Sight::Faces => Vec::new(),
        };
        seen.resize_with(found.len(), || None);
        let (mut shown, mut boxes) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        for ((face, embedding), picture) in found.into_iter().zip(seen) {
            let width = embedding.len();
            let embedding = Tensor::from_vec(embedding, (1, width), &Device::Cpu).map_err(internal)?;
            shown.push(Shown { picture, face: Some(embedding) });
            boxes.push([face.left, face.top, face.right, face.bottom].map(|edge| edge.round() as i32));
        }
        if let Some(low_rank) = file.low_rank(model.unet_config()).map_err(unfit)? {
            let lora = Lora { name: name.clone(), weight: 1.0, text_weight: None };
            self.loras.push((lora, Arc::new(low_rank)));
        }
        self.add(model, (&name, &file), &shown, boxes, *scale, guided)
    }

    fn add(
        &mut self,
        model: &Model,
        (name, file): (&str, &ImagePromptFile),
        shown: &[Shown],
        faces: Vec<[i32; 4]>,
        scale: f32,
        guided: bool,
    ) -> Result<(), GenerateError> {
        let stream = file.stream(model.unet_config(), shown, guided, f64::from(scale)).map_err(unfit)?;
        self.streams.push(stream);
        let (name, hash) = (name.to_owned(), file.hash().to_owned());
        self.reports.push(LookReport { name, hash, scale, pictures: shown.len(), faces });
        Ok(())
    }
}

fn face_in(reader: &FaceReader, picture: &Picture) -> Result<(Face, Vec<f32>), GenerateError> {
    reader.read(picture).map_err(unreadable)?.ok_or_else(|| {
        let message = format!("identity: no face was found in a picture of {}", picture.size());
        GenerateError::new(ErrorKind::NoFace, message)
    })
}

/// The faces as FaceID Plus is shown them.
fn seen_faces(
    file: &ImagePromptFile,
    pictures: &[&Picture],
    found: &[(Face, Vec<f32>)],
) -> Result<Vec<Looked>, GenerateError> {
    let cut = |(picture, (face, _)): (&&Picture, &(Face, Vec<f32>))| {
        align(picture, &face.landmarks, FACE_SIDE).ok_or_else(|| {
            GenerateError::new(ErrorKind::NoFace, "identity: the landmarks of a face have no extent")
        })
    };
    let crops = pictures.iter().zip(found).map(cut).collect::<Result<Vec<_>, _>>()?;
    file.look(&crops.iter().collect::<Vec<_>>()).map_err(unfit)
}

/// Whether faces can be shown to the model in these files: with the adapter of this name, or any that was made for it. What
/// is there and cannot be read counts, so that whoever asks is told what is wrong with it.
pub fn shows_faces(files: &dyn ModelFiles, library: &dyn Library, named: Option<&str>) -> bool {
    if matches!(library.faces(), Ok(None)) {
        return false;
    }
    if let Some(name) = named {
        return !matches!(library.image_prompt(name), Ok(None));
    }
    let Ok(unet) = read_json::<UnetConfig>(files, "unet/config.json") else { return false };
    first_for_faces(library, &unet).is_some()
}

/// The first adapter for faces, by name, that was made for networks of these layers.
fn first_for_faces(library: &dyn Library, unet: &UnetConfig) -> Option<(String, Arc<ImagePromptFile>)> {
    library.image_prompt_names().into_iter().find_map(|name| {
        // What cannot be read is another adapter's misfortune; it is told when it is asked for by name.
        let file = library.image_prompt(&name).ok().flatten()?;
        (file.sight() != Sight::Pictures && file.fits(unet)).then_some((name, file))
    })
}

/// The adapter of this name, or the first one for faces, by name, that was made for this model.
fn face_adapter(
    model: &Model,
    wanted: Option<&str>,
) -> Result<(String, Arc<ImagePromptFile>), GenerateError> {
    let library = &model.options.library;
    if let Some(name) = wanted.or(model.options.face.as_deref()) {
        let file = library.image_prompt(name).map_err(unfit)?;
        let file =
            file.ok_or_else(|| unknown("identity", "face adapter", name, &library.image_prompt_names()))?;
        if file.sight() == Sight::Pictures {
            let message = format!("identity: '{name}' is shown pictures, not faces: use image_prompts");
            return Err(invalid(message));
        }
        return Ok((name.to_owned(), file));
    }
    if let Some(found) = first_for_faces(&**library, model.unet_config()) {
        return Ok(found);
    }
    let message = format!(
        "identity: there is no FaceID adapter for the model '{}'; its scale has to be 0",
        model.options.name
    );
    Err(GenerateError::new(ErrorKind::Unsupported, message))
}

fn invalid(message: String) -> GenerateError {
    GenerateError::new(ErrorKind::InvalidRequest, message)
}

fn unusable(error: FaceError) -> LoadError {
    LoadError::new(LoadErrorKind::Unsupported, error.to_string())
}

/// A face network that cannot be used, or that failed.
fn unreadable(error: FaceError) -> GenerateError {
    let kind = match error.kind() {
        FaceErrorKind::Failed => ErrorKind::Internal,
        _ => ErrorKind::Unsupported,
    };
    GenerateError::new(kind, format!("identity: {error}"))
}
