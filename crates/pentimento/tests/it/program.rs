//! How the program is run in these tests.

use pentimento_imaging::{Limits, decode};
use pentimento_request::Picture;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

/// Limits for pictures that the tests have made themselves.
pub(crate) const LIMITS: Limits = Limits { bytes: 10_000_000, pixels: 1_000_000 };

/// The program, in an environment that says nothing.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pentimento"));
    for variable in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "API_KEYS", "DATA_DIR"]
        .map(|name| format!("PENTIMENTO_{name}"))
    {
        command.env_remove(variable);
    }
    for variable in ["RUST_LOG", "HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(variable);
    }
    // The user's own models are no part of these tests, and no two servers share their tasks.
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let (process, number) = (std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let data = format!("{}/no-data/{process}-{number}", env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_DATA_HOME", data);
    command
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Text on the standard output.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text")
    }

    /// Fails unless it ended well and had nothing to remark.
    pub(crate) fn ended_well(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert_eq!(self.stderr, "", "nothing but errors is said in a pipe");
        self
    }

    /// Fails unless it ended with this code and one line that contains all of these.
    pub(crate) fn is_an_error(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, b"", "errors are told on standard error only");
        let line = self.stderr.trim_end_matches('\n');
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{line}");
        for part in parts {
            assert!(line.contains(part), "'{part}' is missing in: {line}");
        }
    }
}

/// Runs the program with these words.
pub(crate) fn run(words: &[&str]) -> Outcome {
    run_with(words, b"")
}

/// Runs the program with these words and this standard input.
pub(crate) fn run_with(words: &[&str], input: &[u8]) -> Outcome {
    let mut command = program();
    command.args(words);
    finish(command, input)
}

/// Runs a program to its end with this standard input.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that needs no input may be gone by now.
    let _ = stdin.write_all(input);
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8(stderr).expect("messages are text");
    Outcome { code: status.code(), stdout, stderr }
}

/// A folder for one test.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for a folder"))
    }

    /// A file's path in it, as it is typed.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Writes a file and answers its path.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.0.path().join(name), bytes).expect("the file is written");
        self.path(name)
    }

    /// Names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder is there");
        entries
            .map(|entry| entry.expect("it is readable").file_name().to_string_lossy().into_owned())
            .collect()
    }
}

/// A picture file.
pub(crate) fn picture(path: impl AsRef<Path>) -> Picture {
    decode(&fs::read(path).expect("the picture is there"), &LIMITS).expect("it is a picture")
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Copies a folder with all that is in it, over what is there.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => fs::copy(entry.path(), target).map(drop).expect("a copy"),
        }
    }
}
