//! Rectangles that overlap: which of them stay.

/// A rectangle: left, top, right, bottom.
pub(crate) type Corners = [f32; 4];

/// What two rectangles share is measured against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// The area that they cover together.
    Union,
    /// The smaller one's area.
    Smaller,
}

/// How rectangles are measured.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// 1 where corners are pixels that belong to the rectangle, 0 where they are lines between pixels.
    pub(crate) rim: f32,
    pub(crate) against: Against,
    /// Largest share that two may have in common.
    pub(crate) most: f32,
}

/// Indices of those that stay, the best first: each drops all worse ones that overlap with it.
pub(crate) fn suppress(boxes: &[Corners], scores: &[f32], measure: Measure) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
    let mut kept: Vec<usize> = Vec::new();
    for candidate in order {
        if kept.iter().all(|better| share(&boxes[*better], &boxes[candidate], measure) <= measure.most) {
            kept.push(candidate);
        }
    }
    kept
}

fn share(one: &Corners, other: &Corners, measure: Measure) -> f32 {
    let side = |low: f32, high: f32| high - low + measure.rim;
    let area = |corners: &Corners| side(corners[0], corners[2]) * side(corners[1], corners[3]);
    let width = side(one[0].max(other[0]), one[2].min(other[2])).max(0.0);
    let height = side(one[1].max(other[1]), one[3].min(other[3])).max(0.0);
    let common = width * height;
    let whole = match measure.against {
        Against::Union => area(one) + area(other) - common,
        Against::Smaller => area(one).min(area(other)),
    };
    if whole > 0.0 { common / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_two_that_overlap_stays() {
        let boxes =
            [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0], [2.0, 2.0, 4.0, 4.0]];
        let scores = [0.8, 0.9, 0.5, 0.4];
        let union = Measure { rim: 0.0, against: Against::Union, most: 0.5 };
        assert_eq!(suppress(&boxes, &scores, union), [1, 2, 3]);
        assert_eq!(suppress(&boxes, &scores, Measure { against: Against::Smaller, ..union }), [1, 2]);
    }
}
