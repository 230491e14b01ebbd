//! Everything that is wrong with weights, noted while they are bound instead of ending at the first fault.

use crate::error::LoadError;
use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most values that stand in for a tensor that is missing: four times the largest tensor of Stable Diffusion XL. A damaged
/// configuration may ask for any number.
const MOST_VALUES: usize = 1 << 28;

/// Where faults are noted. Clones share one list.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Found>>);

#[derive(Default)]
struct Found {
    faults: Vec<String>,
    tensors: u64,
}

impl Faults {
    /// Notes a fault, once.
    pub(crate) fn note(&self, fault: &dyn Display) {
        let fault = fault.to_string();
        let mut found = self.lock();
        if !found.faults.contains(&fault) {
            found.faults.push(fault);
        }
    }

    /// Notes what is wrong with a tensor that was read, and goes on with zeros where there is none.
    ///
    /// # Errors
    /// When so many zeros were needed that the configuration must be damaged.
    pub(crate) fn look_at(
        &self,
        name: &str,
        shape: &[usize],
        read: Result<Vec<f32>, LoadError>,
    ) -> Result<Vec<f32>, LoadError> {
        self.lock().tensors += 1;
        match read {
            Ok(values) => {
                let strangers = values.iter().filter(|value| !value.is_finite()).count();
                if strangers > 0 {
                    let of = values.len();
                    self.note(&format!("tensor '{name}': {strangers} of {of} values are no finite numbers"));
                }
                Ok(values)
            }
            Err(error) => {
                let count = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
                let Some(count) = count.filter(|count| *count <= MOST_VALUES) else { return Err(error) };
                self.note(&error);
                Ok(vec![0.0; count])
            }
        }
    }

    /// The faults, and how many tensors were read.
    pub(crate) fn told(&self) -> (Vec<String>, u64) {
        let found = self.lock();
        (found.faults.clone(), found.tensors)
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
