//! The choice among algorithms of a matrix product, with the card made of the processor, which has five: the first is slow, the
//! second the fastest of those that may be taken (and adds in f32), one fails when it is run, one adds in no fixed order.
//! One test alone, since it counts what this process measures. Needs g++.

#![cfg(target_os = "linux")]

mod fake_card;

use herd_tensor::cuda::{Card, DType, Kind, Library};
use herd_tensor::{Init, ParamSpec, Params, Tape};
use std::fs;
use std::path::{Path, PathBuf};

const FASTEST: &str = "0000000000001268";

/// How often the driver told how long something took.
fn times_told() -> u32 {
    let driver = Library::open_in(Kind::Driver, &[fake_card::folder().to_path_buf()]).unwrap();
    let symbol = driver.symbol(c"fake_card_times_told").expect("it is of the card made of the processor");
    // SAFETY: it is of that type.
    unsafe { std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn() -> u32>(symbol)() }
}

/// A product's values, made on a card of its own.
fn product(cache: Option<&Path>, tf32: bool) -> Vec<f32> {
    let card = Card::open_in(0, &[fake_card::folder().to_path_buf()], cache).unwrap();
    card.set_tf32(tf32);
    let normal = Init::Normal { std: 1.0 };
    let mut params =
        Params::new(vec![ParamSpec::new("x", &[5, 300], normal), ParamSpec::new("w", &[7, 300], normal)]);
    params.initialize(1);
    params.to_card(&card, DType::F32).unwrap();
    let [x, w] = ["x", "w"].map(|name| params.id(name).unwrap());
    let mut tape = Tape::no_grad(&params);
    let x = tape.embedding(x, &[0, 1, 2, 3, 4]);
    // The second uses the choice that the first has led to.
    let values = [(), ()].map(|()| tape.linear(&x, w).value().to_host().as_slice().to_vec());
    assert_eq!(values[0], values[1]);
    values[0].clone()
}

/// The largest difference, of the largest value.
fn off(a: &[f32], b: &[f32]) -> f32 {
    let most = a.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / most
}

/// FNV-1a, as the file's title tells it.
fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn the_fastest_algorithm_is_measured_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    let first = product(None, false);
    assert_eq!(times_told(), 0, "what cannot be kept is not measured");
    let chosen = product(Some(&cache), false);
    assert!(chosen != first && off(&chosen, &first) < 1e-5, "another order of the same sum");
    let measured = times_told();
    assert_eq!(measured, 3, "of four that add in order one fails");
    let files = || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let name =
        |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with("products-the-processor");
    let file = files().find(name).expect("choices are kept");
    let kept = fs::read_to_string(&file).unwrap();
    assert!(kept.contains(FASTEST), "{kept}");

    assert_eq!(
        (product(Some(&cache), false), times_told()),
        (chosen.clone(), measured),
        "nothing is measured again"
    );
    // An algorithm that this library does not know.
    let (_, lines) = kept.split_once('\n').unwrap();
    let lines = lines.replace(FASTEST, "0000000000009999");
    fs::write(&file, format!("herd products 1 {:016x}\n{lines}", fingerprint(&lines))).unwrap();
    assert_eq!((product(Some(&cache), false), times_told()), (chosen.clone(), 2 * measured));
    assert_eq!(fs::read_to_string(&file).unwrap(), kept);
    // A file cut short.
    fs::write(&file, &kept[..kept.len() - 30]).unwrap();
    assert_eq!((product(Some(&cache), false), times_told()), (chosen.clone(), 3 * measured));
    assert_eq!(fs::read_to_string(&file).unwrap(), kept, "written anew");

    let rounded = product(Some(&cache), true);
    assert!((1e-5..1e-2).contains(&off(&chosen, &rounded)), "TF32 where it is asked for, and only there");
    assert_eq!(times_told(), 4 * measured, "and measured for itself");
    assert_eq!(product(Some(&cache), false), chosen);
}
