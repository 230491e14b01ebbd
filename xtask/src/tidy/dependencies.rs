//! Who may depend on whom: the first reason why there are several crates.
//!
//! What a crate names is read from its manifest; what it pulls in through others, from `cargo tree`.

use super::Violation;
use crate::run::Step;
use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, path::Path};

/// What a crate must not depend on.
struct Rule {
    krate: &'static str,
    /// Not even through other crates.
    never: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        krate: "pentimento-kernels",
        never: &["candle-core", "tokio", "hyper", "serde", "pentimento-request"],
        why: "kernels work on slices and know no model, no tensor library and no request",
    },
    Rule {
        krate: "pentimento-imaging",
        never: &["candle-core", "tokio", "hyper", "pentimento-kernels", "pentimento-diffusion"],
        why: "pictures are read and written without a model",
    },
    Rule {
        krate: "pentimento-faces",
        never: &["candle-core", "tokio", "hyper", "pentimento-kernels", "pentimento-diffusion"],
        why: "faces are found without a diffusion model: pictures in, numbers out",
    },
    Rule {
        krate: "pentimento-diffusion",
        never: &[
            "tokio",
            "hyper",
            "axum",
            "pentimento-protocols",
            "pentimento-server",
            "candle-transformers",
        ],
        why: "the engine is a pure function: no network, no protocol; its model files are its own",
    },
    Rule {
        krate: "pentimento-protocols",
        never: &[
            "tokio",
            "hyper",
            "axum",
            "candle-core",
            "pentimento-kernels",
            "pentimento-diffusion",
            "pentimento-server",
        ],
        why: "protocols are functions between bytes and neutral requests",
    },
    Rule {
        krate: "pentimento-server",
        never: &["candle-core", "pentimento-kernels", "pentimento-diffusion"],
        why: "the server sees only `dyn Generator`",
    },
];

/// Crates in which `anyhow` is allowed: nobody matches on their errors.
const ANYHOW_IN: [&str; 2] = ["pentimento", "xtask"];

/// Everything that is wrong.
///
/// # Errors
/// When a manifest cannot be read or `cargo tree` fails.
pub(super) fn violations(root: &Path) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for krate in crates(root)? {
        let named = named_dependencies(&fs::read_to_string(root.join(&krate.manifest))?)
            .with_context(|| format!("cannot read {}", krate.manifest))?;
        found.extend(judge_manifest(&krate, &named));
    }
    for rule in RULES.iter().filter(|rule| root.join("crates").join(rule.krate).is_dir()) {
        found.extend(judge_tree(rule, &pulled_in(rule.krate)?));
    }
    Ok(found)
}

struct Krate {
    name: String,
    manifest: String,
}

fn crates(root: &Path) -> Result<Vec<Krate>> {
    let mut crates = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let manifest = format!("crates/{name}/Cargo.toml");
        if root.join(&manifest).is_file() {
            crates.push(Krate { name, manifest });
        }
    }
    crates.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(crates)
}

fn judge_manifest(krate: &Krate, named: &BTreeSet<String>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |message: String| found.push(Violation::of(&krate.manifest, message));
    if krate.name == "pentimento-request" && !named.is_empty() {
        say("the waist has no dependencies: plain data that everybody can share".to_owned());
    }
    if named.contains("anyhow") && !ANYHOW_IN.contains(&krate.name.as_str()) {
        say("libraries name the kinds of their errors: `anyhow` is for the binary and xtask".to_owned());
    }
    let both = named.contains("pentimento-diffusion") && named.contains("pentimento-server");
    if both && krate.name != "pentimento" {
        say("only the binary names both the engine and the server".to_owned());
    }
    found
}

fn judge_tree(rule: &Rule, pulled_in: &BTreeSet<String>) -> Vec<Violation> {
    let place = format!("crates/{}/Cargo.toml", rule.krate);
    let broken = rule.never.iter().filter(|name| pulled_in.contains(**name));
    broken.map(|name| Violation::of(&place, format!("depends on {name}, but {}", rule.why))).collect()
}

/// Names in `[dependencies]` and `[target.….dependencies]`; those of tests and build scripts are free.
fn named_dependencies(manifest: &str) -> Result<BTreeSet<String>> {
    let manifest: toml::Table = manifest.parse()?;
    let targets = manifest.get("target").and_then(|target| target.as_table());
    let tables =
        targets.into_iter().flat_map(|targets| targets.values()).filter_map(|target| target.as_table());
    let lists =
        std::iter::once(&manifest).chain(tables).filter_map(|table| table.get("dependencies")?.as_table());
    Ok(lists.flat_map(|list| list.keys().cloned()).collect())
}

/// Names of all crates that end up in this one, on every platform.
fn pulled_in(krate: &str) -> Result<BTreeSet<String>> {
    let arguments =
        ["tree", "--locked", "--package", krate, "--edges", "normal", "--target", "all", "--prefix", "none"];
    let tree = Step::cargo("cargo tree", &arguments).output()?;
    let tree = String::from_utf8(tree).context("cargo tree speaks UTF-8")?;
    Ok(tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn dependencies_of_tests_are_free() {
        let manifest = "[dependencies]\na = \"1\"\n[target.'cfg(unix)'.dependencies]\nb = \"1\"\n[dev-dependencies]\nc = \"1\"";
        assert_eq!(named_dependencies(manifest).expect("it is TOML"), names(&["a", "b"]));
    }

    #[test]
    fn broken_rules_are_found() {
        let krate = |name: &str| Krate { name: name.to_owned(), manifest: String::new() };
        let broken = |name: &str, list: &[&str]| !judge_manifest(&krate(name), &names(list)).is_empty();
        assert!(broken("pentimento-request", &["serde"]));
        assert!(broken("pentimento-imaging", &["anyhow"]) && !broken("pentimento", &["anyhow"]));
        let both = ["pentimento-diffusion", "pentimento-server"];
        assert!(broken("pentimento-testing", &both) && !broken("pentimento", &both));
        let rule = RULES.iter().find(|rule| rule.krate == "pentimento-server").expect("there is one");
        assert_eq!(judge_tree(rule, &names(&["tokio", "candle-core"])).len(), 1);
    }

    #[test]
    fn rules_name_crates_that_exist() {
        for rule in RULES {
            assert!(crate::run::root().join("crates").join(rule.krate).is_dir(), "{}", rule.krate);
        }
    }
}
