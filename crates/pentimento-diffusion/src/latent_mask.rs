//! Masks on the latent grid, and the re-imposition of what is known.
//!
//! Shapes: a mask in pixels becomes one value per latent cell, the largest of the pixels that the cell
//! covers, so that no painted pixel is lost. A cell of value m (0 to 1) takes part in the last m share of the
//! steps; before that, and where m is 0, the known latent is put back after every step at that step's noise
//! level, as diffusers' inpainting does with a 4-channel network. A network for inpainting is shown the mask and what is
//! known instead: there every cell that is painted at all is new, and grey is left to the compositing in pixels.
//! Source: Lugmayr et al. 2022 (re-imposition); Levin & Fried 2023 (a threshold per step for grey).

use crate::error::Result;
use crate::schedule::NoiseLevel;
use candle_core::{Device, Tensor};
use pentimento_request::Mask;

/// A mask on the latent grid with the latent that it protects.
pub(crate) struct KnownLatent {
    /// Mask bytes per cell, row by row.
    cells: Vec<u8>,
    shape: (usize, usize),
    /// The clean latent of the input, `[1, C, h, w]`.
    clean: Tensor,
    /// The unit noise of the start latent, `[1, C, h, w]`.
    noise: Tensor,
}

impl KnownLatent {
    /// Protects `clean` where `mask`, which covers the same picture at any scale, is not painted.
    pub(crate) fn new(mask: &Mask, clean: Tensor, noise: Tensor) -> Result<Self> {
        let (_, _, height, width) = clean.dims4()?;
        Ok(Self { cells: pool(mask, height, width), shape: (height, width), clean, noise })
    }

    /// `x` after step `done` (from 0) of `steps`, with the known cells put back at the level that `x` is at now.
    pub(crate) fn reimpose(&self, x: Tensor, done: usize, steps: usize, level: NoiseLevel) -> Result<Tensor> {
        // What took no part in this step is known: m < 1 - done/steps.
        let free = |value: &u8| usize::from(*value) * steps >= 255 * (steps - done);
        if self.cells.iter().all(free) {
            return Ok(x);
        }
        let (height, width) = self.shape;
        let free: Vec<f32> = self.cells.iter().map(|value| f32::from(u8::from(free(value)))).collect();
        let free = Tensor::from_vec(free, (1, 1, height, width), &Device::Cpu)?;
        let known = ((&self.clean * level.signal)? + (&self.noise * level.noise)?)?;
        let kept = known.broadcast_mul(&(1.0 - &free)?)?;
        kept + x.broadcast_mul(&free)?
    }
}

/// A mask on the latent grid, for networks that are shown it.
pub(crate) struct MaskCells {
    /// Whether a cell is painted at all, row by row.
    painted: Vec<bool>,
    shape: (usize, usize),
}

impl MaskCells {
    /// Of a mask that covers the picture at any scale.
    pub(crate) fn of(mask: &Mask, height: usize, width: usize) -> Self {
        let painted = pool(mask, height, width).into_iter().map(|value| value > 0).collect();
        Self { painted, shape: (height, width) }
    }

    /// A mask that leaves nothing as it is.
    pub(crate) fn all_painted(height: usize, width: usize) -> Self {
        Self { painted: vec![true; height * width], shape: (height, width) }
    }

    /// 1 where cells are painted, `[1, 1, h, w]`.
    pub(crate) fn painted(&self) -> Result<Tensor> {
        self.plane(true)
    }

    /// 1 for the pixels of cells that are not painted, `[1, 1, h·factor, w·factor]`.
    pub(crate) fn known_pixels(&self, factor: usize) -> Result<Tensor> {
        let (height, width) = self.shape;
        self.plane(false)?.upsample_nearest2d(height * factor, width * factor)
    }

    fn plane(&self, painted: bool) -> Result<Tensor> {
        let (height, width) = self.shape;
        let values: Vec<f32> =
            self.painted.iter().map(|cell| f32::from(u8::from(*cell == painted))).collect();
        Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu)
    }
}

/// The largest mask value under each of `height × width` cells.
fn pool(mask: &Mask, height: usize, width: usize) -> Vec<u8> {
    let (across, down) = (mask.size().width() as usize, mask.size().height() as usize);
    let rows: Vec<&[u8]> = mask.values().chunks_exact(across).collect();
    let mut cells = Vec::with_capacity(height * width);
    for cell_row in 0..height {
        let rows = &rows[covered(cell_row, height, down)];
        for cell_column in 0..width {
            let columns = covered(cell_column, width, across);
            let largest = rows.iter().flat_map(|row| &row[columns.clone()]).max();
            cells.push(largest.copied().unwrap_or_default());
        }
    }
    cells
}

/// The pixels that cell `index` of `cells` covers along a side of `pixels`, in part or whole.
fn covered(index: usize, cells: usize, pixels: usize) -> std::ops::Range<usize> {
    let start = index * pixels / cells;
    start..((index + 1) * pixels).div_ceil(cells).max(start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pentimento_request::Size;

    #[test]
    fn a_single_painted_pixel_frees_its_cell() {
        let size = Size::new(16, 8).expect("a size");
        let mut values = vec![0; 128];
        values[15 + 7 * 16] = 9;
        let mask = Mask::new(size, values).expect("a mask");
        assert_eq!(pool(&mask, 1, 2), [0, 9]);
        // Cells larger than pixels, and of another proportion, still see it.
        assert_eq!(pool(&mask, 3, 4)[11], 9);
        assert_eq!(pool(&mask, 16, 32).iter().filter(|value| **value == 9).count(), 4);
    }

    #[test]
    fn grey_takes_part_in_its_last_share_of_the_steps() -> Result<()> {
        let size = Size::new(4, 1).expect("a size");
        let mask = Mask::new(size, vec![0, 30, 128, 255]).expect("a mask");
        let clean = Tensor::zeros((1, 1, 1, 4), candle_core::DType::F32, &Device::Cpu)?;
        let known = KnownLatent::new(&mask, clean.clone(), clean)?;
        let free_after = |done| -> Result<Vec<f32>> {
            let x = Tensor::ones((1, 1, 1, 4), candle_core::DType::F32, &Device::Cpu)?;
            known.reimpose(x, done, 4, NoiseLevel::CLEAN)?.flatten_all()?.to_vec1()
        };
        assert_eq!(free_after(0)?, [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(free_after(1)?, [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(free_after(2)?, [0.0, 0.0, 1.0, 1.0]);
        // 30/255 is less than one step of four: that cell never takes part.
        assert_eq!(free_after(3)?, [0.0, 0.0, 1.0, 1.0]);
        Ok(())
    }
}
