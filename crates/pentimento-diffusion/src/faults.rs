//! Everything that is wrong with weights, noted while they are bound instead of ending at the first fault.
//!
//! Either every value is read, or tensors are only looked for: then nothing but names and shapes is known of them, and
//! networks that are bound to them are good for nothing.

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
pub(crate) struct Faults {
    found: Arc<Mutex<Found>>,
    names_only: bool,
}

#[derive(Default)]
struct Found {
    faults: Vec<String>,
    absent: Vec<String>,
    tensors: u64,
}

impl Faults {
    /// A list for tensors that are looked for and not read.
    pub(crate) fn of_names() -> Self {
        Self { names_only: true, ..Self::default() }
    }

    /// Whether tensors are looked for and not read.
    pub(crate) fn names_only(&self) -> bool {
        self.names_only
    }

    /// Notes a tensor that was looked for.
    pub(crate) fn look_for(&self, name: &str, found: Result<(), LoadError>, is_there: bool) {
        self.lock().tensors += 1;
        match found {
            Ok(()) => {}
            Err(_) if !is_there => self.lock().absent.push(name.to_owned()),
            Err(error) => self.note(&error),
        }
    }

    /// The tensors that were looked for and are not there.
    pub(crate) fn absent(&self) -> Vec<String> {
        self.lock().absent.clone()
    }

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
                let Some(zeros) = zeros(shape) else { return Err(error) };
                self.note(&error);
                Ok(zeros)
            }
        }
    }

    /// The faults, and how many tensors were read.
    pub(crate) fn told(&self) -> (Vec<String>, u64) {
        let found = self.lock();
        (found.faults.clone(), found.tensors)
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in for a tensor; `None` where so much would be needed that the configuration must be damaged.
pub(crate) fn zeros(shape: &[usize]) -> Option<Vec<f32>> {
    let count = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    Some(vec![0.0; count.filter(|count| *count <= MOST_VALUES)?])
}
