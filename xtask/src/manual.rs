//! Manual pages and completions as files, made by the program itself from its own definitions.

use crate::run::{Step, root};
use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Commands that have a page of their own.
const COMMANDS: [&str; 4] = ["generate", "serve", "models", "styles"];

/// Shells and the names of their completion files.
const SHELLS: [(&str, &str); 3] =
    [("bash", "pentimento.bash"), ("zsh", "_pentimento"), ("fish", "pentimento.fish")];

/// Writes all of them into a folder.
///
/// # Errors
/// When the program cannot be built or a file cannot be written.
pub(crate) fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    save(folder, "pentimento.1", &["man"])?;
    for command in COMMANDS {
        save(folder, &format!("pentimento-{command}.1"), &["man", command])?;
    }
    for (shell, file) in SHELLS {
        save(folder, file, &["completions", shell])?;
    }
    Ok(())
}

fn save(folder: &Path, file: &str, arguments: &[&str]) -> Result<()> {
    let command = [&["run", "--quiet", "--package", "pentimento", "--"], arguments].concat();
    let text = Step::cargo(file, &command).within(root()).output()?;
    let path = folder.join(file);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
