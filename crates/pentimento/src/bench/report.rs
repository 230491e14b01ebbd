//! What was measured, as a table and as JSON.

use super::steered::Steered;
use crate::{cli::BenchStage, models};
use clap::ValueEnum;
use pentimento_diffusion::{LayerKind, Precision, Profile, precision_name};
use pentimento_kernels::Isa;
use pentimento_request::Size;
use serde_json::{Map, Value, json};
use std::{fmt::Write, fs, time::Duration};

/// All that was measured in one run.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) size: Size,
    pub(super) precision: Precision,
    pub(super) threads: usize,
    /// GFLOP/s that the register tile reaches on all threads.
    pub(super) peak: f64,
    pub(super) stages: Vec<(String, Measured)>,
    pub(super) steered: Option<Steered>,
    /// From the start of the process to the end of the first UNet step.
    pub(super) cold_start: Option<Duration>,
    /// Bytes.
    pub(super) peak_memory: Option<u64>,
}

/// One stage.
pub(super) struct Measured {
    median: Duration,
    min: Duration,
    runs: usize,
    /// Of the run that took the median.
    profile: Profile,
}

impl Measured {
    /// Of some runs; `None` of none.
    pub(super) fn of(mut profiles: Vec<Profile>) -> Option<Self> {
        profiles.sort_by_key(|profile| profile.took);
        let runs = profiles.len();
        let min = profiles.first()?.took;
        let profile = profiles.into_iter().nth(runs / 2)?;
        Some(Self { median: profile.took, min, runs, profile })
    }

    fn gflops(&self) -> f64 {
        rate(self.profile.flops(), self.median)
    }
}

/// The name of a stage as it is typed.
pub(super) fn name(stage: BenchStage) -> String {
    stage.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Operations per nanosecond.
fn rate(flops: u64, took: Duration) -> f64 {
    flops as f64 / took.as_secs_f64().max(1e-9) * 1e-9
}

/// The processor's name, where the system tells.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let stages = self.stages.iter().map(|(name, measured)| {
            let layers = layers(&measured.profile).map(|(kind, layer)| {
                let of = json!({
                    "s": layer.took.as_secs_f64(), "calls": layer.calls, "gflops": rate(layer.flops, layer.took),
                });
                (kind.name().to_owned(), of)
            });
            let stage = json!({
                "median_s": measured.median.as_secs_f64(),
                "min_s": measured.min.as_secs_f64(),
                "runs": measured.runs,
                "gflop": measured.profile.flops() as f64 * 1e-9,
                "gflops": measured.gflops(),
                "share_of_peak": measured.gflops() / self.peak,
                "layers": layers.collect::<Map<_, _>>(),
            });
            (name.clone(), stage)
        });
        json!({
            "cpu": cpu(),
            "isa": format!("{:?}", Isa::detect()),
            "threads": self.threads,
            "model": self.model,
            "width": self.size.width(),
            "height": self.size.height(),
            "dtype": precision_name(self.precision),
            "peak_gflops": self.peak,
            "stages": stages.collect::<Map<_, _>>(),
            "steered": self.steered.as_ref().map(Steered::json),
            "cold_start_s": self.cold_start.map(|took| took.as_secs_f64()),
            "peak_rss_bytes": self.peak_memory,
        })
    }

    pub(super) fn table(&self, profile: bool) -> String {
        let (threads, dtype) = (self.threads, precision_name(self.precision));
        let mut text = format!(
            "{}, {:?}, {threads} threads; model {}, {}, {dtype}, peak {:.0} GFLOP/s\n\n",
            cpu(),
            Isa::detect(),
            self.model,
            self.size,
            self.peak,
        );
        let mut rows = vec![["stage", "median", "min", "GFLOP", "GFLOP/s", "of peak"].map(str::to_owned)];
        for (name, measured) in &self.stages {
            let seconds = |took: Duration| format!("{:.4} s", took.as_secs_f64());
            rows.push([
                name.clone(),
                seconds(measured.median),
                seconds(measured.min),
                format!("{:.1}", measured.profile.flops() as f64 * 1e-9),
                format!("{:.0}", measured.gflops()),
                format!("{:.0} %", 100.0 * measured.gflops() / self.peak),
            ]);
        }
        if !self.stages.is_empty() {
            text.push_str(&models::table(rows));
        }
        if profile {
            self.stages.iter().for_each(|(name, measured)| text.push_str(&profile_table(name, measured)));
        }
        if let Some(steered) = &self.steered {
            text.push_str(&steered.told());
        }
        text.push('\n');
        if let Some(took) = self.cold_start {
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "from the start to the end of the first step: {:.2} s", took.as_secs_f64());
        }
        if let Some(bytes) = self.peak_memory {
            let _ = writeln!(text, "peak memory: {:.2} GiB", bytes as f64 / f64::from(1 << 30));
        }
        text
    }
}

/// The kinds of layers that were called.
fn layers(profile: &Profile) -> impl Iterator<Item = (LayerKind, pentimento_diffusion::LayerProfile)> {
    LayerKind::ALL.into_iter().zip(profile.layers).filter(|(_, layer)| layer.calls > 0)
}

fn profile_table(name: &str, measured: &Measured) -> String {
    let mut rows = vec![[name, "calls", "time", "share", "GFLOP/s"].map(str::to_owned)];
    let whole = measured.profile.took.as_secs_f64();
    let mut row = |kind: &str, calls: String, seconds: f64, rate: String| {
        let share = format!("{:.1} %", 100.0 * seconds / whole.max(1e-9));
        rows.push([kind.to_owned(), calls, format!("{seconds:.4} s"), share, rate]);
    };
    let mut inside = 0.0;
    for (kind, layer) in layers(&measured.profile) {
        let seconds = layer.took.as_secs_f64();
        inside += seconds;
        let rate = match layer.flops {
            0 => String::new(),
            flops => format!("{:.0}", rate(flops, layer.took)),
        };
        row(kind.name(), layer.calls.to_string(), seconds, rate);
    }
    row("between", String::new(), (whole - inside).max(0.0), String::new());
    format!("\n{}", models::table(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_diffusion::LayerProfile;

    fn profile(milliseconds: u64) -> Profile {
        let mut layers = [LayerProfile::default(); LayerKind::ALL.len()];
        layers[0] =
            LayerProfile { calls: 3, flops: 2_000_000_000, took: Duration::from_millis(milliseconds / 2) };
        Profile { layers, took: Duration::from_millis(milliseconds) }
    }

    #[test]
    fn the_median_run_is_told_with_its_rate() {
        let measured = Measured::of([30, 10, 20].map(profile).to_vec()).expect("runs");
        assert_eq!((measured.median, measured.min), (Duration::from_millis(20), Duration::from_millis(10)));
        let report = Report {
            model: "m".to_owned(),
            size: Size::new(64, 64).expect("a size"),
            precision: Precision::F32,
            threads: 2,
            peak: 200.0,
            stages: vec![("unet_step".to_owned(), measured)],
            steered: None,
            cold_start: Some(Duration::from_secs(2)),
            peak_memory: Some(1 << 30),
        };
        let json = report.json();
        let stage = &json["stages"]["unet_step"];
        assert_eq!((stage["median_s"].as_f64(), stage["runs"].as_u64()), (Some(0.02), Some(3)));
        assert_eq!(stage["gflops"].as_f64().map(f64::round), Some(100.0));
        assert_eq!(stage["share_of_peak"].as_f64().map(|share| (share * 100.0).round()), Some(50.0));
        assert_eq!(
            (json["cold_start_s"].as_f64(), json["peak_rss_bytes"].as_u64()),
            (Some(2.0), Some(1 << 30))
        );
        let table = report.table(true);
        assert!(table.contains("unet_step  0.0200 s  0.0100 s  2.0    100      50 %"), "{table}");
        assert!(table.contains("between           0.0100 s  50.0 %"), "{table}");
    }

    #[test]
    fn nothing_measured_is_nothing() {
        assert!(Measured::of(Vec::new()).is_none());
    }
}
