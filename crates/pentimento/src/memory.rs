//! How much memory the process has taken at most.

/// The largest resident memory so far, in bytes; `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn peak() -> Option<u64> {
    peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The largest resident memory so far, in bytes; `None` where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peak() -> Option<u64> {
    None
}

/// Reads the line `VmHWM:   123 kB` (proc(5): "peak resident set size", in units of 1024 bytes).
#[cfg(target_os = "linux")]
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_and_read() {
        assert_eq!(peak_in("Name:\tx\nVmHWM:\t  123 kB\nVmRSS:\t 5 kB\n"), Some(123 * 1024));
        assert_eq!(peak_in("Name:\tx\n"), None);
        assert!(peak().is_some_and(|bytes| bytes > 100_000));
    }
}
