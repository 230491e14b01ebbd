//! What the goldens measured, for the table in docs/numerics.md.
//!
//! Where `PENTIMENTO_NUMERICS` names a folder, every row is kept there in a file of its own, as one line: part,
//! reference, comparisons, largest difference, unit, tolerance, separated by tabs. A row is a part and a reference
//! that a test names with [`against`]; without a name it is the test itself.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

thread_local! {
    /// What the test of this thread compares with what.
    static NAMED: Cell<Option<(&'static str, &'static str)>> = const { Cell::new(None) };
}

/// Part, reference and unit.
type Key = (String, String, &'static str);

/// The rows so far: the number of comparisons, the largest difference and the tolerance.
static ROWS: Mutex<BTreeMap<Key, (usize, f64, f64)>> = Mutex::new(BTreeMap::new());

/// Names the row of the comparisons that follow in this thread.
pub(super) fn against(reference: &'static str, part: &'static str) {
    NAMED.set(Some((part, reference)));
}

/// Adds a comparison to its row.
pub(super) fn record(difference: f64, unit: &'static str, tolerance: f64) {
    let Some(folder) = std::env::var_os("PENTIMENTO_NUMERICS").map(PathBuf::from) else { return };
    let (part, reference) = row();
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, largest, allowed) =
        rows.entry((part.clone(), reference.clone(), unit)).or_insert((0, 0.0, tolerance));
    (*count, *largest, *allowed) = (*count + 1, largest.max(difference), allowed.max(tolerance));
    let line = format!("{part}\t{reference}\t{count}\t{largest:e}\t{unit}\t{allowed:e}\n");
    let letters = |text: &str| text.replace(|sign: char| !sign.is_ascii_alphanumeric(), "-");
    let file = folder.join(format!("{}.{}.{unit}.tsv", letters(&part), letters(&reference)));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, line));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn row() -> (String, String) {
    if let Some((part, reference)) = NAMED.get() {
        return (part.to_owned(), reference.to_owned());
    }
    let thread = std::thread::current();
    let test = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("a test");
    (test.replace('_', " "), String::new())
}
