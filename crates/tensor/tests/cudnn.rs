//! Attention by a cuDNN that can be made wrong on purpose, on the card made of the processor: what is used, what is found out,
//! and what is made only once. Needs g++.

#![cfg(target_os = "linux")]

mod check;
mod fake_card;

use herd_tensor::cuda::{Card, CudnnUse, DType, Kind, Library};
use herd_tensor::{
    Attention, AttentionShape, Grads, Init, ParamSpec, Params, Segment, Segments, Tape, Tensor,
};
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const NEWEST: usize = 92_801;

/// The fake cuDNN, which is one for the whole process: with this fault (none is "") and version until it is dropped.
struct Fake {
    library: Library,
    _alone: MutexGuard<'static, ()>,
}

impl Fake {
    fn with(fault: &CStr, version: usize) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let library = Library::open_in(Kind::Cudnn, &[fake_card::folder().to_path_buf()]).unwrap();
        let fake = Self { library, _alone: alone };
        fake.set(fault, version);
        fake
    }

    fn set(&self, fault: &CStr, version: usize) {
        let address = self.library.symbol(c"herd_fake_cudnn").unwrap();
        // SAFETY: the signature is that of fake_card/cudnn.h.
        let set: extern "C" fn(*const c_char, usize) = unsafe { std::mem::transmute(address) };
        set(fault.as_ptr(), version);
    }

    /// Descriptors that are alive, plans that were made, runs.
    fn counts(&self) -> [i64; 3] {
        let address = self.library.symbol(c"herd_fake_cudnn_counts").unwrap();
        let mut counts = [0; 3];
        // SAFETY: the signature is that of fake_card/cudnn.h.
        let get: extern "C" fn(*mut i64) = unsafe { std::mem::transmute(address) };
        get(counts.as_mut_ptr());
        counts
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.set(c"", NEWEST);
    }
}

fn card(cache: Option<&Path>) -> Card {
    let card = Card::open_in(0, &[fake_card::folder().to_path_buf()], cache).unwrap();
    card.use_cudnn(CudnnUse::FixedOrder);
    card
}

const SHAPE: AttentionShape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 64 };

/// Output and gradients of one attention over these segments.
fn step(card: &Card, segments: &Segments) -> (Vec<f32>, Vec<f32>) {
    let n = segments.rows();
    let normal = Init::Normal { std: 1.0 };
    let mut params = Params::new(vec![ParamSpec::new("x", &[n, SHAPE.packed_width()], normal)]);
    params.initialize(3);
    params.to_card(card, DType::Bf16).unwrap();
    let x = params.id("x").unwrap();
    let mut tape = Tape::new(&params);
    let input = check::rows(&mut tape, x);
    let call = Attention { shape: SHAPE, segments: Arc::new(segments.clone()), rope: None };
    let out = tape.attention(&input, &call);
    let mut grads = Grads::new(&params);
    let seed: Vec<f32> = (0..out.value().len()).map(|i| (i % 7) as f32 - 3.0).collect();
    tape.backward_from([(out.clone(), Tensor::from_slice(&seed, out.shape()))], &mut grads);
    (out.value().to_host().as_slice().to_vec(), grads.of(x).to_vec())
}

/// The classes that are not used, and why.
fn refused(card: &Card) -> Vec<(String, String)> {
    let classes = card.cudnn_report().classes.into_iter();
    classes.filter_map(|(class, verdict)| Some((class, verdict.err()?))).collect()
}

#[test]
fn plans_and_lists_are_made_once() {
    let fake = Fake::with(c"", NEWEST);
    let alive = fake.counts()[0];
    {
        let card = card(None);
        let packed = Segments::documents(&[3, 61, 70, 66]);
        step(&card, &packed);
        let [_, plans, runs] = fake.counts();
        let requests = card.usage().requests;
        // Other lengths of the same batch, up to the next power of two.
        for lengths in [&[3, 61, 70, 66][..], &[100, 20, 30, 1, 49], &[1, 2, 3, 4, 5, 185 - 90, 90]] {
            step(&card, &Segments::documents(lengths));
        }
        let [_, plans_, runs_] = fake.counts();
        assert_eq!((plans_, runs_), (plans, runs + 6), "a forward and a backward pass each");
        assert_eq!(card.usage().requests, requests, "nothing more is asked of the driver");
        step(&card, &Segments::documents(&[200]));
        assert!(fake.counts()[1] > plans, "one sequence is another problem");
    }
    assert_eq!(fake.counts()[0], alive, "every descriptor is destroyed");
}

#[test]
fn the_same_with_and_without_cudnn() {
    let _fake = Fake::with(c"", NEWEST);
    let (with, without) = (card(None), card(None));
    without.use_cudnn(CudnnUse::Off);
    for segments in [Segments::documents(&[90, 90]), Segments::documents(&[64, 1, 130])] {
        let (out, grads) = step(&with, &segments);
        let (out_, grads_) = step(&without, &segments);
        for (what, a, b) in [("out", out, out_), ("gradients", grads, grads_)] {
            let exact: Vec<f64> = b.iter().map(|x| f64::from(*x)).collect();
            check::assert_close(what, &a, &exact, 2e-2);
            assert_ne!(a, b, "{what}: another order of sums, so other bits somewhere");
        }
    }
}

#[test]
fn a_wrong_forward_pass_is_found() {
    let _fake = Fake::with(c"wrong forward", NEWEST);
    let card = card(None);
    let refused = refused(&card);
    let forward = refused.iter().filter(|(class, _)| class.starts_with("forward"));
    assert_eq!(forward.clone().count(), 4, "{refused:?}");
    assert!(forward.clone().all(|(_, why)| why.contains("its output differs by")), "{refused:?}");
    let right = Card::open_in(0, &[fake_card::folder().to_path_buf()], None).unwrap();
    right.use_cudnn(CudnnUse::Off);
    let segments = Segments::documents(&[100, 100]);
    assert_eq!(step(&card, &segments), step(&right, &segments), "Herd's kernels are used instead");
}

/// As cuDNN 9.22 to 9.26 do where statistics are not packed.
#[test]
fn gradients_of_zero_are_found_and_only_they_are_left_out() {
    let fake = Fake::with(c"zero gradients", NEWEST);
    let card = card(None);
    let refused = refused(&card);
    assert_eq!(refused.len(), 2, "{refused:?}");
    for (class, why) in &refused {
        assert!(class.starts_with("backward, in order, packed documents"), "{class}");
        assert!(why.contains("its gradient of queries differs by 1.0e0"), "{why}");
    }
    // The forward pass is still cuDNN's, with statistics that Herd's backward pass takes.
    let before = fake.counts()[2];
    let segments = Segments::documents(&[64, 1, 130]);
    let (_, grads) = step(&card, &segments);
    assert_eq!(fake.counts()[2], before + 1);
    let without = self::card(None);
    without.use_cudnn(CudnnUse::Off);
    let exact: Vec<f64> = step(&without, &segments).1.iter().map(|x| f64::from(*x)).collect();
    check::assert_close("gradients", &grads, &exact, 2e-2);
}

#[test]
fn bits_that_differ_from_run_to_run_are_found() {
    let _fake = Fake::with(c"other bits", NEWEST);
    let refused = refused(&card(None));
    assert_eq!(refused.len(), 6, "{refused:?}");
    assert!(refused.iter().all(|(_, why)| why.contains("other bits the next time")), "{refused:?}");
}

/// Before 9.26 a fixed order costs memory for the scores' gradients, which parts of a problem share.
#[test]
fn an_older_version_keeps_the_order_in_parts() {
    let fake = Fake::with(c"", 91_900);
    let card = card(None);
    let even = Segments::documents(&[96, 96]);
    let whole = step(&card, &even);
    let runs = fake.counts()[2];
    assert_eq!(step(&card, &even), whole);
    assert_eq!(fake.counts()[2], runs + 2, "forward and backward at once");
    // One sequence and the two query heads of one key head take 2 * 96 * 96 * 2 bytes.
    let parts = self::card(None);
    parts.limit_cudnn_workspace(60_000);
    let runs = {
        // The check of the class takes more, so it is made before.
        parts.limit_cudnn_workspace(1 << 30);
        assert!(parts.cudnn_report().classes.len() == 10);
        parts.limit_cudnn_workspace(60_000);
        fake.counts()[2]
    };
    assert_eq!(step(&parts, &even), whole, "parts change no bit");
    assert_eq!(fake.counts()[2], runs + 1 + 4, "two sequences of two key heads");
    // Packed documents have no fixed order there: Herd's kernels compute their backward pass.
    let packed = Segments::documents(&[64, 1, 130]);
    let runs = fake.counts()[2];
    step(&card, &packed);
    let checks = fake.counts()[2];
    step(&card, &packed);
    assert_eq!(fake.counts()[2], checks + 1, "the forward pass alone");
    assert!(checks > runs);
    card.use_cudnn(CudnnUse::AnyOrder);
    step(&card, &packed);
    let runs = fake.counts()[2];
    step(&card, &packed);
    assert_eq!(fake.counts()[2], runs + 2, "in any order there is one");
}

#[test]
fn what_cudnn_does_not_take_is_computed_by_herd() {
    let fake = Fake::with(c"", NEWEST);
    let card = card(None);
    let shared =
        Segments::new(vec![Segment { rows: 0..50, prefix: 0..0 }, Segment { rows: 50..90, prefix: 0..50 }]);
    let runs = fake.counts()[2];
    step(&card, &shared);
    assert_eq!(fake.counts()[2], runs, "a shared prefix is Herd's alone");
    let off = self::card(None);
    off.use_cudnn(CudnnUse::Off);
    assert_eq!(step(&card, &shared), step(&off, &shared));
    fake.set(c"no engine", NEWEST);
    let refusing = self::card(None);
    let segments = Segments::documents(&[100, 100]);
    assert_eq!(step(&refusing, &segments), step(&off, &segments));
    fake.set(c"", 91_001);
    let old = self::card(None);
    assert_eq!(step(&old, &segments), step(&off, &segments));
    let why = old.cudnn_report().library.unwrap_err();
    assert!(why.contains("9.10.1") && why.contains("9.11"), "{why}");
}

#[test]
fn verdicts_are_kept_for_card_and_version() {
    let fake = Fake::with(c"wrong forward", NEWEST);
    let cache = tempfile::tempdir().unwrap();
    let first = refused(&card(Some(cache.path())));
    assert_eq!(first.len(), 10, "gradients of a wrong output are wrong too: {first:?}");
    // Right again, but nobody looks.
    fake.set(c"", NEWEST);
    let runs = fake.counts()[2];
    assert_eq!(refused(&card(Some(cache.path()))), first);
    assert_eq!(fake.counts()[2], runs, "nothing was computed");
    // Another version is another matter.
    fake.set(c"", NEWEST - 100);
    assert_eq!(refused(&card(Some(cache.path()))), []);
    // A file that is damaged counts for nothing.
    for entry in std::fs::read_dir(cache.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "no verdict").unwrap();
    }
    fake.set(c"", NEWEST);
    assert_eq!(refused(&card(Some(cache.path()))), []);
}
