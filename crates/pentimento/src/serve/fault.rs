//! Kernels that panic when they are told to, in builds with debug assertions: tests see with them what callers are answered.
//!
//! `PENTIMENTO_TEST_PANICS=1,3` lets a kernel's task panic while the first and the third picture are drawn.

use pentimento_request::{
    Cancel, GenerateError, GeneratedImage, GenerationRequest, Generator, Progress, Stage, StepReport,
};
use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Tasks of the first step before the panic: far enough to lie inside of the network.
const TASKS: usize = 20;

/// The generator itself, or one whose kernels panic in these pictures.
pub(super) fn told_to_panic(generator: Arc<dyn Generator>) -> Arc<dyn Generator> {
    let Ok(pictures) = std::env::var("PENTIMENTO_TEST_PANICS") else { return generator };
    let pictures = pictures.split(',').filter_map(|number| number.parse().ok()).collect();
    Arc::new(Faulty { generator, pictures, begun: AtomicUsize::new(0) })
}

struct Faulty {
    generator: Arc<dyn Generator>,
    pictures: Vec<usize>,
    begun: AtomicUsize,
}

impl Generator for Faulty {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if self.pictures.contains(&number) {
            return self.generator.generate(request, &mut Arming(progress));
        }
        self.generator.generate(request, progress)
    }

    fn admit(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        self.generator.admit(request)
    }
}

/// Passes everything on, and lets a task panic once the steps begin.
struct Arming<'a>(&'a mut dyn Progress);

impl Progress for Arming<'_> {
    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        if stage == Stage::Sample {
            pentimento_kernels::panic_in_task(TASKS);
        }
        self.0.stage(stage)
    }

    fn part(&mut self) -> ControlFlow<()> {
        self.0.part()
    }

    fn switch(&self) -> Option<Cancel> {
        self.0.switch()
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        self.0.step(report)
    }
}
