//! How much memory this process has used.

/// The most memory the process has ever had in use, bytes (`VmHWM`); `None` where the system does not tell.
pub fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn it_grows_with_what_is_touched_and_stays() {
        let before = super::peak_resident().unwrap();
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        let with = super::peak_resident().unwrap();
        drop(touched);
        assert!(with > before.max(60 << 20) && super::peak_resident().unwrap() >= with);
    }
}
