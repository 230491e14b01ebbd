//! Gaussian noise as `torch.randn` draws it: the same seed gives the same picture as the reference. And numbers by chance that take
//! nothing from its stream.

mod mersenne;
mod philox;

use crate::error::Result;
use candle_core::{Device, Tensor};
use mersenne::TorchCpu;
use pentimento_request::NoiseSource;
use philox::Philox;
pub(crate) use philox::quarter;

/// A stream of draws from one seed. Nothing else in the engine is random.
#[derive(Clone)]
pub(crate) struct Noise {
    stream: Stream,
}

#[derive(Clone)]
enum Stream {
    // Its state is large beside the other's.
    TorchCpu(Box<TorchCpu>),
    Philox(Philox),
}

impl Noise {
    /// The stream of this seed.
    pub(crate) fn new(source: NoiseSource, seed: u64) -> Self {
        let stream = match source {
            NoiseSource::TorchCpu => Stream::TorchCpu(Box::new(TorchCpu::new(seed))),
            NoiseSource::Philox => Stream::Philox(Philox::new(seed)),
        };
        Self { stream }
    }

    /// Standard normal values of this shape.
    pub(crate) fn draw(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        let values = match &mut self.stream {
            Stream::TorchCpu(stream) => stream.draw(count),
            Stream::Philox(stream) => stream.draw(count),
        };
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}
