//! `herd doctor` on a machine with or without a card.

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
