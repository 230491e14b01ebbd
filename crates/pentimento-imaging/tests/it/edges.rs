//! Canny's edges against OpenCV's.

use crate::fixtures::golden_picture as read;
use pentimento_imaging::canny;
use pentimento_request::CannyThresholds;

#[test]
fn edges_are_those_of_opencv() {
    for name in ["noise", "shapes", "tiny"] {
        let picture = read(&format!("../canny/{name}.png"));
        for (low, high) in [(100.0, 200.0), (30.0, 90.5), (0.0, 0.0)] {
            let expected = read(&format!("../canny/{name}_{low}_{high}.png"));
            let got = canny(&picture, CannyThresholds::new(low, high).expect("thresholds"));
            assert_eq!(got.size(), expected.size());
            // Bit for bit, where 1 % of the edges would be allowed.
            assert!(got.pixels() == expected.pixels(), "{name} {low} {high}");
        }
    }
}
