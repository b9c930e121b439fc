//! Whether cuDNN computes attention right on this card: a small problem of each class by both, cuDNN and Herd's kernels,
//! into memory that holds NaN before. The verdict is kept in the user's cache for this card, driver, cuDNN and program.

use super::attention::Way;
use super::batch::Layout;
use super::fused::{Fused, Gradients};
use super::{CudnnUse, State, dotted, reason};
use crate::cuda::card::{driver, lock};
use crate::cuda::ops::own_attention::{self, Own};
use crate::cuda::{Card, CardBuffer, CardError, DType, compile};
use crate::{AttentionShape, CounterRng, Segments};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Problems that are trusted, or not, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub way: Way,
    pub packed: bool,
    pub head_dim: usize,
}

/// `Ok` with the largest difference, or why not.
pub(super) type Verdict = Result<f32, String>;

/// What may differ, of the largest value of a row: both round to bf16, shares and outputs, and sums of gradients are left
/// with what was rounded before.
const FORWARD: f32 = 3e-2;
const BACKWARD: f32 = 9e-2;
/// Logarithms of sums, absolute.
const STATISTICS: f32 = 1e-2;

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pass = match self.way {
            Way::Forward => "forward",
            Way::Sums { ordered: true } => "backward, in order",
            Way::Sums { ordered: false } => "backward, in any order",
            Way::Scores => "backward, by scores in memory",
        };
        let layout = if self.packed { "packed documents" } else { "equal lengths" };
        write!(f, "{pass}, {layout}, {} columns a head", self.head_dim)
    }
}

/// What cuDNN is used for on a card.
#[derive(Clone, Debug)]
pub struct CudnnReport {
    /// Its version and file, or why there is none.
    pub library: Result<(String, Option<PathBuf>), String>,
    /// Each class of problems: the largest difference to Herd's kernels, relative to the largest value of its row, or why
    /// Herd's kernels are used.
    pub classes: Vec<(String, Result<f32, String>)>,
}

impl Card {
    /// Checks every class of problems. Compiles kernels and waits for the card: seconds, when it is done the first time.
    pub fn cudnn_report(&self) -> CudnnReport {
        let library = match self.with_cudnn(|open, _| (dotted(open.backend.version), open.path.clone())) {
            Some(found) => Ok(found),
            None => Err(match &lock(&self.0.cudnn).state {
                State::Absent(reason) => reason.clone(),
                _ => "turned off by HERD_CUDNN".into(),
            }),
        };
        let mut classes = Vec::new();
        let ways: &[Way] = match self.cudnn_use() {
            CudnnUse::AnyOrder => &[Way::Forward, Way::Sums { ordered: false }],
            _ => &[Way::Forward, Way::Sums { ordered: true }, Way::Scores],
        };
        for way in ways.iter().filter(|_| library.is_ok()) {
            for (packed, head_dim) in [(false, 64), (false, 128), (true, 64), (true, 128)] {
                if *way == Way::Scores && packed {
                    continue;
                }
                let class = Class { way: *way, packed, head_dim };
                classes.push((class.to_string(), self.verdict(class)));
            }
        }
        CudnnReport { library, classes }
    }

    /// Whether cuDNN may be used for a class; the first time that is found out. Says so if it may not.
    pub(super) fn trusts(&self, class: Class) -> bool {
        let known = self.with_cudnn(|open, _| open.verdicts.get(&class).map(Result::is_ok));
        match known {
            None => false,
            Some(Some(verdict)) => verdict,
            Some(None) => {
                let verdict = self.verdict(class);
                if let Err(reason) = &verdict {
                    self.note_of_cudnn(|version| {
                        format!(
                            "attention ({class}) is computed by Herd's kernels, not by cuDNN {version}: {reason}"
                        )
                    });
                }
                verdict.is_ok()
            }
        }
    }

    fn verdict(&self, class: Class) -> Verdict {
        let known = self.with_cudnn(|open, _| open.verdicts.get(&class).cloned()).flatten();
        known.unwrap_or_else(|| {
            let file = self.verdict_file(class);
            let kept = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
            let verdict = kept.and_then(|text| parse(&text)).unwrap_or_else(|| {
                let found = Check::new(self, class).and_then(|check| check.run().map_err(reason));
                // A call that failed may work the next time. A verdict that cannot be kept is found again then.
                if let (Some(file), Ok(verdict)) = (&file, &found) {
                    let _ = compile::keep(file, print(verdict).as_bytes());
                }
                found.unwrap_or_else(Err)
            });
            self.with_cudnn(|open, _| open.verdicts.insert(class, verdict.clone()));
            verdict
        })
    }

    /// Named by all that a verdict depends on.
    fn verdict_file(&self, class: Class) -> Option<PathBuf> {
        let folder = self.0.cache.as_ref()?;
        let mut driver = 0;
        driver!(self.0.calls, driver_version(&mut driver)).ok()?;
        let version = self.cudnn_version()?;
        let sources = [
            include_str!("attention.rs"),
            include_str!("batch.rs"),
            include_str!("fused.rs"),
            include_str!("graph.rs"),
            include_str!("plan.rs"),
            include_str!("trust.rs"),
        ];
        let what = format!("{} {class} {}", self.name(), sources.concat());
        let fingerprint = compile::fingerprint(&what);
        let architecture = self.architecture();
        Some(folder.join(format!("{fingerprint:016x}-{architecture}-driver{driver}-cudnn{version}")))
    }
}

fn print(verdict: &Verdict) -> String {
    match verdict {
        Ok(difference) => format!("agrees {difference}\n"),
        Err(reason) => format!("differs {reason}\n"),
    }
}

fn parse(text: &str) -> Option<Verdict> {
    let (word, rest) = text.trim_end().split_once(' ')?;
    match word {
        "agrees" => rest.parse().ok().map(Ok),
        "differs" => Some(Err(rest.into())),
        _ => None,
    }
}

/// A small problem.
struct Check<'a> {
    card: &'a Card,
    class: Class,
    fused: Fused,
    segments: Segments,
    shape: AttentionShape,
    qkv: CardBuffer,
    dout: CardBuffer,
}

fn bf16(x: f64) -> u16 {
    half::bf16::from_f64(x).to_bits()
}

fn random(card: &Card, count: usize, what: &str) -> Result<CardBuffer, CardError> {
    let rng = CounterRng::new(1, what);
    let values: Vec<u16> = (0..count as u64).map(|i| bf16(rng.normal(i))).collect();
    CardBuffer::from_host(card, &values)
}

/// Memory that holds NaN.
fn poisoned(card: &Card, bytes: usize) -> Result<CardBuffer, CardError> {
    CardBuffer::from_host(card, &vec![0xffu8; bytes])
}

fn read(buffer: &CardBuffer) -> Result<Vec<u16>, CardError> {
    let mut values = vec![0; buffer.bytes() / 2];
    buffer.read(&mut values)?;
    Ok(values)
}

impl<'a> Check<'a> {
    fn new(card: &'a Card, class: Class) -> Result<Self, String> {
        // Several tiles, the last one not whole, and documents that end inside a tile.
        Self::of(card, class, if class.packed { &[70, 1, 140, 3] } else { &[140, 140] })
    }

    fn of(card: &'a Card, class: Class, lengths: &[usize]) -> Result<Self, String> {
        let version = card.cudnn_version().ok_or("there is no cuDNN")?;
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: class.head_dim };
        let even = |segments: &Segments| {
            Layout::of(segments, shape, version).filter(|layout| layout.is_packed() == class.packed)
        };
        let mut segments = Segments::documents(lengths);
        if even(&segments).is_none() {
            // A version that takes multiples of 128 only.
            segments = Segments::documents(&[256, 256]);
        }
        let layout = even(&segments).ok_or("no small problem is of this class")?;
        let rows = segments.rows();
        let make = || {
            let qkv = random(card, rows * shape.packed_width(), "queries, keys, values")?;
            let dout = random(card, rows * shape.heads * shape.head_dim, "gradient")?;
            let fused = Fused::new(shape, &segments, layout);
            Ok::<_, CardError>((qkv, dout, fused))
        };
        let (qkv, dout, fused) = make().map_err(reason)?;
        Ok(Self { card, class, fused, segments, shape, qkv, dout })
    }

    fn run(&self) -> Result<Verdict, CardError> {
        let verdict = self.compare()?;
        if verdict.is_ok() && matches!(self.class.way, Way::Sums { ordered: true } | Way::Scores) {
            // More tiles that add to the same place.
            let lengths: &[usize] = if self.class.packed { &[300, 100] } else { &[400] };
            match Self::of(self.card, self.class, lengths) {
                Ok(larger) if larger.repeats()? => {}
                Ok(_) => return Ok(Err("its gradients have other bits the next time".into())),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(verdict)
    }

    /// cuDNN's output and statistics.
    fn forward(&self) -> Result<(CardBuffer, CardBuffer), CardError> {
        let out = poisoned(self.card, self.dout.bytes())?;
        let stats = self.fused.forward(&self.qkv, &out)?;
        Ok((out, stats))
    }

    /// cuDNN's gradients.
    fn backward(&self, out: &CardBuffer, stats: &CardBuffer) -> Result<CardBuffer, CardError> {
        let d_qkv = poisoned(self.card, self.qkv.bytes())?;
        let (qkv, dout) = (&self.qkv, &self.dout);
        self.fused.backward(self.class.way, Gradients { qkv, out, stats, dout, d_qkv: &d_qkv })?;
        Ok(d_qkv)
    }

    /// The largest difference of both.
    fn compare(&self) -> Result<Verdict, CardError> {
        let (card, rows) = (self.card, self.segments.rows());
        let own = Own::new(card, DType::Bf16, self.shape, &self.segments);
        let out = poisoned(card, self.dout.bytes())?;
        let lse = own.forward(self.qkv.address(), out.address())?;
        let (theirs, stats) = self.forward()?;
        let width = self.shape.heads * self.shape.head_dim;
        if self.class.way == Way::Forward {
            let [mut a, mut b] = [vec![0f32; lse.bytes() / 4], vec![0f32; lse.bytes() / 4]];
            lse.read(&mut a)?;
            self.fused.lse(&stats)?.read(&mut b)?;
            let most = a.iter().zip(&b).map(|(a, b)| distance(*a, *b)).fold(0.0, f32::max);
            if most > STATISTICS {
                return Ok(Err(format!("its statistics differ by {most:.1e}")));
            }
            let most = rows_differ(&read(&out)?, &read(&theirs)?, width, 0..width);
            return Ok(judge("its output", most, FORWARD));
        }
        let d_qkv = poisoned(card, self.qkv.bytes())?;
        let passes = own_attention::Backward {
            qkv: self.qkv.address(),
            out: out.address(),
            dout: self.dout.address(),
            d_qkv: d_qkv.address(),
        };
        own.backward(&passes, &lse)?;
        let theirs = self.backward(&theirs, &stats)?;
        let (ours, theirs) = (read(&d_qkv)?, read(&theirs)?);
        let (row, kv) = (self.shape.packed_width(), self.shape.kv_heads * self.shape.head_dim);
        let parts = [
            ("its gradient of queries", 0..width),
            ("its gradient of keys", width..width + kv),
            ("its gradient of values", width + kv..row),
        ];
        debug_assert_eq!(ours.len(), rows * row);
        let judged = parts
            .into_iter()
            .map(|(what, columns)| judge(what, rows_differ(&ours, &theirs, row, columns), BACKWARD));
        Ok(judged.collect::<Result<Vec<f32>, String>>().map(|all| all.into_iter().fold(0.0, f32::max)))
    }

    /// Whether gradients have the same bits again.
    fn repeats(&self) -> Result<bool, CardError> {
        let (out, stats) = self.forward()?;
        let first = read(&self.backward(&out, &stats)?)?;
        for _ in 0..2 {
            if read(&self.backward(&out, &stats)?)? != first {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn judge(what: &str, most: f32, allowed: f32) -> Verdict {
    match most <= allowed {
        true => Ok(most),
        false => Err(format!("{what} differs by {most:.1e} of a row's largest value")),
    }
}

/// Infinite if one of them is no number.
fn distance(a: f32, b: f32) -> f32 {
    let distance = (a - b).abs();
    if distance.is_nan() { f32::INFINITY } else { distance }
}

/// The largest difference in some columns, relative to the largest value of its row, or to a tenth of what is usual.
fn rows_differ(ours: &[u16], theirs: &[u16], width: usize, columns: Range<usize>) -> f32 {
    let value = |bits: &u16| f32::from_bits(u32::from(*bits) << 16);
    let rows = |all: &[u16]| -> Vec<Vec<f32>> {
        all.chunks(width).map(|row| row[columns.clone()].iter().map(value).collect()).collect()
    };
    let (ours, theirs) = (rows(ours), rows(theirs));
    let count = (ours.len() * columns.len()) as f32;
    let usual = (ours.iter().flatten().map(|x| x * x).sum::<f32>() / count).sqrt();
    let mut worst = 0f32;
    for (a, b) in ours.iter().zip(&theirs) {
        let scale = a.iter().fold((0.1 * usual).max(1e-6), |most, x| most.max(x.abs()));
        let most = a.iter().zip(b).map(|(a, b)| distance(*a, *b)).fold(0.0, f32::max);
        worst = worst.max(most / scale);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::{bf16, parse, print, rows_differ};

    #[test]
    fn a_verdict_is_kept_as_it_was() {
        for verdict in [Ok(0.0125), Err("its output differs by 1.0e0 of a row's largest value".to_owned())] {
            assert_eq!(parse(&print(&verdict)), Some(verdict));
        }
        assert_eq!(parse("no verdict"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn what_differs_is_found_in_its_row() {
        let a: Vec<u16> = [4.0, 1.0, 0.5, 0.25].map(bf16).into();
        let b: Vec<u16> = [4.0, 1.0, 0.5, 0.5].map(bf16).into();
        assert_eq!(rows_differ(&a, &b, 2, 0..1), 0.0);
        assert_eq!(rows_differ(&a, &b, 2, 1..2), 0.25 / 0.25);
        assert_eq!(rows_differ(&a, &[u16::MAX; 4], 2, 0..2), f32::INFINITY);
    }
}
