//! Memory of this machine: how much there is for this process, and how much of it is free.
//!
//! Containers and batch systems give a process less than the machine has: by control groups of version 1 or 2, or by a
//! limit of its address space. The lowest limit counts.

use std::path::{Path, PathBuf};

use crate::files;

/// Text of a file of the system; `None` if it cannot be read. Tests give texts of their own.
type ReadText<'a> = dyn Fn(&Path) -> Option<String> + 'a;

/// Bytes that this process may use: the memory of the machine, or the lowest limit that is set for the process.
/// `None` if the system does not report it.
pub fn memory_bytes() -> Option<u64> {
    total(&read_text)
}

/// Bytes that this process may still take, page cache that the system would give up included. `None` if the system does
/// not report it.
pub fn free_bytes() -> Option<u64> {
    free(&read_text)
}

fn read_text(path: &Path) -> Option<String> {
    files::read_to_string(path).ok()
}

fn total(read: &ReadText<'_>) -> Option<u64> {
    let machine = kib_of(read, "/proc/meminfo", "MemTotal:");
    let groups = groups(read);
    let groups = groups.iter().filter_map(|group| group.limit(read));
    groups.chain(address_space(read)).chain(machine).min()
}

fn free(read: &ReadText<'_>) -> Option<u64> {
    let machine = kib_of(read, "/proc/meminfo", "MemAvailable:");
    let groups = groups(read);
    let groups = groups.iter().filter_map(|group| {
        let limit = group.limit(read)?;
        Some(limit.saturating_sub(group.held(read).unwrap_or(0)))
    });
    let mapped = kib_of(read, "/proc/self/status", "VmSize:").unwrap_or(0);
    let addresses = address_space(read).map(|limit| limit.saturating_sub(mapped));
    groups.chain(addresses).chain(machine).min()
}

/// A line of a file of `/proc` that counts in KiB, in bytes.
fn kib_of(read: &ReadText<'_>, path: &str, name: &str) -> Option<u64> {
    let text = read(Path::new(path))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Soft limit of the address space (`ulimit -v`), in bytes.
fn address_space(read: &ReadText<'_>) -> Option<u64> {
    let text = read(Path::new("/proc/self/limits"))?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok() // `unlimited` is no number
}

/// Names of the files of a control group.
struct Version {
    limit: &'static str,
    usage: &'static str,
    /// Line of `memory.stat` that counts page cache which is not in use.
    reclaimable: &'static str,
}

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

const V2: Version = Version {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file ",
};

/// A control group with a limit of memory, or without.
struct Group {
    dir: PathBuf,
    version: &'static Version,
}

impl Group {
    fn number(&self, read: &ReadText<'_>, file: &str) -> Option<u64> {
        read(&self.dir.join(file))?.trim().parse().ok() // `max` is no limit
    }

    fn limit(&self, read: &ReadText<'_>) -> Option<u64> {
        self.number(read, self.version.limit)
    }

    /// Bytes that are in use and cannot be given up.
    fn held(&self, read: &ReadText<'_>) -> Option<u64> {
        let usage = self.number(read, self.version.usage)?;
        let stat = read(&self.dir.join("memory.stat")).unwrap_or_default();
        let mut lines = stat.lines();
        let reclaimable = lines.find_map(|line| line.strip_prefix(self.version.reclaimable));
        let reclaimable = reclaimable.and_then(|bytes| bytes.trim().parse().ok());
        Some(usage.saturating_sub(reclaimable.unwrap_or(0)))
    }
}

/// Control groups that this process is in, with those around them, of both versions.
fn groups(read: &ReadText<'_>) -> Vec<Group> {
    let (Some(own), Some(mounts)) = (
        read(Path::new("/proc/self/cgroup")),
        read(Path::new("/proc/self/mountinfo")),
    ) else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let own = own.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            mount.version_of(controllers).map(|version| (version, path))
        });
        for (version, path) in own {
            let inside = Path::new(path).strip_prefix(mount.root);
            // In a container, the path may be that of the machine, and what is mounted is the group itself.
            let dir = mount.place.join(inside.unwrap_or(Path::new("")));
            let around = dir
                .ancestors()
                .take_while(|dir| dir.starts_with(&mount.place));
            groups.extend(around.map(|dir| Group {
                dir: dir.to_path_buf(),
                version,
            }));
        }
    }
    groups
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    /// Group that is mounted.
    root: &'a str,
    place: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(Self {
            root: mount.next()?,
            place: PathBuf::from(mount.next()?.replace("\\040", " ")),
            kind: system.next()?,
            options: system.nth(1)?,
        })
    }

    /// Version of a hierarchy, if it is the one that is mounted here and has limits of memory.
    fn version_of(&self, controllers: &str) -> Option<&'static Version> {
        let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
        match self.kind {
            "cgroup2" if controllers.is_empty() => Some(&V2),
            "cgroup" if has_memory(controllers) && has_memory(self.options) => Some(&V1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str =
        "MemTotal:       24605012 kB\nMemFree:         5 kB\nMemAvailable:   8192000 kB\n";

    fn of(texts: &[(&str, &str)]) -> [Option<u64>; 2] {
        let read = |path: &Path| {
            let found = texts.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        [total(&read), free(&read)]
    }

    #[test]
    fn the_memory_of_a_machine_is_read_in_kib() {
        let machine = [Some(24_605_012 * 1024), Some(8_192_000 * 1024)];
        assert_eq!(of(&[("/proc/meminfo", MEMINFO)]), machine);
        for damaged in ["", "MemTotal: 5 MB\n", "MemTotal: many kB\n"] {
            assert_eq!(of(&[("/proc/meminfo", damaged)]), [None; 2], "{damaged:?}");
        }
        assert!(memory_bytes() >= free_bytes());
    }

    #[test]
    fn a_group_of_version_2_limits_what_is_in_the_groups_below_it() {
        let texts = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/user.slice/job\n"),
            (
                "/proc/self/mountinfo",
                "24 30 0:22 / /proc rw - proc proc rw\n\
                 35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("/sys/fs/cgroup/user.slice/job/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/user.slice/memory.current", "629145600\n"),
            (
                "/sys/fs/cgroup/user.slice/memory.stat",
                "anon 1\ninactive_file 209715200\nactive_file 5\n",
            ),
        ];
        assert_eq!(of(&texts), [Some(1024 * MIB), Some(624 * MIB)]);
    }

    #[test]
    fn a_group_of_version_1_is_found_by_its_controller_also_from_within_a_container() {
        let mounts = "36 35 0:31 /docker/4f /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      37 35 0:32 /docker/4f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        for path in ["/docker/4f", "/docker/4f/job", "/another/view/of/it"] {
            let own = format!("11:cpu:/\n9:memory:{path}\n0::/\n");
            let texts = [
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", own.as_str()),
                ("/proc/self/mountinfo", mounts),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"),
                (
                    "/sys/fs/cgroup/memory/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 52428800\n",
                ),
                (
                    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("/sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
            ];
            assert_eq!(of(&texts), [Some(512 * MIB), Some(462 * MIB)], "{path}");
        }
    }

    #[test]
    fn a_limit_of_the_address_space_counts_what_is_mapped() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max address space         {soft}           unlimited            bytes     \n"
            )
        };
        let of = |soft: &str| {
            of(&[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/limits", &limits(soft)),
                (
                    "/proc/self/status",
                    "VmPeak:   900000 kB\nVmSize:   524288 kB\n",
                ),
            ])
        };
        assert_eq!(of("4294967296"), [Some(4096 * MIB), Some(3584 * MIB)]);
        assert_eq!(of("1048576"), [Some(MIB), Some(0)]);
        let [total, _] = of("unlimited");
        assert_eq!(total, Some(24_605_012 * 1024));
    }
}
