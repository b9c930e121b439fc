//! How much memory there is, and how much of it this process has used.

/// The most memory the process has ever had in use, bytes (`VmHWM`); `None` where the system does not tell.
pub fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory of this machine, or what a control group leaves of it, bytes; `None` where the system does not tell.
pub fn installed() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn it_grows_with_what_is_touched_and_stays() {
        // The system counts in strokes of some pages, and other tests run beside this one: a large share is certain.
        const TOUCHED: usize = 256 << 20;
        let certain = (TOUCHED as u64) / 10 * 9;
        let touched = std::hint::black_box(vec![1u8; TOUCHED]);
        assert!(super::peak_resident().unwrap() > certain);
        drop(touched);
        assert!(super::peak_resident().unwrap() > certain);
    }
}
