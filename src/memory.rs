//! How much memory the broker may have where the file does not say: half of what the machine, or the
//! cgroup that the process is in, gives. The other half is for the kernel - socket buffers, the
//! store's pages - and for others. And the allocator, as far as it has to be asked to give it back.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::{fs, io};

use portcullis_core::budget::{Memory, Process};

/// So large that the allocator has a page for it alone, bytes.
const ALONE: usize = 1 << 20;

/// The memory of this process, in the hands of mimalloc, which the command sets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocated;

impl Memory for Allocated {
    fn resident(&self) -> io::Result<u64> {
        Process.resident()
    }

    /// The allocator gives free pages back a second later, but only looks whether it is time when it
    /// frees a page: a broker that falls silent after a burst would keep what the burst took.
    fn give_back(&self) {
        drop(black_box(Vec::<u8>::with_capacity(ALONE)));
    }
}

/// Where no answer can be had, bytes.
const UNKNOWN: u64 = 1 << 30;

/// Half of what machine and cgroup give, bytes.
#[must_use]
pub fn share() -> u64 {
    given().map_or(UNKNOWN, |given| given / 2)
}

/// What machine and cgroup give, bytes; `None`: this cannot be told.
#[must_use]
pub fn given() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    given_by(&read)
}

fn given_by(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).as_deref().and_then(total);
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(limit_files);
    let limits = limits.filter_map(|file| read(&file)?.trim().parse().ok());
    machine.into_iter().chain(limits).min()
}

/// `MemTotal` (proc(5)), bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may bound the memory of a cgroup and of those around it; `line` is one of
/// /proc/self/cgroup (cgroups(7)). In a container the path may be that of the host: the root counts.
fn limit_files(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (root, name) = match parts.next() {
        Some("") => ("/sys/fs/cgroup", "memory.max"),
        Some(controllers) if controllers.split(',').any(|one| one == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        Some(_) | None => return Vec::new(),
    };
    let path = Path::new(parts.next().unwrap_or_default().trim_start_matches('/'));
    path.ancestors()
        .map(|group| Path::new(root).join(group).join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_with(files: &[(&str, &str)]) -> Option<u64> {
        given_by(&|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    const MACHINE: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:        4096 kB\nMemFree:         1024 kB\n",
    );

    #[test]
    fn the_narrowest_of_machine_and_groups_counts() {
        const MIB: u64 = 1 << 20;
        let two = ("/proc/self/cgroup", "0::/system.slice/broker.service\n");
        let one = ("/proc/self/cgroup", "5:cpu:/x\n4:memory,hugetlb:/job/7\n");
        for (files, expected) in [
            (vec![], None),
            (vec![MACHINE], Some(4 * MIB)),
            (vec![two], None),
            (
                vec![
                    MACHINE,
                    two,
                    ("/sys/fs/cgroup/system.slice/memory.max", "2097152\n"),
                    (
                        "/sys/fs/cgroup/system.slice/broker.service/memory.max",
                        "max\n",
                    ),
                ],
                Some(2 * MIB),
            ),
            (
                vec![MACHINE, two, ("/sys/fs/cgroup/memory.max", "1048576\n")],
                Some(MIB),
            ),
            (
                vec![
                    MACHINE,
                    one,
                    (
                        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                    (
                        "/sys/fs/cgroup/memory/job/7/memory.limit_in_bytes",
                        "3145728\n",
                    ),
                ],
                Some(3 * MIB),
            ),
        ] {
            assert_eq!(given_with(&files), expected, "{files:?}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        let given = given().unwrap();
        assert!((64 << 20..1 << 50).contains(&given), "{given}");
    }
}
