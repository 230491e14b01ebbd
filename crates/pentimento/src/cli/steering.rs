//! What can be typed about adapters, control networks, pictures, faces and CLIP.

use super::{DataArgs, STEERING};
use clap::{
    Args, Subcommand, ValueEnum, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};
use pentimento_request::ClipGuidance;
use std::path::PathBuf;

/// What steers a picture beside its prompts.
#[derive(Args, Clone, Debug)]
pub(crate) struct SteeringArgs {
    /// An adapter (LoRA and its kin) with its weight, and another one for the text encoders: a name in `pentimento lora
    /// list`, or a file; may be repeated
    #[arg(long, value_name = "NAME|FILE=W[:TE]", allow_hyphen_values = true, help_heading = STEERING)]
    pub(crate) lora: Vec<String>,

    /// Keep to the edges of the --init picture, with this weight from 0 to 2, by the model's own control network
    #[arg(long, value_name = "W", allow_negative_numbers = true, help_heading = STEERING)]
    pub(crate) canny: Option<f32>,

    /// Gradients below LOW are no edges, above HIGH they are [default: 100:200]
    #[arg(long, value_name = "LOW:HIGH", requires = "canny", help_heading = STEERING)]
    pub(crate) canny_thresholds: Option<String>,

    /// A control network with its weight from 0 to 2: a name in the data folder's `controls`, a folder with a / in it, or a
    /// file; each goes with one --control-image
    #[arg(long, value_name = "NAME|DIR|FILE=W", requires = "control_image", help_heading = STEERING)]
    pub(crate) control: Vec<String>,

    /// The picture that the control network is shown, as it is
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "control", help_heading = STEERING)]
    pub(crate) control_image: Vec<PathBuf>,

    /// Share of the steps in which control networks begin and end [default: 0:1]
    #[arg(long, value_name = "START:END", help_heading = STEERING)]
    pub(crate) control_range: Option<String>,

    /// Whether the --init picture keeps its fine texture, or gives it up before it is drawn on [default: on]
    #[arg(long, value_name = "on|off", value_enum, hide_possible_values = true, help_heading = STEERING)]
    pub(crate) keep_texture: Option<Switch>,

    /// A picture that is read like a prompt; may be repeated, and goes with --ip-adapter
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "ip_adapter", help_heading = STEERING)]
    pub(crate) image_prompt: Vec<PathBuf>,

    /// The adapter (IP-Adapter) that reads the --image-prompt pictures, with its scale from 0 to 1: a name in the data
    /// folder's `ip-adapters`, or a file
    #[arg(long, value_name = "NAME|FILE=W", requires = "image_prompt", help_heading = STEERING)]
    pub(crate) ip_adapter: Option<String>,

    /// A picture of the person whose face is shown; may be repeated for several pictures of the same person
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = STEERING)]
    pub(crate) face: Vec<PathBuf>,

    /// How much of the face is shown, from 0 to 1 [default: 1 with --face, else 0]; without --face it is that of the --init
    /// picture
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, help_heading = STEERING)]
    pub(crate) id_scale: Option<f32>,

    /// The adapter for faces (IP-Adapter FaceID): a name in the data folder's `ip-adapters`, or a file [default: the first
    /// one there that fits the model]
    #[arg(long, value_name = "NAME|FILE", help_heading = STEERING)]
    pub(crate) face_adapter: Option<String>,

    /// Let CLIP's similarity of picture and prompt steer, for models that carry a CLIP picture encoder and ancestral
    /// samplers: FAST_BLUE, FAST_GREEN, SIMPLE, SLOW, SLOWER or SLOWEST
    #[arg(long, value_name = "PRESET", value_parser = clip_guidance(), ignore_case = true, hide_possible_values = true,
          help_heading = STEERING)]
    pub(crate) clip_guidance: Option<ClipGuidance>,

    /// Another folder of adapters that can be called by name; may be repeated, and stands above the data folder's `loras`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = STEERING)]
    pub(crate) loras_dir: Vec<PathBuf>,

    /// Another folder of control networks; may be repeated, and stands above the data folder's `controls`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = STEERING)]
    pub(crate) controls_dir: Vec<PathBuf>,
}

/// Commands about adapters.
#[derive(Args, Debug)]
pub(crate) struct LoraArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: LoraCommand,
}

/// What can be done with adapters.
#[derive(Debug, Subcommand)]
pub(crate) enum LoraCommand {
    /// List the adapters that can be called by name
    List {
        #[command(flatten)]
        data: DataArgs,
        /// Another folder of adapters; may be repeated
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        loras_dir: Vec<PathBuf>,
    },
    /// Show what an adapter's file holds: family, flavours, ranks, layers
    Inspect {
        /// The file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

fn clip_guidance() -> impl TypedValueParser<Value = ClipGuidance> {
    PossibleValuesParser::new(ClipGuidance::ALL.map(ClipGuidance::name)).try_map(|name| name.parse())
}
