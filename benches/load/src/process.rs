//! What a process has used, read from `/proc`.

use std::fs;
use std::time::Duration;

/// Steps of processor time, as Linux shows them to user space: 10 ms.
const TICK_MILLIS: u64 = 10;

/// Use of processor and memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all threads, and of children that have ended.
    pub(crate) cpu: Duration,
    /// Resident memory, bytes.
    pub(crate) rss: u64,
}

impl Usage {
    /// Of process `pid`; `None` if there is none.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        // The sums over all processors; `status` may lag behind by some pages for each of them.
        let memory = read("smaps_rollup").and_then(|text| kib_behind(&text, "Rss:"));
        let memory = memory.or_else(|| kib_behind(&read("status")?, "VmRSS:"));
        Some(Self {
            cpu: processor_time(&read("stat")?)?,
            rss: memory? * 1024,
        })
    }

    /// Of this process.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id()).unwrap_or_default()
    }
}

/// `utime`, `stime`, `cutime` and `cstime`; the name in parentheses may hold anything.
fn processor_time(stat: &str) -> Option<Duration> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: Option<u64> = fields.skip(11).take(4).map(|f| f.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks? * TICK_MILLIS))
}

fn kib_behind(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_obstacle() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 100 20 3 1 20 0";
        assert_eq!(processor_time(stat), Some(Duration::from_millis(1240)));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(kib_behind("Pss: 1 kB\nRss:     20 kB\n", "Rss:"), Some(20));
        assert!(Usage::own().rss > 0);
    }
}
