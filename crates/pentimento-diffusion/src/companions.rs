//! What lies in a model's folder beside its parts: control networks and adapters of its own.
//!
//! ```text
//! controlnet-canny/, controlnet/   the control network for edges, the first of them that is there
//! controlnet-tile/                 the control network for texture
//! loras/NAME.safetensors           adapters made for this model
//! ```

use crate::{
    control::{ControlFile, ControlUse},
    error::LoadError,
    files::ModelFiles,
    lora::LoraFile,
};
use std::{collections::BTreeMap, sync::Arc};

/// Folders in which the control network for edges may lie.
pub(crate) const CANNY_FOLDERS: [&str; 2] = ["controlnet-canny", "controlnet"];

/// Folders in which the control network for texture may lie.
pub(crate) const TILE_FOLDERS: [&str; 1] = ["controlnet-tile"];

/// Folder of the adapters.
pub(crate) const LORA_FOLDER: &str = "loras";

/// Ending of the adapters' files.
const LORA_ENDING: &str = ".safetensors";

/// What a model can be steered with out of its own folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    /// Whether it has a control network for edges.
    pub edges: bool,
    /// Whether it has a control network for texture.
    pub texture: bool,
    /// The names of its adapters, sorted.
    pub loras: Vec<String>,
}

impl Companions {
    /// Looks which there are, and opens none of them.
    ///
    /// # Errors
    /// When a folder is there and cannot be read.
    pub fn find(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        let names = files.list(LORA_FOLDER)?;
        Ok(Self {
            edges: first(files, &CANNY_FOLDERS)?.is_some(),
            texture: first(files, &TILE_FOLDERS)?.is_some(),
            loras: names.iter().filter_map(|name| lora_name(name)).map(str::to_owned).collect(),
        })
    }
}

/// The same, opened.
pub(crate) struct OpenCompanions {
    canny: Option<Arc<ControlFile>>,
    tile: Option<Arc<ControlFile>>,
    loras: BTreeMap<String, Arc<LoraFile>>,
}

impl OpenCompanions {
    pub(crate) fn open(files: &dyn ModelFiles) -> Result<Self, LoadError> {
        let control = |folders: &[&str]| -> Result<Option<Arc<ControlFile>>, LoadError> {
            let Some(folder) = first(files, folders)? else { return Ok(None) };
            ControlFile::open(files, &folder).map(Arc::new).map(Some)
        };
        let mut loras = BTreeMap::new();
        for file in files.list(LORA_FOLDER)? {
            if let Some(name) = lora_name(&file) {
                let opened = LoraFile::open(files, &format!("{LORA_FOLDER}/{file}"))?;
                loras.insert(name.to_owned(), Arc::new(opened));
            }
        }
        Ok(Self { canny: control(&CANNY_FOLDERS)?, tile: control(&TILE_FOLDERS)?, loras })
    }

    /// The control network for a use.
    pub(crate) fn control(&self, used: ControlUse) -> Option<Arc<ControlFile>> {
        match used {
            ControlUse::Edges => self.canny.clone(),
            ControlUse::Texture => self.tile.clone(),
        }
    }

    /// The adapter of this name.
    pub(crate) fn lora(&self, name: &str) -> Option<Arc<LoraFile>> {
        self.loras.get(name).cloned()
    }

    /// The names of the adapters, sorted.
    pub(crate) fn lora_names(&self) -> impl Iterator<Item = &str> {
        self.loras.keys().map(String::as_str)
    }
}

/// The folders of a model's own control networks for edges and for texture.
pub(crate) fn own_controls(files: &dyn ModelFiles) -> Result<[Option<String>; 2], LoadError> {
    Ok([first(files, &CANNY_FOLDERS)?, first(files, &TILE_FOLDERS)?])
}

/// The first of the folders that has anything in it.
fn first(files: &dyn ModelFiles, folders: &[&str]) -> Result<Option<String>, LoadError> {
    for folder in folders {
        if !files.list(folder)?.is_empty() {
            return Ok(Some((*folder).to_owned()));
        }
    }
    Ok(None)
}

/// The name of an adapter's file; hidden files are none.
pub(crate) fn lora_name(file: &str) -> Option<&str> {
    file.strip_suffix(LORA_ENDING).filter(|name| !name.is_empty() && !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Embedded;

    #[test]
    fn what_lies_beside_the_parts_is_found() {
        const FILES: Embedded = Embedded(&[
            ("controlnet/config.json", b"{}"),
            ("loras/wool.safetensors", b""),
            ("loras/notes.txt", b""),
            ("loras/.hidden.safetensors", b""),
            ("loras/chalk.safetensors", b""),
        ]);
        let loras = vec!["chalk".to_owned(), "wool".to_owned()];
        assert_eq!(Companions::find(&FILES).ok(), Some(Companions { edges: true, texture: false, loras }));
        assert_eq!(Companions::find(&Embedded(&[])).ok(), Some(Companions::default()));
    }
}
