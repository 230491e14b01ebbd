//! What can be typed, and nothing of what it means: clap's definitions, from which help, completions and the
//! man page are made. Resolving happens in the module of each command.

mod accelerations;
mod steering;

pub(crate) use accelerations::AccelerationArgs;
pub(crate) use steering::{LoraArgs, LoraCommand, SteeringArgs, Switch};

use crate::models::args::ModelsArgs;
use clap::{
    ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser},
};
use pentimento_imaging::{Format, MaskSource};
use pentimento_protocols::StylePreset;
use pentimento_request::{FilterMode, NoiseSource, Sampler, Schedule, Size, parse_sampler};
use pentimento_server::Origin;
use std::{ffi::OsStr, path::PathBuf};

/// Draw and repaint pictures with Stable Diffusion, on the command line or behind the API that old clients call.
#[derive(Debug, Parser)]
#[command(
    name = "pentimento",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start with:\n  pentimento generate -p \"a strawberry on a white background, 3d model\" -o \
                  strawberry.png\n  pentimento serve\n\nExit codes: 0 done, 1 it failed, 2 the command has to be changed, 130 \
                  broken off."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a picture, or repaint one, wholly or inside a mask
    Generate(Box<GenerateArgs>),
    /// Answer clients of Amazon Bedrock's Stability API
    Serve(ServeArgs),
    /// List, inspect, verify, convert and fetch models
    Models(ModelsArgs),
    /// List and inspect adapters (LoRA and its kin)
    Lora(LoraArgs),
    /// Measure how fast this machine draws, stage by stage
    Bench(Box<BenchArgs>),
    /// List the style presets and what they make of a prompt
    Styles,
    /// Print the completions for a shell
    #[command(
        long_about = "Print the completions for a shell.\n\nFor bash, for instance: pentimento completions bash > \
                            ~/.local/share/bash-completion/completions/pentimento"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    #[command(long_about = "Print a manual page.\n\nTo read it: pentimento man generate | man -l -")]
    Man {
        /// The command that it describes; without one, the whole program
        command: Option<String>,
    },
}

/// Options of `generate`.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("texts").args(["prompt", "weighted"]).required(true).multiple(true),
    after_help = GENERATE_EXAMPLES,
)]
pub(crate) struct GenerateArgs {
    /// What the picture shows; repeat it to blend several
    #[arg(short, long, value_name = "TEXT", help_heading = PROMPT)]
    pub(crate) prompt: Vec<String>,

    /// What the picture should not show
    #[arg(short, long, value_name = "TEXT", help_heading = PROMPT)]
    pub(crate) negative: Vec<String>,

    /// A text with its weight, as in --weighted 0.5 "a red rose"; --prompt weighs 1, --negative -1
    #[arg(long, num_args = 2, value_names = ["WEIGHT", "TEXT"], allow_hyphen_values = true, action = ArgAction::Append,
          help_heading = PROMPT)]
    pub(crate) weighted: Vec<String>,

    /// A style preset, as `pentimento styles` lists them; an empty name is none
    #[arg(long, value_name = "STYLE", value_parser = styles(), ignore_case = true, hide_possible_values = true,
          help_heading = PROMPT)]
    pub(crate) style: Option<String>,

    /// Read prompts as they are: brackets, backslashes and BREAK are text, not (emphasis:1.2)
    #[arg(long, help_heading = PROMPT)]
    pub(crate) plain_prompt: bool,

    /// Which layer of the text encoder is read: 1 is the last, up to 12 [default: 1]
    #[arg(long, value_name = "LAYER", allow_negative_numbers = true, help_heading = PROMPT)]
    pub(crate) clip_skip: Option<usize>,

    /// The picture to start from (PNG, JPEG or WebP; - is the standard input)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = INPUT)]
    pub(crate) init: Option<PathBuf>,

    /// Which part of it is repainted: a picture of the same size; grey is repainted in part
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "init", help_heading = INPUT)]
    pub(crate) mask: Option<PathBuf>,

    /// What stands for "repaint": white or black in the mask (white by default), or transparency in the
    /// --init picture
    #[arg(long, value_name = "SOURCE", value_parser = mask_sources(), ignore_case = true, requires = "init",
          help_heading = INPUT)]
    pub(crate) mask_source: Option<MaskSource>,

    /// How much of the --init picture is given up, from 0 to 1 [default: 0.65, with a mask 1]
    #[arg(long, value_name = "SHARE", requires = "init", allow_negative_numbers = true, help_heading = INPUT)]
    pub(crate) strength: Option<f64>,

    /// Show the model this much around the mask when the picture is larger than the model's own size [default: 32]
    #[arg(long, value_name = "PIXELS", requires = "init", conflicts_with_all = ["whole", "raw"], help_heading = INPUT)]
    pub(crate) padding: Option<u32>,

    /// Show the model the whole picture, however large, not only the mask's surroundings
    #[arg(long, requires = "init", help_heading = INPUT)]
    pub(crate) whole: bool,

    /// Nothing but the bare pipeline: no crop, no resizing, no pixels put back (to compare with a reference)
    #[arg(long, help_heading = INPUT)]
    pub(crate) raw: bool,

    #[command(flatten)]
    pub(crate) steering: SteeringArgs,

    /// How the noise is taken away, in Stability's, A1111's, ComfyUI's or diffusers' spelling: K_DPMPP_2M,
    /// "DPM++ 2M Karras", dpmpp_2m … [default: the model's choice]
    #[arg(long, value_name = "NAME", value_parser = SamplerParser, help_heading = DRAWING)]
    pub(crate) sampler: Option<(Sampler, Option<Schedule>)>,

    /// How the steps are spaced [default: as the model says]
    #[arg(long, value_name = "NAME", value_parser = schedules(), ignore_case = true, help_heading = DRAWING)]
    pub(crate) schedule: Option<Schedule>,

    /// Share of fresh noise per step, from 0 to 1 [default: DDIM 0, ancestral and SDE samplers 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) eta: Option<f64>,

    /// Noise put back before each step of K_EULER, K_HEUN and K_DPM_2 [default: 0]
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) s_churn: Option<f64>,

    /// Smallest sigma at which --s-churn puts noise back [default: 0]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) s_tmin: Option<f64>,

    /// Largest sigma at which --s-churn puts noise back [default: any]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) s_tmax: Option<f64>,

    /// Factor of all noise that a sampler adds [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) s_noise: Option<f64>,

    /// Which generator the seed starts: torch-cpu, or philox, whose seeds are those of CUDA and of A1111's NV and
    /// GPU [default: torch-cpu]
    #[arg(long, value_name = "SOURCE", value_parser = noise_sources(), ignore_case = true, hide_possible_values = true,
          help_heading = DRAWING)]
    pub(crate) noise: Option<NoiseSource>,

    /// Steps of the schedule, from 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) steps: usize,

    /// How strictly the prompt is followed, from 0 to 35; up to 1 the negative prompts are not looked at
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, default_value_t = 7.0, help_heading = DRAWING)]
    pub(crate) cfg: f32,

    /// Share, from 0 to 1, by which glaring contrasts of a high --cfg are brought back
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) guidance_rescale: f32,

    /// The same seed draws the same picture [default: a random one, which the picture's metadata names]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = DRAWING)]
    pub(crate) seed: Option<u64>,

    /// Width and height, multiples of 8 for a new picture [default: the model's own size, or that of --init]
    #[arg(short, long, value_name = "WxH", help_heading = DRAWING)]
    pub(crate) size: Option<Size>,

    /// A second pass: the picture enlarged by SCALE (above 1, at most 4), then the last STRENGTH [default: 0.5] of a schedule of
    /// STEPS [default: --steps] again, as in --hires 2:0.6:20. With --init the result keeps its size unless --size is given
    #[arg(long, value_name = "SCALE[:STRENGTH[:STEPS]]", help_heading = DRAWING)]
    pub(crate) hires: Option<String>,

    #[command(flatten)]
    pub(crate) accelerations: AccelerationArgs,

    /// What is done with a picture that the model's own safety checker objects to: off, flag, blur or block
    /// [default: blur where the model has one, off where it has none or with --raw]
    #[arg(long, value_name = "MODE", value_parser = filter_modes(), ignore_case = true, help_heading = OUTPUT)]
    pub(crate) filter: Option<FilterMode>,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Largest picture, in pixels, that the model may be asked to work at
    #[arg(long, value_name = "N", default_value_t = 4_194_304, help_heading = MODEL)]
    pub(crate) max_pixels: u64,

    /// Where the picture goes (- is the standard output)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(crate) out: PathBuf,

    /// File format [default: by the name of --out, else png]
    #[arg(long, value_name = "FORMAT", value_parser = formats(), ignore_case = true, help_heading = OUTPUT)]
    pub(crate) format: Option<Format>,

    /// Also write the receipt (everything that decided the picture) as JSON (- is the standard output)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(crate) receipt: Option<PathBuf>,

    /// Rewrite this PNG file after every step with what the picture looks like so far
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    pub(crate) preview: Option<PathBuf>,

    /// Print the receipt as JSON on the standard output (on standard error if the picture goes there)
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,

    /// No progress, no remarks; errors only
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) quiet: bool,
}

/// Which model runs, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// A model's folder (diffusers layout) or file (.safetensors), or its name in `pentimento models list` [default:
    /// default]
    #[arg(long, value_name = "DIR|FILE|NAME", value_hint = ValueHint::AnyPath, help_heading = MODEL)]
    pub(crate) model: Option<String>,

    /// Another VAE for the model: a safetensors file, in diffusers' naming or that of whole checkpoints
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = MODEL)]
    pub(crate) vae: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) data: DataArgs,

    /// Precision of the arithmetic: f32 (the reference), bf16, auto (the faster of the two on this machine),
    /// or int8 (faster still and half the memory); pictures differ slightly between them, and more in int8
    /// [default: f32]
    #[arg(long, value_name = "TYPE", value_enum, hide_possible_values = true, help_heading = MODEL)]
    pub(crate) dtype: Option<Dtype>,

    /// Threads that compute [default: one per core]; their number never changes the picture
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = MODEL)]
    pub(crate) threads: Option<u16>,
}

/// Options of `bench`.
#[derive(Args, Debug)]
#[command(after_help = BENCH_NOTES)]
pub(crate) struct BenchArgs {
    /// Made-up weights of a published architecture, so that nothing has to be fetched: sd15 or sdxl
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true, conflicts_with_all = ["model", "vae"],
          help_heading = MODEL)]
    pub(crate) random: Option<Random>,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Width and height of the picture [default: the model's own size]
    #[arg(short, long, value_name = "WxH", help_heading = MEASURING)]
    pub(crate) size: Option<Size>,

    /// Which stages, separated by commas: text, vae_encode, unet_step, controlnet_step, vae_decode, whole
    /// [default: all but whole, and controlnet_step only where the model has a network for edges]
    #[arg(long, value_name = "STAGES", value_enum, value_delimiter = ',', hide_possible_values = true,
          help_heading = MEASURING)]
    pub(crate) stages: Vec<BenchStage>,

    /// How often each stage is measured, after one run that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000),
          help_heading = MEASURING)]
    pub(crate) runs: u16,

    /// Steps of a round that are measured with what steers a picture or makes it faster, behind one that is not [default: 2; the
    /// interval of --step-cache; 10 with --guidance-interval]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=200), help_heading = MEASURING)]
    pub(crate) steps: Option<u16>,

    /// Show where the time of each stage goes, by kind of layer
    #[arg(long, help_heading = MEASURING)]
    pub(crate) profile: bool,

    /// Print one JSON object instead of a table
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) steering: SteeringArgs,

    #[command(flatten)]
    pub(crate) accelerations: AccelerationArgs,

    /// Instead of measuring, call the UNet once on a safetensors file's sample, timestep and context, and write what it
    /// predicts, as out, to another
    #[arg(long, num_args = 2, value_names = ["IN", "OUT"], value_hint = ValueHint::FilePath,
          conflicts_with_all = ["stages", "profile", "json", "size"], help_heading = MEASURING)]
    pub(crate) unet_io: Vec<PathBuf>,
}

/// Architectures that can be made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Random {
    /// Stable Diffusion 1.5.
    Sd15,
    /// Stable Diffusion XL.
    Sdxl,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum BenchStage {
    /// Both texts.
    Text,
    /// A picture to latents.
    VaeEncode,
    /// One call of the UNet for both halves of the guidance.
    UnetStep,
    /// One call of the control network for both halves of the guidance.
    ControlnetStep,
    /// Latents to a picture.
    VaeDecode,
    /// A whole image-to-image.
    Whole,
}

/// Where things are kept between runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataArgs {
    /// Folder of Pentimento's own data; what lies in its `models` folder can be called by name [default: in the user's
    /// own data folder]
    #[arg(long, value_name = "DIR", env = "PENTIMENTO_DATA_DIR", hide_env_values = true, value_hint = ValueHint::DirPath,
          help_heading = MODEL)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Another folder of models that can be called by name; may be repeated, and stands above the data folder's
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = MODEL)]
    pub(crate) models_dir: Vec<PathBuf>,
}

/// Options of `serve`. All but `--config` stand above the configuration file's.
#[derive(Args, Debug)]
#[command(after_help = SERVE_NOTES)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:8181]
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,

    /// Configuration file (TOML); every setting is described in examples/pentimento.toml
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Certificate chain (PEM), to listen with TLS
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Answer without looking at signatures and keys; only on loopback addresses
    #[arg(long)]
    pub(crate) no_auth: bool,

    /// Fetch pictures from this host and port too, whatever its address is; may be repeated. Without it pictures are fetched
    /// from public addresses only
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) allow_fetch: Vec<Origin>,

    /// Form of the log on standard error: text or json [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub(crate) log_format: Option<LogFormat>,

    /// The model answers every id that the configuration does not map.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// A model that is looked at.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelChoice {
    /// A model's folder, or its name
    #[arg(value_name = "FILE|DIR|NAME", value_hint = ValueHint::AnyPath)]
    pub(crate) model: String,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

/// Precision of the arithmetic, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// 32-bit floats: the reference.
    F32,
    /// Factors rounded to bfloat16.
    Bf16,
    /// Eight bits in the denoising network's layers, the faster floats elsewhere.
    Int8,
    /// The fastest that this processor does well.
    Auto,
}

/// Form of the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines to read.
    Text,
    /// One JSON object per line.
    Json,
}

const PROMPT: &str = "Prompt";
const INPUT: &str = "Starting from a picture";
const STEERING: &str = "Steering";
const DRAWING: &str = "Drawing";
const ACCELERATIONS: &str = "Faster, at the picture's cost";
const MODEL: &str = "Model";
const OUTPUT: &str = "Output";

const MEASURING: &str = "Measuring";

const BENCH_NOTES: &str =
    "A UNet step is one call for both halves of the guidance. Operations are counted as the textbook needs \
them (a multiply-add is two), so a layer that saves multiplications can pass the machine's peak, \
which is measured in the same run. whole is image-to-image: 20 steps, strength 0.6, cfg 7.5. With what \
steers a picture (--lora, --canny, …) or makes it faster (--guidance-interval, …) steps with it and without it are \
measured in turns, some a run, on a made-up input, and only the stages that are asked for.

Examples:
  pentimento bench
  pentimento bench --random sd15 --dtype auto --stages unet_step --profile
  pentimento bench --model ./my-model --lora ./ink.safetensors=0.8
  pentimento bench --random sd15 --dtype bf16 --guidance-interval 0.2:0.8 --runs 1
  pentimento bench --model ./my-model --json > figures.json";

const GENERATE_EXAMPLES: &str = "Examples:
  A new picture:
    pentimento generate -p \"a red apple on a white background, 3d model\" --cfg 4 -o apple.png
  The white part of a mask, repainted; every other pixel stays as it is:
    pentimento generate -p \"a strawberry\" --init scene.png --mask mask.png -o after.png
  A whole picture again, in a pipe:
    cat photo.jpg | pentimento generate -p \"line art\" --init - --strength 0.5 -o - > drawing.png";

const SERVE_NOTES: &str = "Credentials come from the configuration file, from PENTIMENTO_ACCESS_KEY_ID with \
PENTIMENTO_SECRET_ACCESS_KEY, and from PENTIMENTO_API_KEYS (separated by commas). With none of them the server makes a pair \
for this run, listens on a loopback address only, and prints an example to paste.

RUST_LOG sets how much is logged, as in RUST_LOG=debug.";

/// Reads a sampler in any spelling, with a schedule where the name holds one; offers the usual names.
#[derive(Clone, Copy, Debug)]
struct SamplerParser;

impl TypedValueParser for SamplerParser {
    type Value = (Sampler, Option<Schedule>);

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let parser = StringValueParser::new().try_map(|name| parse_sampler(&name));
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Sampler::ALL.into_iter().map(|sampler| PossibleValue::new(sampler.name()))))
    }
}

fn noise_sources() -> impl TypedValueParser<Value = NoiseSource> {
    PossibleValuesParser::new(NoiseSource::ALL.map(NoiseSource::name)).try_map(|name| name.parse())
}

fn styles() -> impl TypedValueParser<Value = String> {
    let names = StylePreset::ALL.map(|style| PossibleValue::new(style.name));
    PossibleValuesParser::new(names.into_iter().chain([PossibleValue::new("").hide(true)]))
}

fn schedules() -> impl TypedValueParser<Value = Schedule> {
    PossibleValuesParser::new(Schedule::ALL.map(Schedule::name)).try_map(|name| name.parse())
}

fn filter_modes() -> impl TypedValueParser<Value = FilterMode> {
    PossibleValuesParser::new(FilterMode::ALL.map(FilterMode::name)).try_map(|name| name.parse())
}

fn mask_sources() -> impl TypedValueParser<Value = MaskSource> {
    PossibleValuesParser::new(MaskSource::ALL.map(MaskSource::name)).try_map(|name| name.parse())
}

fn formats() -> impl TypedValueParser<Value = Format> {
    let named = Format::ALL.map(|format| match format {
        Format::Jpeg => PossibleValue::new(format.name()).alias("jpg"),
        _ => PossibleValue::new(format.name()),
    });
    PossibleValuesParser::new(named).try_map(|name| name.parse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_weight_below_zero_is_no_option() {
        let typed = ["pentimento", "generate", "--weighted", "-0.5", "-x", "--prompt", "p", "--out", "o.png"];
        let Command::Generate(args) = Cli::try_parse_from(typed).expect("it parses").command else {
            panic!("another command");
        };
        assert_eq!(args.weighted, ["-0.5", "-x"]);
        assert_eq!(args.prompt, ["p"]);
    }

    #[test]
    fn samplers_are_read_in_any_spelling() {
        for (name, schedule) in [("k_dpmpp_2m", None), ("DPM++ 2M Karras", Some(Schedule::Karras))] {
            let typed = ["pentimento", "generate", "-p", "x", "--sampler", name, "--out", "o.png"];
            let Command::Generate(args) = Cli::try_parse_from(typed).expect("it parses").command else {
                panic!("another command");
            };
            assert_eq!(args.sampler, Some((Sampler::KDpmpp2m, schedule)));
        }
    }
}
