//! `herd doctor` on a machine with or without a card.

#[cfg(target_os = "linux")]
#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;

use std::process::Command;

fn doctor(folder: &std::path::Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_herd"))
        .arg("doctor")
        .env("HERD_CUDA_LIBS", folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_library_has_a_version_or_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let text = doctor(folder.path());
    assert!(text.contains(folder.path().to_str().unwrap()), "the folder is not in the search:\n{text}");
    for (name, remedy) in [
        ("driver", "install NVIDIA's driver"),
        ("NVRTC", "pip install nvidia-cuda-nvrtc"),
        ("CUDA runtime", "pip install nvidia-cuda-runtime"),
        ("cuBLASLt", "pip install nvidia-cublas"),
        ("cuDNN", "pip install nvidia-cudnn-cu13"),
    ] {
        let line =
            text.lines().find(|l| l.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(remedy) || line.contains(".so"), "{line}");
    }
}

/// On the card made of the processor, whose cuDNN is right; and turned off.
#[test]
#[cfg(target_os = "linux")]
fn what_attention_and_fp8_are_computed_by() {
    let cache = tempfile::tempdir().unwrap();
    let doctor = |setting: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_herd"))
            .arg("doctor")
            .env("HERD_CUDA_LIBS", fake_card::folder())
            .env("XDG_CACHE_HOME", cache.path())
            .env("HERD_CUDNN", setting)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = doctor("1");
    assert!(text.contains("attention       by cuDNN 9.28.1 in 10 of 10 cases, at most "), "{text}");
    assert!(text.contains("fp8             by cuBLASLt, rows and columns scaled by it"), "{text}");
    let text = doctor("0");
    assert!(text.contains("attention       by Herd's kernels: no cuDNN, turned off by HERD_CUDNN"), "{text}");
}
