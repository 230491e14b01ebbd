//! How much memory the networks take that a request brings beside its model: adapters, control networks, picture encoders,
//! faces, and CLIP. Told from headers, before anything is bound.
//!
//! An estimate that is meant to be above the truth. What is kept from request to request counts all the same: it may have to
//! be bound. A name that is not there takes nothing; that it is not there is told when its turn comes.

use crate::{
    Precision,
    companions::own_controls,
    config::VaeConfig,
    error::LoadError,
    files::ModelFiles,
    image_prompt::{ImagePromptFile, Sight},
    library::Library,
    precision::{floats, layer_bytes},
    vision::VisionConfig,
    weights::Weights,
};
use pentimento_request::{ControlNetwork, GenerationRequest, Identity, Lora, Task, Texture};
use std::sync::Arc;

/// Bytes of a value in f32.
const F32: u64 = 4;

/// Where a model's requests find what they bring, and what it is bound in.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'a> {
    /// Adapters and control networks that requests may name.
    pub library: &'a dyn Library,
    /// The library's control network for edges, instead of the model's own.
    pub canny: Option<&'a str>,
    /// The same for texture.
    pub tile: Option<&'a str>,
    /// The library's adapter for faces, where a request names none.
    pub face: Option<&'a str>,
    /// Precision of the products.
    pub precision: Precision,
}

/// What a model says of the networks that steer it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Steered {
    /// Parameters of the UNet, of which some adapters make copies.
    unet: u64,
    /// Parameters of its own control networks for edges and for texture.
    controls: [u64; 2],
    /// Bytes that CLIP guidance takes; 0 where it does not guide.
    clip: u64,
}

impl Steered {
    /// Of a model in these files, whose UNet has so many parameters.
    pub(crate) fn of(files: &dyn ModelFiles, unet: u64, clip: u64) -> Result<Self, LoadError> {
        let parameters = |folder: Option<String>| match folder {
            Some(folder) => Ok(Weights::open(files, &folder, "diffusion_pytorch_model")?.summary().0),
            None => Ok(0),
        };
        let [edges, texture] = own_controls(files)?;
        Ok(Self { unet, controls: [parameters(edges)?, parameters(texture)?], clip })
    }

    /// Bytes for all that this request brings.
    pub(crate) fn bytes(&self, request: &GenerationRequest, shelf: Brought) -> u64 {
        let Brought { library, canny, tile, face, precision } = shelf;
        let conditioning = &request.conditioning;
        let acts = |lora: &&Lora| {
            [Some(lora.weight), lora.text_weight].iter().flatten().any(|weight| *weight != 0.0)
        };
        let loras = conditioning.loras.iter().filter(acts);
        let loras = loras.filter_map(|lora| library.lora(&lora.name).ok().flatten());
        let loras = loras.map(|file| {
            // Flavours that cannot run beside a layer make a copy of it, of all layers at most.
            let copies = if file.merges() { self.unet } else { 0 };
            file.length() + layer_bytes(floats(precision), file.parameters()) + layer_bytes(precision, copies)
        });
        let named = |name: &str| library.control(name).ok().flatten().map_or(0, |file| file.parameters());
        let [own_edges, own_texture] = self.controls;
        let controls = conditioning.controls.iter().filter(|control| control.weight > 0.0);
        let controls = controls.map(|control| match &control.network {
            ControlNetwork::Named(name) => named(name),
            ControlNetwork::Canny => canny.map_or(own_edges, named),
        });
        let keeps =
            conditioning.texture == Texture::Kept && matches!(request.task, Task::ImageToImage { .. });
        let texture = if keeps { tile.map_or(own_texture, named) } else { 0 };
        let looks = conditioning.image_prompts.iter().filter(|prompt| prompt.scale > 0.0);
        let looks = looks.filter_map(|prompt| library.image_prompt(&prompt.adapter).ok().flatten());
        let identity = conditioning.identity.as_ref().filter(|identity| identity.scale > 0.0);
        loras.sum::<u64>()
            + layer_bytes(precision, controls.sum::<u64>() + texture)
            + looks.map(|file| file.parameters() * F32).sum::<u64>()
            + identity.map_or(0, |identity| of_face(identity, face, library))
            + conditioning.clip_guidance.map_or(0, |_| self.clip)
    }
}

/// Bytes for a face: the adapter, or the largest that may be meant, and the networks that find it and tell it apart.
fn of_face(identity: &Identity, usual: Option<&str>, library: &dyn Library) -> u64 {
    let names = match identity.adapter.as_deref().or(usual) {
        Some(name) => vec![name.to_owned()],
        None => library.image_prompt_names(),
    };
    let adapters = names.iter().filter_map(|name| library.image_prompt(name).ok().flatten());
    let for_faces = |file: &Arc<ImagePromptFile>| file.sight() != Sight::Pictures;
    let adapter = adapters.filter(for_faces).map(|file| file.parameters() * F32).max();
    // A network's plan holds its weights a second time.
    let networks = library.faces().ok().flatten().map_or(0, |faces| 2 * faces.length());
    adapter.unwrap_or(0) + networks
}

/// Bytes that CLIP guidance takes: the decoder and the picture encoder in f32, each there and back, and the values between
/// their stages. `parameters` are those of the autoencoder and of CLIP.
pub(crate) fn of_clip(parameters: [u64; 2], vae: &VaeConfig, clip: &VisionConfig) -> u64 {
    let [vae_parameters, clip_parameters] = parameters;
    let pixels = (clip.image_size * clip.image_size) as f64;
    let blocks = (vae.layers_per_block + 2) as f64;
    // A level's values are a quarter of those of the level above it; one block holds some more while it runs.
    let levels = vae.block_out_channels.iter().zip(0..);
    let values = levels.map(|(channels, level)| *channels as f64 * blocks / 4f64.powi(level)).sum::<f64>();
    let finest = vae.block_out_channels.first().copied().unwrap_or(1) as f64;
    let between = (pixels * (values + BLOCK * finest)).ceil() as u64;
    F32 * (DECODER * vae_parameters + 2 * clip_parameters + between)
}

/// Maps of the finest level that a block's tape holds.
const BLOCK: f64 = 10.0;

/// How often an autoencoder's weights are counted for its decoder: some twice what that holds, there and back.
const DECODER: u64 = 5;
