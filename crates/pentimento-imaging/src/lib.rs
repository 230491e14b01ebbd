//! Pictures in and out, without a model.
//!
//! Files become a [`Picture`](pentimento_request::Picture) by [`decode`], under limits that hold before memory is
//! taken; pictures become files by [`encode`], with the receipt of their making inside. Between the two lie
//! [`resize`], [`crop`], [`paste`], [`composite`], and all that makes a mask of a picture: the module [`mask`],
//! whose functions share their names with those for pictures and are called as `mask::crop(…)`.
//!
//! Values: sRGB bytes, alpha not premultiplied; colour profiles and gamma chunks are not applied. Everything here is
//! a pure function of its arguments: the same bytes in give the same bytes out.

mod canny;
mod composite;
mod decode;
mod encode;
mod error;
mod exif;
mod finish;
mod format;
mod headers;
mod label;
mod mark;
pub mod mask;
mod parameters;
mod receipt;
mod rect;
mod resample;
mod resize;
mod smooth;
mod withhold;

pub use canny::canny;
pub use composite::composite;
pub use decode::{Limits, decode};
pub use encode::{encode, read_receipt};
pub use error::{ImageError, ImageErrorKind};
pub use finish::Finish;
pub use format::{Format, sniff};
pub use label::Label;
pub use mark::{Corner, Mark};
pub use mask::{MaskSource, bounding_box};
pub use parameters::parameters;
pub use receipt::to_json;
pub use rect::Rect;
pub use resample::Filter;
pub use resize::{crop, paste, resize, resize_by, without_alpha};
pub use smooth::smooth;
pub use withhold::{black, blur_away};
