//! What a cgroup uses now. A number whose controller is not enabled is `None`, never zero.

use super::Cgroup;

/// One reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// `memory.current`, bytes, page cache included.
    pub memory: Option<u64>,
    /// Page cache the kernel would drop first (`memory.stat`, `inactive_file`), bytes. Docker
    /// shows [`memory`](Self::memory) less this.
    pub memory_inactive_file: Option<u64>,
    /// `memory.max`, bytes; `None` also when there is no limit.
    pub memory_limit: Option<u64>,
    /// CPU time used since the cgroup was made (`cpu.stat`, `usage_usec`), microseconds. There
    /// without any controller.
    pub cpu_usec: Option<u64>,
    /// `pids.current`: processes and threads.
    pub pids: Option<u64>,
    /// `pids.max`; `None` also when there is no limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from and written to block devices, all devices together (`io.stat`).
    pub io_read: Option<u64>,
    pub io_written: Option<u64>,
}

/// Reads them all. Files that are not there, or vanish meanwhile, are `None`.
pub fn read(cgroup: &Cgroup) -> Stats {
    let text = |file: &str| cgroup.read(file).ok();
    let number = |file: &str| text(file).and_then(|text| text.trim().parse().ok());
    let io = text("io.stat");
    Stats {
        memory: number("memory.current"),
        memory_inactive_file: text("memory.stat").and_then(|t| field(&t, "inactive_file")),
        memory_limit: number("memory.max"),
        cpu_usec: text("cpu.stat").and_then(|t| field(&t, "usage_usec")),
        pids: number("pids.current"),
        pids_limit: number("pids.max"),
        io_read: io.as_deref().map(|t| sum(t, "rbytes=")),
        io_written: io.as_deref().map(|t| sum(t, "wbytes=")),
    }
}

/// The value of one key in a flat keyed file (admin-guide/cgroup-v2.rst, "Format").
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// One key of a nested keyed file, summed over its lines.
fn sum(text: &str, key: &str) -> u64 {
    let values = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key));
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_the_rest_is_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (file, text) in [
            ("memory.current", "4096\n"),
            ("memory.stat", "anon 1\ninactive_file 512\n"),
            ("memory.max", "max\n"),
            ("cpu.stat", "usage_usec 77\nuser_usec 1\n"),
            ("io.stat", "8:0 rbytes=5 wbytes=1 rios=9\n8:16 rbytes=2 wbytes=10 rios=1\n"),
        ] {
            std::fs::write(dir.path().join(file), text).expect("write");
        }
        let cgroup = Cgroup::open(dir.path()).expect("open");
        let expected = Stats {
            memory: Some(4096),
            memory_inactive_file: Some(512),
            cpu_usec: Some(77),
            io_read: Some(7),
            io_written: Some(11),
            ..Stats::default()
        };
        assert_eq!(read(&cgroup), expected);
    }
}
