//! Chains of kernels that begin before those in front of them have ended, on the card made of the processor: what that card
//! makes of them, and where Herd asks for them. Needs g++.

#![cfg(target_os = "linux")]

mod fake_card;

use herd_tensor::cuda::{Arg, Card, CardBuffer, CardError, DType};
use std::ffi::{c_char, c_void};
use std::process::Command;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has begun early is counted for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CUlaunchAttribute and CUlaunchConfig of cuda.h.
#[repr(C)]
struct Attribute([u32; 18]);
#[repr(C)]
struct Config {
    sizes: [u32; 7],
    stream: *mut c_void,
    attributes: *const Attribute,
    count: u32,
}

macro_rules! call {
    ($name:literal: $($type:ty = $value:expr),*) => {{
        let symbol = fake_card::symbol($name);
        // SAFETY: the types are those of cuda.h, and pointers are to live variables.
        let code = unsafe {
            let function: unsafe extern "C" fn($($type),*) -> i32 = std::mem::transmute(symbol);
            function($($value),*)
        };
        assert_eq!(code, 0, "{:?}", $name);
    }};
}

/// The first value after each of these kernels in turn added one to what the one before it left, the first of them to 1: asked for
/// one by one, and as a graph. Whether all but the first may begin early.
fn chain(kernels: &[&std::ffi::CStr], early: bool) -> [Vec<f32>; 2] {
    let (mut stream, mut module, mut graph, mut executable) = (
        ptr::null_mut::<c_void>(),
        ptr::null_mut::<c_void>(),
        ptr::null_mut::<c_void>(),
        ptr::null_mut::<c_void>(),
    );
    let (mut address, mut values) = (0u64, vec![0f32; 32 * (kernels.len() + 1)]);
    let bytes = 4 * values.len();
    call!(c"cuStreamCreate": *mut *mut c_void = &mut stream, u32 = 1);
    call!(c"cuMemAlloc_v2": *mut u64 = &mut address, usize = bytes);
    call!(c"cuModuleLoadData": *mut *mut c_void = &mut module, *const c_char = c"#define ACT_F32\n".as_ptr());
    [false, true].map(|captured| {
        // -1 where nothing is yet.
        values.fill(-1.0);
        values[..32].fill(1.0);
        call!(c"cuMemcpyHtoDAsync_v2": u64 = address, *const f32 = values.as_ptr(), usize = bytes, *mut c_void = stream);
        if captured {
            call!(c"cuStreamBeginCapture_v2": *mut c_void = stream, u32 = 2);
        }
        for (i, kernel) in kernels.iter().enumerate() {
            let mut function = ptr::null_mut::<c_void>();
            let name = kernel.as_ptr();
            call!(c"cuModuleGetFunction": *mut *mut c_void = &mut function, *mut c_void = module, *const c_char = name);
            let [mut x, mut y] = [i, i + 1].map(|i| address + 128 * i as u64);
            let mut arguments = [ptr::from_mut(&mut x), ptr::from_mut(&mut y)];
            let mut words = [0; 18];
            (words[0], words[2]) = (6, u32::from(early && i > 0));
            let attribute = Attribute(words);
            let config = Config { sizes: [1, 1, 1, 32, 1, 1, 0], stream, attributes: &attribute, count: 1 };
            let (arguments, none) = (arguments.as_mut_ptr(), ptr::null_mut());
            call!(c"cuLaunchKernelEx": *const Config = &config, *mut c_void = function, *mut *mut u64 = arguments,
                *mut c_void = none);
        }
        if captured {
            call!(c"cuStreamEndCapture": *mut c_void = stream, *mut *mut c_void = &mut graph);
            call!(c"cuGraphInstantiateWithFlags": *mut *mut c_void = &mut executable, *mut c_void = graph, u64 = 0);
            call!(c"cuGraphLaunch": *mut c_void = executable, *mut c_void = stream);
        }
        call!(c"cuMemcpyDtoHAsync_v2": *mut f32 = values.as_mut_ptr(), u64 = address, usize = bytes, *mut c_void = stream);
        call!(c"cuStreamSynchronize": *mut c_void = stream);
        assert!(values.chunks(32).all(|row| row.iter().all(|value| *value == row[0])));
        values.chunks(32).skip(1).map(|row| row[0]).collect()
    })
}

#[test]
fn the_fake_card_begins_kernels_as_early_as_a_card_may() {
    let _alone = alone();
    let both = |values: &[f32]| [values.to_vec(), values.to_vec()];
    assert_eq!(chain(&[c"next_right"; 12], true), both(&std::array::from_fn::<_, 12, _>(|i| i as f32 + 2.0)));
    assert_eq!(chain(&[c"next_shares"; 3], true), both(&[2.0, 3.0, 4.0]));
    let before = fake_card::begun_early("next_right");
    chain(&[c"next_right"; 12], false);
    assert_eq!(fake_card::begun_early("next_right"), before);
    chain(&[c"next_right"; 12], true);
    assert_eq!(fake_card::begun_early("next_right"), before + 22);
    // What is read too early is what was there before.
    look_closely(false);
    let early = [c"next_right", c"next_reads_early", c"next_right"];
    assert_eq!(chain(&early, true), both(&[2.0, 0.0, 1.0]));
    assert_eq!(chain(&early, false), both(&[2.0, 3.0, 4.0]));
    // Nobody begins before a kernel that does not let them.
    let alone = [c"next_right", c"next_alone", c"next_reads_early", c"next_reads_early"];
    assert_eq!(chain(&alone, true), both(&[2.0, 3.0, 4.0, 0.0]));
    look_closely(true);
}

/// Whether the fake card looks at chains more closely.
fn look_closely(closely: bool) {
    // SAFETY: it is of that type.
    unsafe {
        let look: unsafe extern "C" fn(i32) =
            std::mem::transmute(fake_card::symbol(c"fake_card_looks_closely"));
        look(i32::from(closely));
    }
}

/// Each in a process of its own, which ends.
#[test]
fn kernels_that_break_the_rules_are_found() {
    const CHILD: &str = "HERD_TEST_BREAKS_RULE";
    let broken = [
        (c"next_waits_sometimes", "next_waits_sometimes: a thread has ended and not waited"),
        (c"next_writes_early", "next_writes_early: it writes before it has waited"),
        (c"next_reads_early", "have other bits than kernels that do not: next_right next_reads_early"),
    ];
    if let Some(which) = std::env::var_os(CHILD) {
        let (kernel, _) = broken[which.to_str().unwrap().parse::<usize>().unwrap()];
        chain(&[c"next_right", kernel], true);
        return;
    }
    for (i, (kernel, expected)) in broken.iter().enumerate() {
        let name = "kernels_that_break_the_rules_are_found";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", name]).env(CHILD, i.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(!child.status.success() && said.contains(expected), "{said}");
        assert_eq!(
            chain(&[c"next_right", kernel], false)[0],
            [2.0, 3.0],
            "in order they compute what they should"
        );
    }
}

/// A card that this thread takes for one of a capability, under a driver.
fn card_of(capability: i32, driver: i32) -> Card {
    let under = |capability, driver| {
        // SAFETY: it is of that type.
        unsafe {
            let under: unsafe extern "C" fn(i32, i32) =
                std::mem::transmute(fake_card::symbol(c"fake_card_under"));
            under(capability, driver);
        }
    };
    under(capability, driver);
    let card = fake_card::open();
    // Its kernels are compiled for it when they are first needed.
    let x = CardBuffer::zeroed(&card, 4).unwrap();
    card.launch(DType::F32, "negate", (1, 1), &[(&x).into(), (&x).into(), 1usize.into()]).unwrap();
    under(90, 13_000);
    card
}

const COLUMNS: usize = 64;

/// Rows of a stream and what `norm_rows` makes of them, several times over.
struct Norms {
    card: Card,
    x: CardBuffer,
    w: CardBuffer,
    y: CardBuffer,
}

impl Norms {
    fn new(card: Card) -> Self {
        let x: Vec<f32> = (0..COLUMNS).map(|i| (i as f32).sin()).collect();
        let [x, w] = [x, vec![1.5; COLUMNS]].map(|values| CardBuffer::from_host(&card, &values).unwrap());
        let y = CardBuffer::stale(&card, 4 * COLUMNS).unwrap();
        Self { card, x, w, y }
    }

    fn norm(&self, from: &CardBuffer, to: &CardBuffer) -> Result<(), CardError> {
        let arguments =
            [from.into(), 0u64.into(), (&self.w).into(), to.into(), (COLUMNS as i32).into(), 1e-5f32.into()];
        self.card.launch(DType::F32, "norm_rows", (1, 1), &arguments)
    }

    /// From x to y and back, `count` times.
    fn norms(&self, count: usize) -> Result<(), CardError> {
        (0..count).try_for_each(|i| {
            if i % 2 == 0 { self.norm(&self.x, &self.y) } else { self.norm(&self.y, &self.x) }
        })
    }

    /// How many kernels begin early while `work` is done.
    fn early(&self, work: impl FnOnce()) -> u32 {
        self.card.synchronize().unwrap();
        let before = fake_card::begun_early("norm_rows");
        work();
        self.card.synchronize().unwrap();
        fake_card::begun_early("norm_rows") - before
    }
}

#[test]
fn kernels_overlap_where_card_and_driver_can() {
    let _alone = alone();
    for (capability, driver, overlaps) in
        [(80, 13_000, false), (90, 12_020, false), (90, 12_030, true), (100, 13_010, true)]
    {
        let norms = Norms::new(card_of(capability, driver));
        assert_eq!(norms.card.overlaps(), overlaps, "sm_{capability}, driver {driver}");
        let count = || norms.early(|| norms.norms(5).unwrap());
        assert_eq!(count(), if overlaps { 4 } else { 0 });
        norms.card.set_overlap(false);
        assert_eq!((norms.card.overlaps(), count()), (false, 0));
        norms.card.set_overlap(true);
        assert_eq!(norms.card.overlaps(), overlaps, "what cannot be cannot be asked for");
    }
}

/// The fake card refuses a kernel that is to overlap with something else.
#[test]
fn whatever_is_no_kernel_ends_a_chain() {
    let _alone = alone();
    let norms = Norms::new(fake_card::open());
    let Norms { card, x, y, .. } = &norms;
    let other = CardBuffer::zeroed(card, 4 * COLUMNS).unwrap();
    let graph = card.capture("norms", || norms.norms(3)).unwrap();
    let none = Arg::from(0u64);
    let between: [(&str, &dyn Fn()); 8] = [
        ("an upload", &|| other.overwrite(&[1f32; COLUMNS]).unwrap()),
        ("a download", &|| other.read(&mut [0f32; COLUMNS]).unwrap()),
        ("a copy", &|| other.copy_within(0, 4 * COLUMNS / 2, 4 * COLUMNS / 2).unwrap()),
        ("waiting", &|| card.synchronize().unwrap()),
        ("a capture", &|| drop(card.capture("norms", || norms.norms(2)).unwrap())),
        ("memory", &|| drop(CardBuffer::zeroed(card, 64).unwrap())),
        ("a failure", &|| drop(card.launch(DType::F32, "norm_rows", (1, 70_000), &[none; 6]).unwrap_err())),
        ("a graph", &|| {
            assert_eq!(norms.early(|| graph.launch().unwrap()), 2, "as it was captured");
            graph.launch().unwrap();
        }),
    ];
    for (what, work) in between {
        let count = norms.early(|| {
            norms.norms(2).unwrap();
            card.synchronize().unwrap();
            norms.norms(2).unwrap();
            work();
            norms.norms(2).unwrap();
        });
        let of_work = if what == "a graph" { 4 } else { 0 };
        assert_eq!(count, 3 + of_work, "{what}");
    }
    // A kernel that is not of the list is plain itself, and one of a chain for the next.
    let arguments = [x.into(), y.into(), COLUMNS.into()];
    let negate = || card.launch(DType::F32, "negate", (1, 1), &arguments).unwrap();
    assert_eq!(norms.early(|| (negate(), norms.norms(1).unwrap(), negate(), negate()).3), 0);
}
