//! Everything that is wrong with a model's files, instead of the first thing only.
//!
//! The networks are bound as for drawing, on weights that note a fault and go on: what is looked for is what drawing needs,
//! and no list of tensors is kept beside the networks.

use super::{
    Configs, LoadError, Model, ModelFiles, NoiseSchedule, PartWeights, Precision, Unet, Vae, Weights,
    bind_texts, tokenizers,
};
use crate::{faults::Faults, filter::ContentFilter, weights::Scope};

/// What was found in a model's files.
#[derive(Clone, Debug)]
pub struct Verification {
    /// What is wrong, in the order in which it was met; nothing where the model can be used.
    pub faults: Vec<String>,
    /// Tensors that drawing needs and that were looked at.
    pub tensors: u64,
    /// SHA-256 over the weights as receipts show it, where all files can be read.
    pub hash: Option<String>,
}

impl Model {
    /// Reads everything that drawing needs: whether it is there, has the right shapes, and consists of numbers.
    pub fn verify(files: &dyn ModelFiles) -> Verification {
        let faults = Faults::default();
        let hash = look_through(files, &faults).map_err(|error| faults.note(&error)).ok();
        let (faults, tensors) = faults.told();
        Verification { faults, tensors, hash }
    }
}

fn look_through(files: &dyn ModelFiles, faults: &Faults) -> Result<String, LoadError> {
    let configs = Configs::read(files)?;
    let noted = |result: Result<(), LoadError>| result.unwrap_or_else(|error| faults.note(&error));
    noted(configs.check());
    noted(NoiseSchedule::new(&configs.scheduler, &configs.labels.scheduler).map(drop));
    for part in configs.class.text_parts() {
        noted(Weights::open(files, part.encoder, "model").map(drop));
    }
    for part in ["unet", "vae"] {
        noted(Weights::open(files, part, "diffusion_pytorch_model").map(drop));
    }
    let tokenizers = tokenizers(files, configs.class);
    let weights = PartWeights::open(files, configs.class)?.noting(faults);
    // The smaller precision needs half the memory, and each part goes before the next one comes.
    let precision = Precision::Bf16;
    match (bind_texts(&configs, &weights, precision, None, None), &tokenizers) {
        (Ok(text), Ok(tokenizers)) => {
            for (tower, part) in text.towers(tokenizers).iter().zip(configs.class.text_parts()) {
                noted(tower.check_vocabulary(&files.describe(&format!("{}/vocab.json", part.tokenizer))));
            }
        }
        (text, _) => noted(text.map(drop)),
    }
    noted(tokenizers.map(drop));
    noted(Unet::load(&Scope::root(&weights.unet, precision), &configs.unet, &configs.labels.unet).map(drop));
    noted(Vae::load(&Scope::root(&weights.vae, precision), &configs.vae, &configs.labels.vae).map(drop));
    if let Some(filter) = ContentFilter::find(files)? {
        noted(filter.checker().map(drop).map_err(|error| LoadError::new(error.kind(), error.to_string())));
    }
    weights.hash()
}
