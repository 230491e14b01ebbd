//! What can be typed after `pentimento models`.

use crate::cli::{DataArgs, ModelChoice};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Commands about models.
#[derive(Args, Debug)]
pub(crate) struct ModelsArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models that can be called by name, with their sizes
    List {
        #[command(flatten)]
        data: DataArgs,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a model's parts, sizes and precision, and what is missing, without loading its weights
    Inspect {
        #[command(flatten)]
        model: ModelChoice,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every tensor of a model: shapes, values that are no numbers, hash
    #[command(
        long_about = "Read every tensor of a model: whether all are there with the right shapes, whether every value is a \
                            number, and the hash that receipts show.\n\nEnds with code 1 and the list of faults when something is \
                            wrong."
    )]
    Verify {
        #[command(flatten)]
        model: ModelChoice,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a model as a folder in diffusers layout, perhaps in another precision
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(ConvertArgs),
    /// Fetch a model from a hub
    #[command(after_help = PULL_NOTES)]
    Pull(PullArgs),
    /// Print the licences and attributions of the embedded model
    Licences,
}

/// Options of `models convert`.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// What is converted: a folder, a .safetensors or .gguf file, or a model's name
    #[arg(value_name = "IN", value_hint = ValueHint::AnyPath)]
    pub(crate) model: String,

    /// The folder to write
    #[arg(value_name = "OUT", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,

    /// How the weights are stored [default: as they are; quantised ones as f16]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub(crate) dtype: Option<StoredAs>,

    /// Replace OUT if it is there
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

/// Storage types that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoredAs {
    /// 32-bit floats
    F32,
    /// 16-bit floats of IEEE 754; a value beyond their range is refused
    F16,
    /// bfloat16
    Bf16,
}

/// Options of `models pull`.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// The repository, as in OWNER/NAME
    #[arg(value_name = "REPO")]
    pub(crate) repository: String,

    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    pub(crate) revision: String,

    /// The checkpoint to fetch from a repository that holds several
    #[arg(long, value_name = "NAME", conflicts_with = "variant")]
    pub(crate) file: Option<String>,

    /// The form of the weights to fetch, as in --variant fp16 [default: the plain one]
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,

    /// What the model is called here [default: the repository's or the file's own name]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Replace a model of the same name
    #[arg(long)]
    pub(crate) force: bool,

    /// No progress, no remarks; errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) data: DataArgs,
}

const CONVERT_EXAMPLES: &str = "Examples:
  A checkpoint from a model site as a folder:
    pentimento models convert dreamy.safetensors ./dreamy
  Half the size on disk:
    pentimento models convert ./sd15 ./sd15-f16 --dtype f16";

const PULL_NOTES: &str = "HF_ENDPOINT names another hub than Hugging Face's, HF_TOKEN the token for private and gated models. Only \
what the model needs is fetched, never a pickle file. A broken transfer goes on where it broke off when the command is run again.";
