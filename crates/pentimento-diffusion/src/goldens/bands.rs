//! Pictures that are encoded and decoded in bands against the same at once.

use super::{against, assert_close, f32_root, part};
use crate::{
    config::VaeConfig,
    noise::Noise,
    vae::{Budget, Encoded, Vae},
};
use candle_core::Tensor;
use pentimento_request::NoiseSource;

/// More than any of these pictures needs.
const AT_ONCE: Budget = Budget::of(1 << 30);

/// So little that bands are as low as they get.
const IN_BANDS: Budget = Budget::of(1 << 12);

/// The largest difference that the order of sums makes, in deviations of the whole picture's values: of the norms' sums,
/// and of Winograd's tiles, which begin elsewhere in a band. A byte of a picture is some 1e-2 of them.
const TOLERANCE: f64 = 3e-5;

/// Height and width in latent cells, and a model: odd ones, so that bands do not come out even.
const CASES: [(&str, usize, usize); 3] = [("tiny-sd15", 37, 9), ("default", 19, 11), ("tiny-taesd", 131, 5)];

fn random(shape: [usize; 4]) -> Tensor {
    Noise::new(NoiseSource::TorchCpu, 3).draw(&shape).expect("noise")
}

fn seen(encoded: Encoded) -> Tensor {
    match encoded {
        Encoded::Posterior { mean, log_variance } => Tensor::cat(&[mean, log_variance], 1).expect("both"),
        Encoded::Latents(latents) => latents,
    }
}

#[test]
fn bands_leave_no_seam() {
    against("whole layers at once", "autoencoders in bands of rows");
    for (model, height, width) in CASES {
        let (config, weights) = part::<VaeConfig>(model, "vae", "diffusion_pytorch_model");
        let vae = Vae::load(&f32_root(&weights), &config, model).expect("an autoencoder");
        let latents = (random([1, 4, height, width]) * 0.2).expect("latents");
        let decode = |budget| vae.decode_within(&latents, budget).expect("pixels");
        assert_close(model, &decode(IN_BANDS), &decode(AT_ONCE), TOLERANCE);
        let pixels = random([1, 3, 8 * height, 8 * width]);
        let encode = |budget| seen(vae.encode_within(&pixels, budget).expect("latents"));
        assert_close(model, &encode(IN_BANDS), &encode(AT_ONCE), TOLERANCE);
    }
}
