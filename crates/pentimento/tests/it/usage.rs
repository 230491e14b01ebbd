//! Help, mistakes in what was typed, completions, manual.

use crate::program::{Folder, run};

#[test]
fn help_is_an_answer_and_names_every_option() {
    let options = [
        ("", vec!["generate", "serve", "models", "completions", "man", "Exit codes"]),
        (
            "generate",
            vec![
                "--prompt",
                "--negative",
                "--weighted",
                "--init",
                "--mask",
                "--mask-source",
                "--strength",
                "--sampler",
                "--schedule",
                "--steps",
                "--cfg",
                "--guidance-rescale",
                "--guidance-interval",
                "--step-cache",
                "--token-merging",
                "--seed",
                "--size",
                "--model",
                "--vae",
                "--dtype",
                "--threads",
                "--raw",
                "--whole",
                "--padding",
                "--format",
                "--json",
                "--quiet",
                "--preview",
                "--out",
                "--receipt",
                "K_DPMPP_2M",
                "trailing",
                "Examples",
            ],
        ),
        (
            "serve",
            vec![
                "--listen",
                "--model",
                "--config",
                "--data-dir",
                "--tls-cert",
                "--tls-key",
                "--no-auth",
                "--log-format",
                "--threads",
                "--dtype",
                "PENTIMENTO_API_KEYS",
            ],
        ),
        ("models", vec!["list", "inspect", "licences"]),
    ];
    for (command, expected) in options {
        let words: Vec<_> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let outcome = run(&words).ended_well();
        for option in expected {
            assert!(outcome.text().contains(option), "{option} is missing in the help of '{command}'");
        }
        let longest = outcome.text().lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(longest <= 100, "a line of the help of '{command}' has {longest} letters");
    }
}

#[test]
fn nothing_typed_shows_the_help_and_is_a_mistake() {
    let outcome = run(&[]);
    assert_eq!((outcome.code, outcome.stdout.len()), (Some(2), 0));
    assert!(outcome.stderr.contains("Usage: pentimento"), "{}", outcome.stderr);
}

#[test]
fn mistakes_end_with_2_one_line_and_no_picture() {
    let table = [
        ("generate --out OUT", "--prompt"),
        ("generate --prompt x", "--out"),
        ("generate --prompt x --out OUT --sampler K_FOO", "K_DPMPP_2M"),
        ("generate --prompt x --out OUT --schedule nosuch", "trailing"),
        ("generate --prompt x --out OUT --steps 0", "--steps"),
        ("generate --prompt x --out OUT --steps many", "'many'"),
        ("generate --prompt x --out OUT --cfg 36", "from 0 to 35"),
        ("generate --prompt x --out OUT --size 100x100", "multiples of 8"),
        ("generate --prompt x --out OUT --size big", "WIDTHxHEIGHT"),
        ("generate --prompt x --out OUT --mask m.png", "--init"),
        ("generate --prompt x --out OUT --init i.png --strength -0.5", "--strength"),
        ("generate --prompt x --out OUT --steps -3", "--steps"),
        ("generate --prompt x --out OUT --seed -1", "--seed"),
        ("generate --prompt x --out OUT --strength 0.5", "--init"),
        ("generate --prompt x --out OUT --init i.png --mask-source white", "--mask"),
        ("generate --prompt x --out OUT --promt y", "'--promt'"),
        ("generate --prompt x --out picture.gif", ".gif"),
        ("generate --prompt x --out OUT --threads 0", "--threads"),
        ("serve --tls-cert c.pem", "--tls-key"),
        ("serve --log-format xml", "xml"),
        ("paint", "'paint'"),
    ];
    let folder = Folder::new();
    let out = folder.path("out.png");
    for (typed, part) in table {
        let words: Vec<_> =
            typed.split_whitespace().map(|word| if word == "OUT" { out.as_str() } else { word }).collect();
        run(&words).is_an_error(2, &[part]);
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn what_the_engine_cannot_do_is_refused_by_name() {
    let folder = Folder::new();
    let out = folder.path("out.png");
    let scene = crate::program::repository("examples/scene.png").display().to_string();
    let bare = folder.path("bare");
    crate::broken::copy_model(&bare);
    std::fs::remove_dir_all(folder.path("bare/controlnet-canny")).expect("the model has one");
    let edges = ["generate", "--model", &bare, "-p", "x", "--out", &out, "--init", &scene, "--canny", "0.8"];
    run(&edges).is_an_error(2, &["canny", "'bare'"]);
    std::fs::remove_dir_all(&bare).expect("it is there");
    let adapter = ["generate", "--prompt", "x", "--out", &out, "--lora", "nosuch=0.5"];
    run(&adapter).is_an_error(2, &["nosuch"]);
    let control =
        ["generate", "--prompt", "x", "--out", &out, "--control", "nosuch=1", "--control-image", &scene];
    run(&control).is_an_error(2, &["nosuch"]);
    let large = ["generate", "--prompt", "x", "--out", &out, "--size", "128x128", "--max-pixels", "1000"];
    run(&large).is_an_error(2, &["1000"]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn completions_and_manual_come_from_the_definitions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(run(&["completions", shell]).ended_well().text().contains("mask-source"), "{shell}");
    }
    let page = run(&["man", "generate"]).ended_well();
    assert!(page.text().contains(".TH") && page.text().contains("guidance"));
    assert!(run(&["man"]).ended_well().text().contains("completions"));
    run(&["man", "paint"]).is_an_error(2, &["'paint'"]);
}
