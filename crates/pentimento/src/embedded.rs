//! The default model, as part of the binary, with the notices that have to travel with it.

use pentimento_diffusion::Embedded;

/// The files of `models/default`.
pub(crate) const DEFAULT_MODEL: Embedded = Embedded(&[
    embed!("controlnet-canny/config.json"),
    embed!("controlnet-canny/diffusion_pytorch_model.safetensors"),
    embed!("loras/pastel.safetensors"),
    embed!("loras/pencil.safetensors"),
    embed!("loras/plaster.safetensors"),
    embed!("model_index.json"),
    embed!("scheduler/scheduler_config.json"),
    embed!("text_encoder/config.json"),
    embed!("text_encoder/model.safetensors"),
    embed!("tokenizer/merges.txt"),
    embed!("tokenizer/special_tokens_map.json"),
    embed!("tokenizer/tokenizer_config.json"),
    embed!("tokenizer/vocab.json"),
    embed!("unet/config.json"),
    embed!("unet/diffusion_pytorch_model.safetensors"),
    embed!("vae/config.json"),
    embed!("vae/diffusion_pytorch_model.safetensors"),
]);

/// Licence, attributions and the full texts that they refer to, in this order; then those of the engine's own
/// tokenizer and of the face detector.
pub(crate) const NOTICES: [&str; 8] = [
    include_str!("../../../models/default/LICENSE.md"),
    include_str!("../../../models/default/ATTRIBUTION.md"),
    include_str!("../../../models/default/licences/fluent-emoji-MIT.txt"),
    include_str!("../../../models/default/licences/emojibase-MIT.txt"),
    include_str!("../../../models/default/licences/APACHE-2.0.txt"),
    pentimento_diffusion::NOTICE,
    include_str!("../../../models/faces/mtcnn/ATTRIBUTION.md"),
    include_str!("../../../models/faces/mtcnn/LICENSE.txt"),
];

/// A file of `models/default` with its path in the model.
macro_rules! embed {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../../../models/default/", $path)) as &[u8])
    };
}
use embed;
