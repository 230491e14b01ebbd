//! Tests of the crate from outside, by what they are about.

/// Files of every kind against what Pillow reads; orientations; limits.
mod decoding;

/// Damaged files of every format: an error or a picture, never a panic.
mod damage;

/// Files written and read again, with their receipts.
mod encoding;

/// Canny's edges.
mod edges;

/// Marks and labels on drawn pictures.
mod finishing;

/// Resizing and luma against Pillow; cutting and pasting.
mod rasters;

/// Properties of compositing.
mod compositing;

/// Pictures and receipts to test with.
mod fixtures;
