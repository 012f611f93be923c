//! What the system says of memory, how it is said to people, and giving it back. Only Linux says it in files; elsewhere
//! nothing is known.

use std::fs::read_to_string;
use std::sync::OnceLock;

/// Where the kernel says how much a container may have: version 2 and version 1 of its control groups.
const CONTAINER_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// How this program's allocator gives back what is free. It is the program that chooses the allocator, not this library.
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Says how [`give_back`] is done: once, as the program begins.
pub fn on_give_back(how: fn()) {
    // Whoever comes second finds the same allocator.
    let _ = GIVE_BACK.set(how);
}

/// Gives free memory back to the system now, after something large has gone, rather than when the allocator would. Does
/// nothing where nobody said how.
pub fn give_back() {
    if let Some(how) = GIVE_BACK.get() {
        how();
    }
}

/// What this process holds now.
pub fn resident_bytes() -> Option<u64> {
    kib(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most that this process ever held.
pub fn peak_bytes() -> Option<u64> {
    kib(&read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// What there is: the machine's, or less where this process is in a container that may have less.
pub fn total_bytes() -> Option<u64> {
    let machine = kib(&read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    // "max" where there is no limit.
    let limits = CONTAINER_LIMITS.iter().filter_map(|path| read_to_string(path).ok()?.trim().parse().ok());
    Some(limits.fold(machine, u64::min))
}

/// An amount, for people.
pub fn size(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib < 10.0 => format!("{mib:.1} MiB"),
        mib if mib < 1000.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// The number of a line such as `VmRSS:    1234 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text = "Name:\tlimner\nVmHWM:\t   20480 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        assert_eq!((kib(text, "VmRSS:"), kib(text, "VmHWM:")), (Some(1 << 20), Some(20 << 20)));
        assert_eq!((kib(text, "Threads:"), kib(text, "VmSwap:")), (None, None));
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!([1 << 19, 62_400_000, 4_265_380_512].map(size), ["0.5 MiB", "60 MiB", "4.0 GiB"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_holds_less_than_there_is() {
        let (now, peak, total) = (resident_bytes().unwrap(), peak_bytes().unwrap(), total_bytes().unwrap());
        assert!((1 << 20..=total).contains(&now) && peak >= now / 2, "{now} {peak} {total}");
    }
}
