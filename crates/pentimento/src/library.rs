//! Adapters and control networks that lie in folders: names to files, opened once and again when they change.
//!
//! A name is a file's or folder's name in one of the configured folders, without `.safetensors`. It is held against what lies
//! there and never joined to a path, so that no name leads out of the folders. Files named on the command line come beside them.

use crate::places::Places;
use pentimento_diffusion::{
    ControlFile, FaceReader, Folder, ImagePromptFile, Library, LoadError, LoadErrorKind, LoraFile,
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Ending of the files that are read.
const ENDING: &str = ".safetensors";

/// The adapters and control networks of this user.
#[derive(Debug)]
pub(crate) struct Shelves {
    loras: Shelf<LoraFile>,
    controls: Shelf<ControlFile>,
    image_prompts: Shelf<ImagePromptFile>,
    faces: Faces,
}

/// The folder of face networks, and what finds faces by them as long as its files stay the same.
#[derive(Debug)]
struct Faces {
    folder: Option<PathBuf>,
    opened: Mutex<Option<OpenedFaces>>,
}

/// What reads faces, and what its files were when they were opened.
#[derive(Debug)]
struct OpenedFaces {
    files: Vec<(PathBuf, Stamp)>,
    reader: Option<Arc<FaceReader>>,
}

/// Folders of files of one kind.
#[derive(Debug)]
struct Shelf<T> {
    folders: Vec<PathBuf>,
    entries: Entries,
    /// Named on the command line.
    typed: BTreeMap<String, PathBuf>,
    /// What was opened, by its path, and what the file was then.
    opened: Mutex<BTreeMap<PathBuf, (Stamp, Arc<T>)>>,
}

/// What in a shelf's folders is called by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// Files.
    Files,
    /// Files, and folders in diffusers' layout.
    FilesAndFolders,
}

/// When a file was written, and its length.
type Stamp = (Option<SystemTime>, u64);

impl Shelves {
    /// Those in the folders of these places.
    pub(crate) fn of(places: &Places) -> Self {
        Self {
            loras: Shelf::of(places.lora_folders(), Entries::Files),
            controls: Shelf::of(places.control_folders(), Entries::FilesAndFolders),
            image_prompts: Shelf::of(places.image_prompt_folders(), Entries::Files),
            faces: Faces { folder: places.faces_folder(), opened: Mutex::default() },
        }
    }

    /// Adds an adapter's file, and answers the name that requests use for it.
    pub(crate) fn add_lora(&mut self, file: PathBuf) -> String {
        self.loras.add(file)
    }

    /// Adds a control network's file or folder, and answers the name that requests use for it.
    pub(crate) fn add_control(&mut self, path: PathBuf) -> String {
        self.controls.add(path)
    }

    /// Adds the file of an adapter for pictures or faces, and answers the name that requests use for it.
    pub(crate) fn add_image_prompt(&mut self, file: PathBuf) -> String {
        self.image_prompts.add(file)
    }

    /// Names and places of all adapters.
    pub(crate) fn loras(&self) -> Result<BTreeMap<String, PathBuf>, LoadError> {
        self.loras.known()
    }
}

impl Library for Shelves {
    fn lora(&self, name: &str) -> Result<Option<Arc<LoraFile>>, LoadError> {
        self.loras.open(name, |folder, entry| LoraFile::open(&folder, entry))
    }

    fn lora_names(&self) -> Vec<String> {
        self.loras.names()
    }

    fn control(&self, name: &str) -> Result<Option<Arc<ControlFile>>, LoadError> {
        self.controls.open(name, |folder, entry| ControlFile::open(&folder, entry))
    }

    fn control_names(&self) -> Vec<String> {
        self.controls.names()
    }

    fn image_prompt(&self, name: &str) -> Result<Option<Arc<ImagePromptFile>>, LoadError> {
        self.image_prompts.open(name, |folder, entry| ImagePromptFile::open(&folder, entry))
    }

    fn image_prompt_names(&self) -> Vec<String> {
        self.image_prompts.names()
    }

    fn faces(&self) -> Result<Option<Arc<FaceReader>>, LoadError> {
        self.faces.reader()
    }
}

impl Faces {
    fn reader(&self) -> Result<Option<Arc<FaceReader>>, LoadError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let now = self.stamps(folder)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = opened.as_ref().filter(|opened| opened.files == now) {
            return Ok(same.reader.clone());
        }
        let reader = FaceReader::open(&Folder::new(folder))?.map(Arc::new);
        *opened = Some(OpenedFaces { files: now, reader: reader.clone() });
        Ok(reader)
    }

    fn stamps(&self, folder: &Path) -> Result<Vec<(PathBuf, Stamp)>, LoadError> {
        let mut stamps = Vec::new();
        for path in entries_of(folder)? {
            stamps.push((path.clone(), stamp_of(&path)));
        }
        stamps.sort();
        Ok(stamps)
    }
}

impl<T> Shelf<T> {
    fn of(folders: Vec<PathBuf>, entries: Entries) -> Self {
        Self { folders, entries, typed: BTreeMap::new(), opened: Mutex::default() }
    }

    fn add(&mut self, path: PathBuf) -> String {
        let plain = name_of(&path);
        let numbered = (2..1000).map(|number| format!("{plain}-{number}"));
        let free = |name: &String| self.typed.get(name).is_none_or(|known| *known == path);
        let name = std::iter::once(plain.clone()).chain(numbered).find(free).unwrap_or(plain);
        self.typed.insert(name.clone(), path);
        name
    }

    /// Names and places: those of the command line, then those of the folders, the first folder's first.
    fn known(&self) -> Result<BTreeMap<String, PathBuf>, LoadError> {
        let mut known = self.typed.clone();
        for folder in &self.folders {
            for path in entries_of(folder)? {
                let counts = match path.is_dir() {
                    true => self.entries == Entries::FilesAndFolders,
                    false => path.to_string_lossy().ends_with(ENDING),
                };
                if counts {
                    known.entry(name_of(&path)).or_insert(path);
                }
            }
        }
        Ok(known)
    }

    fn names(&self) -> Vec<String> {
        self.known().map(|known| known.into_keys().collect()).unwrap_or_default()
    }

    /// Opens what has this name, unless it is open and has not changed.
    fn open(
        &self,
        name: &str,
        open: impl FnOnce(Folder, &str) -> Result<T, LoadError>,
    ) -> Result<Option<Arc<T>>, LoadError> {
        let Some(path) = self.known()?.remove(name) else { return Ok(None) };
        let stamp = stamp_of(&path);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = opened.get(&path).filter(|(known, _)| *known == stamp) {
            return Ok(Some(file.clone()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entry = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = Arc::new(open(Folder::new(parent), &entry)?);
        opened.insert(path, (stamp, file.clone()));
        Ok(Some(file))
    }
}

/// What lies in a folder; nothing where there is none.
fn entries_of(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let paths =
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| unreadable(folder, error)));
    paths.collect()
}

/// The name of a file or folder: without its ending.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(ENDING).unwrap_or(&name).to_owned()
}

/// Of a folder, what its weights are is told by its own time.
fn stamp_of(path: &Path) -> Stamp {
    fs::metadata(path).map_or((None, 0), |meta| (meta.modified().ok(), meta.len()))
}

fn unreadable(folder: &Path, error: io::Error) -> LoadError {
    LoadError::caused_by(LoadErrorKind::Missing, format!("cannot read {}", folder.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let loras = folder.path().join("loras");
        fs::create_dir(&loras).expect("a folder");
        fs::write(folder.path().join("outside.safetensors"), b"x").expect("a file");
        fs::write(loras.join("inside.safetensors"), b"x").expect("a file");
        fs::write(loras.join("pickle.pt"), b"x").expect("a file");
        let folders = vec![loras, folder.path().join("absent")];
        let shelf: Shelf<LoraFile> = Shelf::of(folders, Entries::Files);
        assert_eq!(shelf.names(), ["inside"]);
        let open = |name: &str| shelf.open(name, |folder, entry| LoraFile::open(&folder, entry));
        let absolute = folder.path().join("outside").display().to_string();
        for name in ["../outside", "..", "", ".", "outside", "pickle", "inside.safetensors", &absolute] {
            assert!(open(name).expect("no file is touched").is_none(), "{name}");
        }
        assert!(open("inside").is_err(), "it is there, and no safetensors file");
    }

    #[test]
    fn typed_files_have_names_of_their_own() {
        let mut shelf: Shelf<LoraFile> = Shelf::of(Vec::new(), Entries::Files);
        assert_eq!(shelf.add("a/style.safetensors".into()), "style");
        assert_eq!(shelf.add("b/style.safetensors".into()), "style-2");
        assert_eq!(shelf.add("a/style.safetensors".into()), "style");
    }
}
