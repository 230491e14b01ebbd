//! Where things are kept between runs: the data folder, and the folders whose entries are models with a name.

use crate::cli::DataArgs;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Folders of this user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// The data folder; `None` where the system names no place for one.
    data: Option<PathBuf>,
    /// Further folders of models, which stand above the data folder's.
    models: Vec<PathBuf>,
    /// Further folders of adapters, which stand above the data folder's.
    loras: Vec<PathBuf>,
    /// Further folders of control networks, which stand above the data folder's.
    controls: Vec<PathBuf>,
}

impl Places {
    /// What was typed, then what a configuration says, then the user's own data folder.
    pub(crate) fn resolve(typed: &DataArgs, data: Option<PathBuf>, models: &[PathBuf]) -> Self {
        let DataArgs { data_dir, models_dir } = typed;
        Self {
            data: data_dir.clone().or(data).or_else(usual_data_dir),
            models: if models_dir.is_empty() { models.to_vec() } else { models_dir.clone() },
            loras: Vec::new(),
            controls: Vec::new(),
        }
    }

    /// What was typed, without a configuration.
    pub(crate) fn typed(typed: &DataArgs) -> Self {
        Self::resolve(typed, None, &[])
    }

    /// The data folder.
    ///
    /// # Errors
    /// When none was named and the system names none.
    pub(crate) fn data(&self) -> Result<PathBuf> {
        self.data.clone().context("there is no place for tasks and results: name one with --data-dir")
    }

    /// The same with further folders of adapters and of control networks.
    pub(crate) fn with_steering(self, loras: &[PathBuf], controls: &[PathBuf]) -> Self {
        Self { loras: loras.to_vec(), controls: controls.to_vec(), ..self }
    }

    /// The folders of adapters, the most important first.
    pub(crate) fn lora_folders(&self) -> Vec<PathBuf> {
        self.loras.iter().cloned().chain(self.data.as_ref().map(|data| data.join("loras"))).collect()
    }

    /// The folders of control networks, the most important first.
    pub(crate) fn control_folders(&self) -> Vec<PathBuf> {
        self.controls.iter().cloned().chain(self.data.as_ref().map(|data| data.join("controls"))).collect()
    }

    /// The folders of adapters for pictures and faces.
    pub(crate) fn image_prompt_folders(&self) -> Vec<PathBuf> {
        self.data.iter().map(|data| data.join("ip-adapters")).collect()
    }

    /// The folder of face networks.
    pub(crate) fn faces_folder(&self) -> Option<PathBuf> {
        self.data.as_ref().map(|data| data.join("faces"))
    }

    /// The folders of models, the most important first.
    pub(crate) fn model_folders(&self) -> Vec<PathBuf> {
        self.models.iter().cloned().chain(self.data.as_ref().map(|data| data.join("models"))).collect()
    }

    /// The folder that new models go to: one that was named for them, else that in the data folder.
    ///
    /// # Errors
    /// When no folder was named and the system names none.
    pub(crate) fn for_new_models(&self) -> Result<PathBuf> {
        let folder = self.model_folders().into_iter().next();
        folder.context("there is no place for models: name one with --models-dir or --data-dir")
    }
}

/// The folder that the system's conventions give to this program's data.
fn usual_data_dir() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    Some(etcetera::choose_base_strategy().ok()?.data_dir().join("pentimento"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_stands_above_the_configuration() {
        let typed = |data: Option<&str>, models: &[&str]| DataArgs {
            data_dir: data.map(PathBuf::from),
            models_dir: models.iter().map(PathBuf::from).collect(),
        };
        let configured = (Some(PathBuf::from("/c")), [PathBuf::from("/cm")]);
        let folders =
            |typed: &DataArgs| Places::resolve(typed, configured.0.clone(), &configured.1).model_folders();
        assert_eq!(folders(&typed(None, &[])), ["/cm", "/c/models"].map(PathBuf::from));
        assert_eq!(folders(&typed(Some("/t"), &["/a", "/b"])), ["/a", "/b", "/t/models"].map(PathBuf::from));
        let places = Places::resolve(&typed(Some("/t"), &[]), None, &[]);
        assert_eq!(places.for_new_models().ok(), Some(PathBuf::from("/t/models")));
    }
}
