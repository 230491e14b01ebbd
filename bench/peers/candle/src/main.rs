//! candle's stock Stable Diffusion 1.5 as a resident peer, in f32: runs a stage whenever a line asks for it, and answers
//! with the seconds it took.
//!
//!     pentimento-peer-candle FOLDER
//!
//! FOLDER comes from `make.py`. The lines are those of `peer.py`: `unet_step`, `vae_decode`, `vae_encode`, `memory`, and
//! `out`, which writes FOLDER/candle-f32.safetensors.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Tensor, safetensors};
use candle_transformers::models::stable_diffusion::StableDiffusionConfig;
use candle_transformers::models::stable_diffusion::unet_2d::UNet2DConditionModel;
use candle_transformers::models::stable_diffusion::vae::AutoEncoderKL;

const DEVICE: Device = Device::Cpu;
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

struct Peer {
    folder: PathBuf,
    config: StableDiffusionConfig,
    unet: Option<UNet2DConditionModel>,
    vae: Option<AutoEncoderKL>,
}

impl Peer {
    fn new(folder: PathBuf) -> Self {
        Self { folder, config: StableDiffusionConfig::v1_5(None, None, None), unet: None, vae: None }
    }

    fn unet_step(&mut self) -> Result<Tensor> {
        let inputs = safetensors::load(self.folder.join("inputs.safetensors"), &DEVICE)?;
        let input = |name: &str| inputs.get(name).with_context(|| format!("no {name} in the inputs"));
        let timestep = f64::from(input("timestep")?.to_vec1::<f32>()?[0]);
        let unet = match &mut self.unet {
            Some(unet) => unet,
            empty => {
                let weights = self.folder.join("model/unet").join(WEIGHTS);
                empty.insert(self.config.build_unet(weights, &DEVICE, 4, false, DType::F32)?)
            }
        };
        Ok(unet.forward(input("sample")?, timestep, input("context")?)?)
    }

    fn vae(&mut self) -> Result<&AutoEncoderKL> {
        Ok(match &mut self.vae {
            Some(vae) => vae,
            empty => {
                let weights = self.folder.join("model/vae").join(WEIGHTS);
                empty.insert(self.config.build_vae(weights, &DEVICE, DType::F32)?)
            }
        })
    }

    fn run(&mut self, stage: &str) -> Result<Tensor> {
        match stage {
            "unet_step" => self.unet_step(),
            "vae_decode" => {
                let latents = Tensor::randn(0f32, 1., (1, 4, 64, 64), &DEVICE)?;
                Ok(self.vae()?.decode(&latents)?)
            }
            "vae_encode" => {
                let pixels = Tensor::randn(0f32, 1., (1, 3, 512, 512), &DEVICE)?;
                Ok(self.vae()?.encode(&pixels)?.sample()?)
            }
            other => bail!("candle's peer has no {other}"),
        }
    }
}

/// The most memory that this process has held, in bytes.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    Ok(kibibytes.context("no peak in the process's status")?.parse::<u64>()? * 1024)
}

fn save(out: Tensor, goal: &Path) -> Result<()> {
    Ok(safetensors::save(&HashMap::from([("out", out)]), goal)?)
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("give the folder that make.py wrote")?);
    let mut peer = Peer::new(folder);
    let mut warm = HashSet::new();
    for line in io::stdin().lock().lines() {
        let asked = line?;
        let answer = match asked.trim() {
            "memory" => peak()?.to_string(),
            "out" => {
                save(peer.unet_step()?, &peer.folder.join("candle-f32.safetensors"))?;
                "0".to_owned()
            }
            stage => {
                // The first run also reads the weights, and is not counted.
                if warm.insert(stage.to_owned()) {
                    peer.run(stage)?;
                }
                let start = Instant::now();
                peer.run(stage)?;
                start.elapsed().as_secs_f64().to_string()
            }
        };
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}
