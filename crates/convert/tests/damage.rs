//! Damaged checkpoints of every kind: an error or a model, never a panic, and never memory out of proportion.
//!
//! The same damage every time: positions and values are counted, not drawn. `fuzz/` goes further.

use herd_convert::inspect::inspect;
use herd_convert::{Checkpoint, Format, Target, convert};
use herd_infer::{Generator, Settings};
use herd_run::Context;
use std::path::{Path, PathBuf};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../infer/tests/golden/checkpoints").join(name)
}

/// A number for a place and a purpose (splitmix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// Damaged versions of a file: cut off, single bits and bytes changed, and huge numbers where sizes may stand.
/// `head` bytes at the beginning get most of it.
fn damaged(whole: &[u8], head: usize, count: u64) -> impl Iterator<Item = Vec<u8>> {
    let head = head.min(whole.len()).max(1);
    (0..count).map(move |n| {
        let at = mixed(n) as usize % head;
        let mut bytes = whole.to_vec();
        match n % 6 {
            0 => bytes.truncate(mixed(n + 7) as usize % whole.len()),
            1 => bytes[at] ^= 1 << (n / 6 % 8),
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80][n as usize / 6 % 4],
            3 => put(&mut bytes, at & !3, &u32::MAX.to_le_bytes()),
            4 => put(&mut bytes, at & !7, &(1u64 << (20 + n % 44)).to_le_bytes()),
            _ => bytes.truncate(at),
        }
        bytes
    })
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

/// Most memory that this process ever had, bytes; 0 where that is not known.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Opens what may be damaged; if it opens, it must also answer.
fn try_open(path: &Path) -> bool {
    let _ = inspect(path, true).map(|report| report.to_string());
    match Generator::open(path, Settings::default()) {
        Err(error) => {
            assert!(error.to_string().lines().count() == 1, "one line: {error}");
            false
        }
        Ok(generator) => {
            let tokens = generator.tokenizer().encode("A few words.");
            let _ = generator.logits(&tokens[..tokens.len().min(4)]);
            true
        }
    }
}

#[test]
fn gguf_files() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.gguf");
    let target = Target {
        format: Format::Gguf,
        kind: Some(herd_infer::gguf::BlockType::Q8_0),
        shard_bytes: Target::SHARD_BYTES,
    };
    convert(&Checkpoint::open(&source("gqa2_bias")).unwrap(), &whole, target, &Context::quiet()).unwrap();
    assert!(try_open(&whole));
    let before = peak();
    let bytes = std::fs::read(&whole).unwrap();
    let path = dir.path().join("damaged.gguf");
    let mut refused = 0;
    // The tables end where the numbers begin: about 8 KB.
    for damaged in damaged(&bytes, 1200, 300).chain(damaged(&bytes, bytes.len(), 150)) {
        std::fs::write(&path, damaged).unwrap();
        refused += usize::from(!try_open(&path));
    }
    assert!(refused > 150, "{refused}");
    assert!(peak() < before + (800 << 20), "{} bytes more", peak() - before);
}

#[test]
fn folders() {
    let names =
        ["config.json", "model.safetensors.index.json", "model-00001-of-00004.safetensors", "tokenizer.json"];
    let before = peak();
    for (file, count) in names.into_iter().zip([150, 60, 120, 90]) {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source("gqa4_llama3")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        assert!(try_open(dir.path()), "{file}");
        let bytes = std::fs::read(dir.path().join(file)).unwrap();
        let mut refused = 0;
        for damaged in damaged(&bytes, 4000, count) {
            std::fs::write(dir.path().join(file), damaged).unwrap();
            refused += usize::from(!try_open(dir.path()));
        }
        assert!(refused as u64 > count / 4, "{file}: {refused}");
    }
    assert!(peak() < before + (800 << 20), "{} bytes more", peak() - before);
}
