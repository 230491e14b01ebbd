//! Who may say what: rules about the words in a crate's product code.

use super::{
    Violation,
    scan::{Source, has_word},
};

/// Words that a part of the code must not contain.
struct Rule {
    /// Whether a file is meant.
    applies: fn(&Source) -> bool,
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        applies: |source| source.krate() != "pentimento-kernels",
        words: &["unsafe"],
        why: "only kernels may hold unsafe code",
    },
    Rule {
        applies: |source| source.krate() == "pentimento-request",
        words: &["Serialize", "Deserialize", "serde"],
        why: "neutral types have no wire form; each protocol has its own structs",
    },
    Rule {
        applies: |source| source.krate() == "pentimento-diffusion" && !is_golden_test(source),
        words: &["Instant", "SystemTime", "thread_rng", "TcpStream", "std::env", "env::var"],
        why: "the engine is a pure function of weights and request: no clock, environment, global randomness or network",
    },
    Rule {
        applies: |source| source.krate() == "pentimento-protocols",
        words: &["SystemTime::now", "Instant::now", "std::env", "getrandom"],
        why: "protocols have no clock and no randomness of their own: the server brings them in `Context`",
    },
    Rule {
        applies: |source| is_vendors(source) && !is_encoder(source),
        words: &["400", "401", "403", "404", "408", "413", "415", "424", "429", "502", "503", "504"],
        why: "status codes live in the protocols' `encode` only",
    },
];

/// Whether the file is one of the engine's unit tests that fill a folder of their own.
fn is_golden_test(source: &Source) -> bool {
    source.within_src().starts_with("goldens/")
}

/// Whether the file lies in a vendor's folder.
fn is_vendors(source: &Source) -> bool {
    source.krate() == "pentimento-protocols" && source.within_src().contains('/')
}

fn is_encoder(source: &Source) -> bool {
    source.within_src().split('/').any(|part| part.trim_end_matches(".rs") == "encode")
}

/// Names of the vendors' fields. The server must not know one of them, not even in a text.
const VENDOR_FIELDS: &[&str] = &[
    "text_prompts",
    "cfg_scale",
    "init_image",
    "init_image_mode",
    "image_strength",
    "step_schedule_start",
    "step_schedule_end",
    "mask_image",
    "mask_source",
    "clip_guidance_preset",
    "style_preset",
    "finishReason",
    "artifacts",
    "req_key",
    "image_urls",
    "binary_data_base64",
    "return_url",
    "x-amzn-requestid",
    "x-amzn-errortype",
    "amz-sdk-invocation-id",
];

/// Everything that is wrong in a file.
pub(super) fn violations(source: &Source) -> Vec<Violation> {
    if !source.is_product() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| (rule.applies)(source)) {
        for (number, line) in source.code() {
            let said = rule.words.iter().filter(|word| has_word(line, word));
            found.extend(said.map(|word| Violation::at(source, number, format!("`{word}`: {}", rule.why))));
        }
    }
    found.extend(kernels_in_models(source));
    found.extend(vendor_fields(source));
    found.extend(dots_in_decoders(source));
    found
}

/// Model code calls `ops`, never a kernel. Files are mapped by the kernels' crate, and their precision is the engine's too.
fn kernels_in_models(source: &Source) -> Vec<Violation> {
    let path = source.within_src();
    if source.krate() != "pentimento-diffusion" || path.starts_with("ops") || path == "files.rs" {
        return Vec::new();
    }
    let calls = |line: &str| line.replace("pentimento_kernels::Precision", "").contains("pentimento_kernels");
    let lines = source.code().filter(|(_, line)| calls(line));
    lines.map(|(number, _)| Violation::at(source, number, "model code calls `ops`, never a kernel")).collect()
}

/// Looks at texts too, so at the lines as they stand, down to the unit tests.
fn vendor_fields(source: &Source) -> Vec<Violation> {
    if source.krate() != "pentimento-server" {
        return Vec::new();
    }
    let lines = source.lines.iter().take(source.code.len()).enumerate();
    let said = lines.flat_map(|(index, line)| {
        VENDOR_FIELDS.iter().filter(move |field| has_word(line, field)).map(move |field| (index + 1, field))
    });
    said.map(|(line, field)| {
        Violation::at(
            source,
            line,
            format!("`{field}` is a vendor's word: the server knows neutral requests only"),
        )
    })
    .collect()
}

/// `Wire { a, .. }` would lose a new field in silence. Struct updates (`..base`) and ranges are something else.
fn dots_in_decoders(source: &Source) -> Vec<Violation> {
    let is_decoder = source.krate() == "pentimento-protocols"
        && source.within_src().split('/').any(|part| part.trim_end_matches(".rs") == "decode");
    if !is_decoder {
        return Vec::new();
    }
    let text: Vec<_> = source.code().collect();
    let closes = |index: usize, rest: &str| {
        let rest = rest.trim_start();
        let next_line = || text.get(index + 1).is_some_and(|(_, line)| line.trim_start().starts_with('}'));
        rest.starts_with('}') || (rest.is_empty() && next_line())
    };
    let mut found = Vec::new();
    for (index, (number, line)) in text.iter().enumerate() {
        if line.match_indices("..").any(|(at, _)| closes(index, &line[at + 2..])) {
            found.push(Violation::at(
                source,
                *number,
                "name every field: `..` would lose a new one in silence",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> usize {
        violations(&Source::new(path, text)).len()
    }

    #[test]
    fn unsafe_code_is_for_kernels() {
        assert_eq!(messages("crates/pentimento-imaging/src/lib.rs", "unsafe { f() }"), 1);
        assert_eq!(messages("crates/pentimento-kernels/src/lib.rs", "unsafe { f() }"), 0);
        assert_eq!(messages("crates/pentimento-imaging/src/lib.rs", "// unsafe is a word\n\"unsafe\""), 0);
    }

    #[test]
    fn the_engine_has_no_clock_but_its_tests_may() {
        let text = "use std::time::Instant;";
        assert_eq!(messages("crates/pentimento-diffusion/src/generate.rs", text), 1);
        assert_eq!(messages("crates/pentimento-diffusion/src/goldens/true_size.rs", text), 0);
    }

    #[test]
    fn the_engine_calls_kernels_in_one_place() {
        let text = "use pentimento_kernels::gemm;";
        assert_eq!(messages("crates/pentimento-diffusion/src/unet/mod.rs", text), 1);
        assert_eq!(messages("crates/pentimento-diffusion/src/ops/mod.rs", text), 0);
        assert_eq!(messages("crates/pentimento-diffusion/src/ops.rs", text), 0);
        let precision = "pub use pentimento_kernels::Precision;";
        assert_eq!(messages("crates/pentimento-diffusion/src/model.rs", precision), 0);
    }

    #[test]
    fn decoders_name_every_field() {
        let path = "crates/pentimento-protocols/src/bedrock/decode.rs";
        assert_eq!(messages(path, "let Wire { a, .. } = wire;"), 1);
        assert_eq!(messages(path, "let Wire {\n    a,\n    ..\n} = wire;"), 1);
        assert_eq!(messages(path, "Rules { a, ..rules }; 0..5; 0..=n; x[1..]"), 0);
    }

    #[test]
    fn the_server_knows_no_vendors_field() {
        let path = "crates/pentimento-server/src/execute.rs";
        assert_eq!(messages(path, "let x = \"cfg_scale\";"), 1);
        assert_eq!(messages(path, "fn a() {}\n#[cfg(test)]\nmod tests { \"cfg_scale\" }"), 0);
    }

    #[test]
    fn status_codes_are_the_encoders() {
        assert_eq!(messages("crates/pentimento-protocols/src/bedrock/fault.rs", "Reply { status: 403 }"), 1);
        assert_eq!(messages("crates/pentimento-protocols/src/bedrock/encode.rs", "Reply { status: 403 }"), 0);
    }
}
