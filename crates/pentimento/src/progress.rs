//! What a user sees and gets while a picture is drawn: a bar on a terminal, a preview file, and a way to
//! break off.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pentimento_imaging::{Format, encode, resize};
use pentimento_request::{Cancel, Picture, Progress, Size, Stage, StepReport};
use std::{
    io::{self, IsTerminal},
    ops::ControlFlow,
    path::PathBuf,
    time::Duration,
};

/// Pixels of a preview per latent cell: Stable Diffusion's latents are 8 times smaller than its pictures.
const CELL: u32 = 8;

/// The listener of `pentimento generate`.
pub(crate) struct Screen {
    cancel: Cancel,
    bar: Option<ProgressBar>,
    preview: Option<PathBuf>,
    preview_error: Option<String>,
}

impl Screen {
    /// A listener that obeys `cancel`. It draws a bar if standard error is a terminal and the user did not
    /// ask for quiet.
    pub(crate) fn new(cancel: Cancel, quiet: bool, preview: Option<PathBuf>) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.set_style(waiting());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { cancel, bar, preview, preview_error: None }
    }

    /// Takes the bar away, and answers why previews could not be written, if so.
    pub(crate) fn finish(self) -> Option<String> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.preview_error
    }

    fn write_preview(&mut self, report: &StepReport<'_>) {
        let (None, Some(path)) = (&self.preview_error, &self.preview) else { return };
        let Some(small) = (report.preview)() else { return };
        let written = encode(&enlarged(&small), Format::Png, None)
            .map_err(anyhow::Error::from)
            .and_then(|png| output::write(path, &png));
        self.preview_error = written.err().map(|error| format!("{error:#}"));
    }
}

impl Progress for Screen {
    fn switch(&self) -> Option<Cancel> {
        Some(self.cancel.clone())
    }

    fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_style(waiting());
            bar.set_message(words(stage));
        }
        self.cancel.flow()
    }

    fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            bar.set_style(stepping());
            bar.set_length(report.of as u64);
            bar.set_position(report.step as u64);
        }
        self.write_preview(report);
        self.cancel.flow()
    }
}

/// The preview at the size of the picture it announces.
fn enlarged(small: &Picture) -> Picture {
    let size = Size::new(small.size().width() * CELL, small.size().height() * CELL);
    size.map_or_else(|_| small.clone(), |size| resize(small, size))
}

const fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Load => "loading the model",
        Stage::Text => "reading the prompt",
        Stage::Encode => "looking at the picture",
        Stage::Sample => "drawing",
        Stage::Decode => "developing the picture",
        Stage::Check => "checking the picture",
    }
}

fn waiting() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}  {elapsed}").expect("the template is right")
}

fn stepping() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}  [{bar:30}] {pos}/{len} steps  {elapsed}, {eta} left")
        .expect("the template is right")
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::Channels;

    #[test]
    fn previews_are_written_after_each_step_and_cancelling_breaks_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("preview.png");
        let cancel = Cancel::default();
        let mut screen = Screen::new(cancel.clone(), true, Some(path.clone()));
        let size = Size::new(2, 1).expect("a size");
        let preview = || Picture::new(size, Channels::Rgb, vec![7; 6]).ok();
        let report = StepReport { step: 1, of: 2, preview: &preview };
        assert!(screen.step(&report).is_continue());
        let png = std::fs::read(&path).expect("it is there");
        let limits = pentimento_imaging::Limits { bytes: 10_000, pixels: 1_000 };
        let seen = pentimento_imaging::decode(&png, &limits).expect("a picture");
        assert_eq!(seen.size().to_string(), "16x8");
        cancel.cancel();
        assert!(screen.step(&report).is_break() && screen.stage(Stage::Decode).is_break());
        assert_eq!(screen.finish(), None);
    }
}
