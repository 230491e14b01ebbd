//! Canny's edge detector, bit for bit as OpenCV computes it for 8-bit pictures.
//!
//! Steps: grey by fixed-point weights, Sobel gradients of 3×3 with the border's pixels repeated, their sum of amounts (L1),
//! thinning to ridges along the gradient's direction, and hysteresis with the two thresholds.
//! Source: Canny 1986; OpenCV 4's `cvtColor(COLOR_RGB2GRAY)` and `Canny(…, apertureSize = 3, L2gradient = false)`.

use pentimento_request::{CannyThresholds, Channels, Picture};

/// The picture's edges, white on black, as an RGB picture of the same size. Alpha does not count.
pub fn canny(picture: &Picture, thresholds: CannyThresholds) -> Picture {
    let size = picture.size();
    let (width, height) = (size.width() as usize, size.height() as usize);
    let grey: Vec<u8> = picture.pixels().chunks_exact(picture.channels().count()).map(grey).collect();
    let edges = edges(&gradients(&grey, width, height), width, height, thresholds);
    let pixels = edges.into_iter().flat_map(|edge| [if edge { 255 } else { 0 }; 3]).collect();
    Picture::new(size, Channels::Rgb, pixels).expect("three bytes for each pixel")
}

/// Luma in fixed point of 15 bits (OpenCV, color_rgb.simd.hpp: RY15, GY15, BY15).
fn grey(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15) as u8
}

/// Horizontal and vertical gradient of each pixel, and the sum of their amounts.
struct Gradients {
    x: Vec<i32>,
    y: Vec<i32>,
    amount: Vec<i32>,
}

fn gradients(grey: &[u8], width: usize, height: usize) -> Gradients {
    let mut gradients = Gradients {
        x: Vec::with_capacity(grey.len()),
        y: Vec::with_capacity(grey.len()),
        amount: Vec::new(),
    };
    for row in 0..height {
        let rows = [row.saturating_sub(1), row, (row + 1).min(height - 1)];
        let [above, here, below] = rows.map(|row| &grey[row * width..(row + 1) * width]);
        for column in 0..width {
            let (left, right) = (column.saturating_sub(1), (column + 1).min(width - 1));
            let at = |row: &[u8], column: usize| i32::from(row[column]);
            gradients.x.push(
                at(above, right) - at(above, left)
                    + 2 * (at(here, right) - at(here, left))
                    + at(below, right)
                    - at(below, left),
            );
            gradients.y.push(
                at(below, left) - at(above, left)
                    + 2 * (at(below, column) - at(above, column))
                    + at(below, right)
                    - at(above, right),
            );
        }
    }
    gradients.amount = gradients.x.iter().zip(&gradients.y).map(|(x, y)| x.abs() + y.abs()).collect();
    gradients
}

/// tan(22.5°) in fixed point of 15 bits (OpenCV, canny.cpp: TG22).
const TANGENT: i64 = 13573;

fn edges(gradients: &Gradients, width: usize, height: usize, thresholds: CannyThresholds) -> Vec<bool> {
    let low = f64::from(thresholds.low()).floor() as i64;
    let high = f64::from(thresholds.high()).floor() as i64;
    let mut edges = vec![false; width * height];
    let mut ridges = vec![false; width * height];
    let mut stack = Vec::new();
    for row in 0..height {
        for column in 0..width {
            let at = row * width + column;
            let amount = i64::from(gradients.amount[at]);
            if amount <= low || !is_ridge(gradients, row, column, width, height) {
                continue;
            }
            ridges[at] = true;
            if amount > high {
                edges[at] = true;
                stack.push(at);
            }
        }
    }
    // Whatever hangs together with a strong edge is an edge.
    while let Some(at) = stack.pop() {
        let (row, column) = (at / width, at % width);
        for row in row.saturating_sub(1)..=(row + 1).min(height - 1) {
            for column in column.saturating_sub(1)..=(column + 1).min(width - 1) {
                let near = row * width + column;
                if ridges[near] && !edges[near] {
                    edges[near] = true;
                    stack.push(near);
                }
            }
        }
    }
    edges
}

/// Whether the gradient is largest here along its own direction; of two equal neighbours the later one counts.
fn is_ridge(gradients: &Gradients, row: usize, column: usize, width: usize, height: usize) -> bool {
    // Beyond the picture there is no gradient.
    let amount = |down: isize, right: isize| {
        let row = row.checked_add_signed(down).filter(|row| *row < height);
        let column = column.checked_add_signed(right).filter(|column| *column < width);
        row.zip(column).map_or(0, |(row, column)| gradients.amount[row * width + column])
    };
    let at = row * width + column;
    let (here, x, y) = (gradients.amount[at], gradients.x[at], gradients.y[at]);
    let (across, along) = (i64::from(x.abs()), i64::from(y.abs()) << 15);
    let tangent = across * TANGENT;
    if along < tangent {
        return here > amount(0, -1) && here >= amount(0, 1);
    }
    // tan(67.5°) = tan(22.5°) + 2
    if along > tangent + (across << 16) {
        return here > amount(-1, 0) && here >= amount(1, 0);
    }
    let side = if (x ^ y) < 0 { -1 } else { 1 };
    here > amount(-1, -side) && here > amount(1, side)
}
