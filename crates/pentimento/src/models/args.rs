//! What can be typed after `pentimento models`.

use crate::cli::{DataArgs, ModelChoice};
use clap::{Args, Subcommand};

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
    /// Fetch a model from a hub
    #[command(after_help = PULL_NOTES)]
    Pull(PullArgs),
    /// Print the licences and attributions of the embedded model
    Licences,
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

const PULL_NOTES: &str = "HF_ENDPOINT names another hub than Hugging Face's, HF_TOKEN the token for private and gated models. Only \
what the model needs is fetched, never a pickle file. A broken transfer goes on where it broke off when the command is run again.";
