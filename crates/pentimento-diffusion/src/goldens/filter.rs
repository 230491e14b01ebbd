//! The safety checker against diffusers.

use super::{Golden, files, vision::picture};
use crate::filter::ContentFilter;

#[test]
fn scores_and_decisions_are_those_of_diffusers() {
    let golden = Golden::open("filter");
    let filter = ContentFilter::find(&files("tiny-checked")).expect("files").expect("a checker");
    let checker = filter.checker().expect("weights");
    for (index, objects) in golden.case.as_array().expect("decisions").iter().enumerate() {
        let scores = checker.scores(&picture(&golden, &format!("{index}.picture"))).expect("scores");
        for (part, got) in [("special", &scores.special), ("concepts", &scores.concepts)] {
            let expected = golden.f64s(&format!("{index}.{part}"));
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(expected) {
                // Both are rounded to three digits, the one as f32 and perhaps to the other side.
                assert!((got - expected).abs() < 1.1e-3, "{index}.{part}: {got}, not {expected}");
            }
        }
        assert_eq!(Some(scores.object()), objects.as_bool(), "{index}: {scores:?}");
    }
}

#[test]
fn a_model_without_a_checker_has_none() {
    assert!(ContentFilter::find(&files("tiny-sd15")).expect("files").is_none());
}
