//! How much memory the process has taken at most, and how much there is.

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

/// The memory that this process may take at most, in bytes: the machine's, or its control group's where that is less; `None`
/// where the system does not tell.
pub(crate) fn whole() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kilobytes(&text, "MemTotal:"));
    // Of cgroup v2 (a process's own group is the root of what it sees in a container), then of v1.
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(group).min()
}

/// Reads the line `VmHWM:   123 kB` (proc(5): "peak resident set size", in units of 1024 bytes).
#[cfg(target_os = "linux")]
fn peak_in(status: &str) -> Option<u64> {
    kilobytes(status, "VmHWM:")
}

/// The figure of a line `NAME   123 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
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
        assert!(whole() > peak());
    }
}
