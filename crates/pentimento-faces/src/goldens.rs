//! Against facenet-pytorch, InsightFace's arithmetic, OpenCV and onnxruntime: `reference/faces.py` tells what lies in the
//! golden files.

use crate::{Detector, Embedder, Face, FaceErrorKind, Landmarks, align, align::Similarity};
use pentimento_imaging::{Limits, Rect, crop, decode};
use pentimento_request::Picture;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/goldens/faces")
}

fn file(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn picture(name: &str) -> Picture {
    decode(&file(name), &Limits { bytes: 1 << 20, pixels: 1 << 20 }).expect("a picture")
}

fn golden(name: &str) -> Vec<f32> {
    let bytes = file("faces.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("a golden file");
    let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn expected_faces(name: &str) -> Vec<Face> {
    let (boxes, scores, points) = (
        golden(&format!("{name}.boxes")),
        golden(&format!("{name}.scores")),
        golden(&format!("{name}.points")),
    );
    let rows = boxes.chunks_exact(4).zip(scores).zip(points.chunks_exact(10));
    let face = |((corners, score), points): ((&[f32], f32), &[f32])| Face {
        left: corners[0],
        top: corners[1],
        right: corners[2],
        bottom: corners[3],
        score,
        landmarks: [0, 1, 2, 3, 4].map(|point| [points[2 * point], points[2 * point + 1]]),
    };
    rows.map(face).collect()
}

/// The largest difference of any coordinate, in pixels.
fn farthest(one: &Face, other: &Face) -> f32 {
    let coordinates = |face: &Face| {
        let Face { left, top, right, bottom, score: _, landmarks } = *face;
        [left, top, right, bottom].into_iter().chain(landmarks.into_iter().flatten()).collect::<Vec<f32>>()
    };
    coordinates(one).iter().zip(coordinates(other)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[track_caller]
fn assert_same_faces(what: &str, got: &[Face], expected: &[Face], pixels: f32) {
    assert_eq!(got.len(), expected.len(), "{what}: another number of faces");
    for expected in expected {
        let nearest = got.iter().map(|face| farthest(face, expected)).fold(f32::INFINITY, f32::min);
        assert!(nearest <= pixels, "{what}: {expected:?} is off by {nearest} pixels");
        let same = got.iter().find(|face| farthest(face, expected) == nearest).expect("there is one");
        assert!((same.score - expected.score).abs() < 1e-3, "{what}: {} and {}", same.score, expected.score);
    }
}

#[test]
fn mtcnn_finds_what_facenet_pytorch_finds() {
    let detector = Detector::built_in().expect("the built-in networks");
    assert_eq!(detector.name(), "MTCNN");
    for name in ["face", "two", "turned"] {
        let got = detector.detect(&picture(&format!("photos/{name}.webp"))).expect("faces");
        let expected = expected_faces(name);
        assert_same_faces(name, &got, &expected, 0.01);
        // The largest first.
        assert!(farthest(&got[0], &expected[0]) < 0.01, "{name}");
    }
    assert!(detector.detect(&picture("photos/nobody.webp")).expect("no faces").is_empty());
}

#[test]
fn faces_are_aligned_as_insightface_aligns_them() {
    for name in ["face", "two", "turned"] {
        let landmarks = expected_faces(name)[0].landmarks;
        let Similarity { a, b, u, v } = Similarity::to_template(&landmarks).expect("a similarity");
        let expected = golden(&format!("{name}.transform"));
        for (got, expected) in [a, -b, u, b, a, v].into_iter().zip(expected) {
            assert!((got as f32 - expected).abs() < 2e-4, "{name}: {got} and {expected}");
        }
        let got = align(&picture(&format!("photos/{name}.webp")), &landmarks, 112).expect("a crop");
        let expected = picture(&format!("crops/{name}.webp"));
        let differences: Vec<u8> =
            got.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).collect();
        let mean = differences.iter().map(|value| f64::from(*value)).sum::<f64>() / differences.len() as f64;
        let largest = differences.iter().max().expect("pixels");
        // OpenCV rounds places to a 32nd of a pixel.
        assert!(mean < 0.3 && *largest <= 8, "{name}: {mean} on average, {largest} at most");
    }
}

#[test]
fn landmarks_without_extent_have_no_crop() {
    let picture = picture("photos/nobody.webp");
    for place in [7.0, f32::NAN, f32::INFINITY] {
        let landmarks: Landmarks = [[place; 2]; 5];
        assert!(align(&picture, &landmarks, 112).is_none(), "{place}");
    }
}

#[test]
fn scrfd_files_are_decoded_as_insightface_does() {
    let detector = Detector::load(&file("networks/scrfd.onnx"), "scrfd.onnx").expect("a detector");
    assert_eq!(detector.name(), "SCRFD");
    // A square: in a padded rim all cells are as good as one another, and which of them stay is left to the last bits.
    let square = crop(&picture("photos/face.webp"), Rect { x: 32, y: 0, width: 224, height: 224 });
    let got = detector.detect(&square.expect("a square")).expect("faces");
    assert_same_faces("scrfd", &got, &expected_faces("scrfd"), 0.02);
}

#[test]
fn yunet_files_are_decoded_as_opencv_does() {
    let detector = Detector::load(&file("networks/yunet.onnx"), "yunet.onnx").expect("a detector");
    assert_eq!(detector.name(), "YuNet");
    let got = detector.detect(&picture("photos/face.webp")).expect("faces");
    assert_same_faces("yunet", &got, &expected_faces("yunet"), 0.02);
}

#[test]
fn embeddings_are_those_of_onnxruntime() {
    let embedder = Embedder::load(&file("networks/w600k_tiny.onnx"), "w600k_tiny.onnx").expect("an embedder");
    let got = embedder.embed_aligned(&picture("crops/face.webp")).expect("an embedding");
    let expected = golden("embedding");
    let largest = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.len() == 512 && largest < 1e-4, "{largest}");
    let again = embedder.embed_aligned(&picture("crops/face.webp")).expect("an embedding");
    assert_eq!(got, again);
}

#[test]
fn files_of_another_kind_are_refused_with_their_name() {
    let (detector, embedder) = (file("networks/scrfd.onnx"), file("networks/w600k_tiny.onnx"));
    let wrong = [Detector::load(&embedder, "a.onnx").err(), Embedder::load(&detector, "a.onnx").err()];
    for error in wrong {
        let error = error.expect("it is another kind");
        assert_eq!(error.kind(), FaceErrorKind::Unsupported, "{error}");
        assert!(error.to_string().starts_with("a.onnx: "), "{error}");
    }
}

#[test]
fn damaged_files_are_errors() {
    let whole = file("networks/scrfd.onnx");
    let mut damaged: Vec<Vec<u8>> = [0, 1, 7, 100, whole.len() / 2, whole.len() - 1]
        .into_iter()
        .map(|length| whole[..length].to_vec())
        .collect();
    damaged.push(b"GIF89a, which is no network".to_vec());
    // Bits of the graph's part before the weights.
    for place in (0..400).step_by(7) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        damaged.push(flipped);
    }
    for (index, file) in damaged.iter().enumerate() {
        // A flipped bit may leave a network that loads; then it runs, or fails with its name.
        let detector = match Detector::load(file, "damaged.onnx") {
            Ok(detector) => detector,
            Err(error) => {
                assert!(error.to_string().starts_with("damaged.onnx: "), "{index}: {error}");
                continue;
            }
        };
        if let Err(error) = detector.detect(&picture("photos/nobody.webp")) {
            assert!(error.to_string().starts_with("damaged.onnx: "), "{index}: {error}");
        }
    }
}
