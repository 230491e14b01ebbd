//! The vendors' own clients against a running server: sets up their packages, and runs `clients/run.py`.
//!
//! Each `clients/requirements*.txt` becomes a virtual environment of its own (`requirements-old.txt` lies in
//! `clients/.venv-old`), since old and current clients exclude each other. Node's packages come from the lock file.
//! Where Python, Node or the registries are missing this is skipped with a notice; in CI it is a failure.

use crate::run::{Step, in_ci, root, works};
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Sets up and runs the clients' tests.
///
/// # Errors
/// When a test fails, or in CI when something that they need is missing.
pub(crate) fn test() -> Result<()> {
    let folder = root().join("clients");
    if !folder.join("run.py").is_file() {
        return skip("there is no clients/run.py");
    }
    if let Some(missing) = missing_program() {
        return skip(&format!("{missing} is not installed"));
    }
    if let Err(error) = set_up(&folder) {
        return skip(&format!("their packages cannot be installed ({error:#})"));
    }
    // The store that the packages brought is only now there for these.
    Step::cargo("results in a bucket", &["test", "--locked", "--workspace", "--test", "it", "s3::"])
        .env("PENTIMENTO_STORE_NEEDED", "1")
        .run()?;
    let binary = build()?;
    let python = python_of(&folder.join(".venv"));
    let python = if python.is_file() { python } else { PathBuf::from(PYTHON) };
    Step::new("clients", python, &[folder.join("run.py"), binary]).run()
}

/// The Python that makes virtual environments.
const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// npm's name as a program.
const NPM: &str = if cfg!(windows) { "npm.cmd" } else { "npm" };

fn skip(reason: &str) -> Result<()> {
    if in_ci() {
        bail!("the clients' tests cannot run: {reason}");
    }
    eprintln!("== clients: skipped, since {reason}");
    Ok(())
}

fn missing_program() -> Option<&'static str> {
    [PYTHON, "node", NPM].into_iter().find(|program| !works(program, &["--version"]))
}

fn set_up(folder: &Path) -> Result<()> {
    for requirements in requirements(folder)? {
        install_python(folder, &requirements)?;
    }
    if folder.join("package-lock.json").is_file() {
        install_node(folder)?;
    }
    Ok(())
}

/// The requirements files by name, as `requirements.txt` and `requirements-old.txt`.
fn requirements(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("requirements") && name.ends_with(".txt") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes or refreshes the environment of a requirements file, unless it was made from the same one.
fn install_python(folder: &Path, requirements: &str) -> Result<()> {
    let venv = folder.join(venv_name(requirements));
    let (wanted, mark) = (fs::read(folder.join(requirements))?, venv.join("made-from.txt"));
    if fs::read(&mark).is_ok_and(|made_from| made_from == wanted) {
        return Ok(());
    }
    let name = format!("packages of clients/{requirements}");
    Step::new(&name, PYTHON, &["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), venv.as_os_str()])
        .run()?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements];
    Step::new(&name, python_of(&venv), &install).within(folder).run()?;
    fs::write(&mark, wanted).with_context(|| format!("cannot write {}", mark.display()))
}

/// `requirements.txt` lives in `.venv`, `requirements-old.txt` in `.venv-old`.
fn venv_name(requirements: &str) -> String {
    let rest = requirements.strip_prefix("requirements").and_then(|rest| rest.strip_suffix(".txt"));
    format!(".venv{}", rest.unwrap_or_default())
}

fn python_of(venv: &Path) -> PathBuf {
    if cfg!(windows) { venv.join("Scripts/python.exe") } else { venv.join("bin/python") }
}

/// Installs Node's packages, unless they were installed from the same lock file.
fn install_node(folder: &Path) -> Result<()> {
    let (wanted, mark) =
        (fs::read(folder.join("package-lock.json"))?, folder.join("node_modules/.made-from.json"));
    if fs::read(&mark).is_ok_and(|made_from| made_from == wanted) {
        return Ok(());
    }
    let quiet = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
    Step::new("packages of clients/package-lock.json", NPM, &quiet).within(folder).run()?;
    fs::write(&mark, wanted).with_context(|| format!("cannot write {}", mark.display()))
}

/// Builds the program in the profile that the tests have built already, and answers where it is.
fn build() -> Result<PathBuf> {
    Step::cargo("the program", &["build", "--package", "pentimento", "--locked"]).run()?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let binary = root().join(target).join("debug").join(format!("pentimento{}", env::consts::EXE_SUFFIX));
    if !binary.is_file() {
        bail!("the program was built, but is not at {}", binary.display());
    }
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirements_file_has_its_environment() {
        assert_eq!(venv_name("requirements.txt"), ".venv");
        assert_eq!(venv_name("requirements-old.txt"), ".venv-old");
    }
}
