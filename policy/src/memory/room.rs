//! How much memory there still is: the machine's, and what the control group of this process leaves of it.
//!
//! In a container `/proc/meminfo` tells of the whole machine while the kernel kills at the container's limit, so the
//! smaller of the two counts. Limits hold at every level of the hierarchy, so each one on the way up is read.

use std::{fs, path::Path};

/// Memory that could be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub available: u64,
    /// Who sets the limit: `the machine` or `the control group`.
    pub limit: &'static str,
}

impl Room {
    /// What is left of it for whoever comes after those to whom so many bytes are promised.
    #[must_use]
    pub fn without(self, promised: u64) -> Room {
        Room { available: self.available.saturating_sub(promised), ..self }
    }
}

/// What the machine and the control group leave; `None` where neither can be read.
#[must_use]
pub fn machine() -> Option<Room> {
    let whole = meminfo("MemAvailable").map(|available| Room { available, limit: "the machine" });
    let group =
        control_group(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let group = group.map(|available| Room { available, limit: "the control group" });
    whole.into_iter().chain(group).min_by_key(|room| room.available)
}

/// One line of `/proc/meminfo`, bytes.
#[must_use]
pub fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes that the tightest control group above this process leaves, version 2 or 1; `membership` is `/proc/self/cgroup`.
fn control_group(root: &Path, membership: &str) -> Option<u64> {
    let left = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let names = match controllers {
            "" => Names {
                folder: "",
                limit: "memory.max",
                usage: "memory.current",
                idle_cache: "inactive_file",
                busy_cache: "active_file",
                mapped: "file_mapped",
            },
            "memory" => Names {
                folder: "memory",
                limit: "memory.limit_in_bytes",
                usage: "memory.usage_in_bytes",
                idle_cache: "total_inactive_file",
                busy_cache: "total_active_file",
                mapped: "total_mapped_file",
            },
            _ => return None,
        };
        names.tightest(root, path)
    };
    membership.lines().filter_map(left).min()
}

/// How a version of control groups calls things.
struct Names {
    folder: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// File pages that nobody has read again.
    idle_cache: &'static str,
    /// Those that were.
    busy_cache: &'static str,
    /// File pages that somebody has mapped.
    mapped: &'static str,
}

impl Names {
    fn tightest(&self, root: &Path, group: &str) -> Option<u64> {
        let top = root.join(self.folder);
        let own = top.join(group.trim_start_matches('/'));
        own.ancestors().take_while(|folder| folder.starts_with(&top)).filter_map(|folder| self.left(folder)).min()
    }

    /// The limit less what is used. File pages give way, but for those that are mapped: what was written, hashed or read through
    /// a mapping that is gone counts as used for as long as nothing wants its room.
    fn left(&self, folder: &Path) -> Option<u64> {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        // Without a limit the file says `max`, which is no number.
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let bytes = |name: &str| {
            let found = stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            found.unwrap_or(0)
        };
        let cache = bytes(self.idle_cache) + bytes(self.busy_cache).saturating_sub(bytes(self.mapped));
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts_and_its_cache_is_room() {
        let root = tempfile::tempdir().unwrap();
        let stat = "anon 5\nfile_mapped 20\ninactive_file 300\nactive_file 70\n";
        write(&root.path().join("a"), &[("memory.max", "2000\n"), ("memory.current", "900\n"), ("memory.stat", stat)]);
        write(&root.path().join("a/b"), &[("memory.max", "max\n"), ("memory.current", "100\n")]);
        assert_eq!(control_group(root.path(), "0::/a/b\n"), Some(1450), "what is mapped is used");
        write(&root.path().join("a/b"), &[("memory.max", "150\n")]);
        assert_eq!(control_group(root.path(), "0::/a/b\n"), Some(50));
        assert_eq!(control_group(root.path(), "0::/c\n"), None);
        write(&root.path().join("a"), &[("memory.stat", "file_mapped 80\nactive_file 70\ninactive_file 300\n")]);
        assert_eq!(control_group(root.path(), "0::/a\n"), Some(1400));
    }

    #[test]
    fn the_older_version_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "1000"),
            ("memory.usage_in_bytes", "400"),
            ("memory.stat", "total_mapped_file 10\ntotal_inactive_file 50\ntotal_active_file 30"),
        ];
        write(&root.path().join("memory/x"), &files);
        assert_eq!(control_group(root.path(), "7:cpu,cpuacct:/x\n5:memory:/x\n"), Some(670));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_what_it_has() {
        let room = machine().unwrap();
        assert!(room.available > 1 << 20 && room.available <= meminfo("MemTotal").unwrap(), "{room:?}");
    }
}
