//! Prompts with emphasis, breaks and clip skip against A1111's rules on transformers.

use super::{Golden, against, assert_close, bits, files, measured, part};
use crate::{
    Precision,
    config::TextConfig,
    emphasis,
    prompt::{self, Reader, Reading},
    text_encoders::{TextEncoders, TextPart},
    tokenizer::Tokenizer,
};
use candle_core::Tensor;
use pentimento_request::{ClipSkip, Prompt, PromptSyntax};
use serde_json::Value;

/// A tiny model's text encoder and tokenizer.
fn tiny() -> (TextEncoders, [Tokenizer; 1]) {
    let label = "tiny-sd15";
    let (config, weights) = part::<TextConfig>(label, "text_encoder", "model");
    let parts = [TextPart { config: &config, weights: &weights, packed: None, changes: None, label }];
    let encoders = TextEncoders::load(&parts, Precision::F32).expect("an encoder");
    let tokenizer = Tokenizer::load(&files(label), "tokenizer").expect("a tokenizer");
    (encoders, [tokenizer])
}

fn text(case: &Value) -> &str {
    case["text"].as_str().expect("a text")
}

#[test]
fn strange_prompts_become_the_tokens_of_transformers() {
    against("transformers, A1111's rules", "weights of tokens");
    let golden = Golden::open("emphasis");
    let tokenizer = Tokenizer::load(&files("tiny-sd15"), "tokenizer").expect("a tokenizer");
    let cases = golden.case["read"].as_array().expect("texts");
    assert!(cases.len() > 40);
    for case in cases {
        let expected: Vec<Vec<(u32, f32)>> =
            serde_json::from_value(case["chunks"].clone()).expect("chunks of ids and weights");
        let got = prompt::cut(&tokenizer, &emphasis::parse(text(case)), 75).expect("chunks");
        let ids = |chunks: &[Vec<(u32, f32)>]| -> Vec<Vec<u32>> {
            chunks.iter().map(|chunk| chunk.iter().map(|(id, _)| *id).collect()).collect()
        };
        assert_eq!(ids(&got), ids(&expected), "{:?}", text(case));
        for ((_, got), (_, expected)) in got.iter().flatten().zip(expected.iter().flatten()) {
            // Forty pairs of brackets weigh 45.
            let difference = f64::from((got - expected).abs() / expected.abs().max(1.0));
            // Weights beyond all use are bounded.
            if expected.abs() < 1e4 {
                measured(text(case), difference, "of the weight", 1e-6);
            }
        }
    }
}

#[test]
fn emphasis_and_clip_skip_change_the_states_as_the_rules_say() {
    against("transformers, A1111's rules", "text states with emphasis and clip skip");
    let golden = Golden::open("emphasis");
    let (encoders, tokenizers) = tiny();
    let reader = Reader { towers: encoders.towers(&tokenizers), zeros_for_empty: false };
    let positions: Vec<u32> = serde_json::from_value(golden.case["positions"].clone()).expect("positions");
    for (name, case) in golden.case["encoded"].as_object().expect("texts") {
        let clip_skip = case["clip_skip"].as_u64().and_then(|layer| ClipSkip::new(layer as usize).ok());
        let reading =
            Reading { syntax: PromptSyntax::Emphasis, clip_skip: clip_skip.expect("a layer"), guides: false };
        let prompts = [Prompt { text: text(case).to_owned(), weight: 1.0 }];
        let embedded = prompt::embed(&reader, &prompts, reading, &mut || Ok(())).expect("states");
        let states = embedded.positive.context.squeeze(0).expect("one prompt");
        let chunks = states.dim(0).expect("tokens") / 77;
        assert_eq!(embedded.reports[0].chunks.len(), chunks);
        let kept: Vec<u32> = (0..chunks as u32)
            .flat_map(|chunk| positions.iter().map(move |position| 77 * chunk + position))
            .collect();
        let kept = Tensor::new(kept, states.device()).and_then(|kept| states.index_select(&kept, 0));
        assert_close(text(case), &kept.expect("tokens"), &golden.tensor(name), 1e-4);
    }
}

#[test]
fn texts_of_many_chunks_are_what_their_chunks_are_alone() {
    let (encoders, tokenizers) = tiny();
    let reader = Reader { towers: encoders.towers(&tokenizers), zeros_for_empty: false };
    let clip_skip = ClipSkip::new(1).expect("the last layer");
    let reading = Reading { syntax: PromptSyntax::Emphasis, clip_skip, guides: true };
    let embed = |texts: &[(&str, f32)]| {
        let prompts = texts.iter().map(|(text, weight)| Prompt { text: (*text).to_owned(), weight: *weight });
        let mut calls = 0;
        let mut between = || {
            calls += 1;
            Ok(())
        };
        let embedded = prompt::embed(&reader, &prompts.collect::<Vec<_>>(), reading, &mut between);
        let embedded = embedded.expect("states");
        (bits(&embedded.positive.context), bits(&embedded.negative.expect("guided").context), calls)
    };
    let words = ["a red house", "a tree", "some snow", "a cat", "two birds", "the moon"];
    let alone: Vec<Vec<u32>> = words.iter().map(|word| embed(&[(word, 1.0)]).0).collect();
    let (_, empty, calls) = embed(&[(words[0], 1.0)]);
    assert_eq!(calls, 1, "a text and the empty one pass the encoder together");
    // Six chunks against one, which is filled up with five empty ones.
    let long = words.join(" BREAK ");
    let (positive, negative, calls) = embed(&[(&long, 1.0), (words[1], -1.0)]);
    assert!(positive == alone.concat());
    assert!(negative == [&alone[1][..], &empty.repeat(5)].concat());
    assert_eq!(calls, 4, "the empty one, then six chunks in two passes, then one");
}
