//! Quantised matrices and activations, and their product: shapes are checked here, work is shared here.

use super::planes::{BLOCK, Shape};
use super::quant::{Product, WORDS, next_group};
use super::store::{Arena, PanelSource, Store};
use super::{Isa, LANES, SharedOut, brain, dispatch, quant};
use crate::gguf::BlockType;
use crate::team::Team;
use std::cell::RefCell;
use std::sync::Arc;

/// Most bytes of weights in one unit of work when one row of activations is multiplied.
const UNIT_BYTES: usize = 96 << 10;

/// A quantised matrix [rows, columns] in [`super::planes`]' form.
#[derive(Clone)]
pub(crate) struct Planes {
    kind: BlockType,
    shape: Shape,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    store: Arc<Store>,
}

impl Planes {
    /// The matrix whose panels `source` makes and that may be packed at byte `at` of an arena, `None` if the format is not
    /// quantised or that is no place for it.
    pub(crate) fn new(
        kind: BlockType,
        (rows, columns): (usize, usize),
        source: Box<dyn PanelSource>,
        arena: &Arc<Arena>,
        at: usize,
    ) -> Option<Self> {
        let shape = Shape::of(kind)?;
        if columns == 0 || !columns.is_multiple_of(BLOCK * shape.record_blocks()) {
            return None;
        }
        let panels = (rows.div_ceil(LANES), shape.panel(columns / BLOCK));
        Some(Self { kind, shape, rows, columns, store: Arc::new(Store::new(source, arena, at, panels)?) })
    }

    fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Panels of a unit of work for `m` rows of activations, when `rows` rows of weights are multiplied together.
    fn unit(&self, m: usize, rows: usize, threads: usize) -> usize {
        // What a unit costs grows with the bytes of the weights and with the rows; and no thread is to be without one.
        let by_cost = UNIT_BYTES / (self.shape.panel(self.blocks()) * m.div_ceil(4));
        by_cost.min(rows.div_ceil(LANES * 2 * threads)).max(1)
    }

    /// The panels of the second unit of such a product, if they are packed: the first is the caller's.
    pub(crate) fn second_unit(&self, m: usize, rows: usize, threads: usize) -> Option<&[u8]> {
        let unit = self.unit(m, rows, threads);
        self.store.packed(unit..2 * unit)
    }

    /// Packs all panels if they are not; how many bytes that were.
    pub(crate) fn pack(&self, team: &Team) -> usize {
        self.store.pack(team)
    }

    /// Row `index` as floats; zeros if there is no such row.
    pub(crate) fn copy_row(&self, index: usize, out: &mut [f32]) {
        if index >= self.rows {
            return out.fill(0.0);
        }
        let (first, lane) = (index / LANES, index % LANES);
        self.store.with_panels(self.store.begin(1), first..first + 1, |panel| {
            // SAFETY: one panel begins there.
            let panel = unsafe { std::slice::from_raw_parts(panel, self.shape.panel(self.blocks())) };
            self.copy_lane(panel, lane, out);
        });
    }

    /// One row of a panel as floats.
    fn copy_lane(&self, panel: &[u8], lane: usize, out: &mut [f32]) {
        let (numbers, scales) = panel.split_at(self.blocks() * self.shape.numbers());
        let blocks = numbers.chunks_exact(self.shape.numbers());
        for (b, (out, numbers)) in out.chunks_exact_mut(BLOCK).zip(blocks).enumerate() {
            let numbers = self.shape.numbers_of(numbers, lane);
            for (half, (out, numbers)) in out.chunks_exact_mut(16).zip(numbers.chunks_exact(16)).enumerate() {
                let (scale, min) = self.shape.scale_of(scales, b, half, lane);
                for (out, &q) in out.iter_mut().zip(numbers) {
                    *out = scale * (f32::from(q) - f32::from(self.shape.bias)) + min;
                }
            }
        }
    }
}

/// Activations as weights that are not floats are multiplied with.
#[derive(Default)]
pub(crate) struct Activations {
    /// As brain floats, row by row.
    brains: Vec<u16>,
    /// Whether brain floats are multiplied with floats all the same.
    exact: bool,
    /// As bytes, in groups of rows (see [`super::quant`]).
    words: Vec<i32>,
    /// Rows of bytes.
    rows: usize,
    columns: usize,
    /// Rows of the largest group.
    group: usize,
    /// Two rows of bytes are one of 16 bits: their products belong together.
    fine: bool,
}

impl Activations {
    /// `exact`: brain floats are multiplied with activations as they are.
    pub(crate) fn new(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// Whether brain floats take floats.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Takes the rows of `x` [rows, columns] as brain floats, if brain floats are not to take floats.
    pub(crate) fn round(&mut self, team: &Team, x: &[f32], columns: usize) {
        if !self.exact {
            brain::round(team, x, columns, &mut self.brains);
        }
    }

    /// What [`round`](Self::round) took.
    pub(crate) fn rounded(&self) -> Option<&[u16]> {
        (!self.exact).then_some(&self.brains)
    }

    /// Takes the rows of `x` [rows, columns]; `columns` is a multiple of 32. If it is `fine`, each is taken twice: as bytes, and
    /// as those of what they leave over.
    pub(crate) fn quantise(&mut self, isa: Isa, team: &Team, x: &[f32], columns: usize, fine: bool) {
        assert!(columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns), "rows of whole blocks");
        let each = 1 + usize::from(fine);
        let (rows, blocks) = (each * x.len() / columns, columns / BLOCK);
        self.words.resize(rows * blocks * WORDS, 0);
        (self.rows, self.columns, self.group, self.fine) = (rows, columns, isa.group(), fine);
        let words = SharedOut(self.words.as_mut_ptr());
        // A group is one unit: its rows lie in the same cache lines.
        let mut groups = Vec::with_capacity(rows / isa.group() + 4);
        while let Some((first, size)) = next_group(groups.last().copied(), rows, isa.group()) {
            groups.push((first, size));
        }
        team.run(groups.len(), |unit| {
            let (first, size) = groups[unit];
            let group = words.at(first * blocks * WORDS);
            // With two rows of bytes for each, all groups are even.
            for row in (0..size).step_by(each) {
                let x = x[(first + row) / each * columns..][..columns].as_ptr();
                let place = (row, size);
                dispatch!(isa, quant::quantise_row(x: *const f32, blocks: usize, place: (usize, usize), fine: bool, group: *mut i32));
            }
        });
    }
}

thread_local! {
    /// What a unit computes of rows of which two are one.
    static HALVES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out[m, rows of all parts] = x self^T`, the parts side by side. A row of `out` has the same bits for every `m`.
pub(crate) fn multiply(
    isa: Isa,
    team: &Team,
    parts: &[&Planes],
    x: &Activations,
    out: &mut [f32],
    stride: usize,
) {
    let (m, rows) = (x.rows, x.rows / (1 + usize::from(x.fine)));
    let width: usize = parts.iter().map(|p| p.rows).sum();
    assert!(parts.iter().all(|p| p.columns == x.columns), "columns of a product");
    assert!(rows == 0 || out.len() >= (rows - 1) * stride + width && stride >= width, "output of a product");
    if m == 0 {
        return;
    }
    assert_eq!(x.group, isa.group(), "activations of another instruction set");
    let target = SharedOut(out.as_mut_ptr());
    let each = |p: &Planes| p.unit(m, width, team.threads());
    let units_of = |p: &Planes| p.panels().div_ceil(each(p));
    // Where unit `unit` of all begins, if it is packed.
    let begin = |mut unit: usize| {
        for part in parts {
            if unit < units_of(part) {
                return part.store.packed(unit * each(part)..unit * each(part) + 1).map(<[u8]>::as_ptr);
            }
            unit -= units_of(part);
        }
        None
    };
    let access: Vec<_> = parts.iter().map(|p| p.store.begin(m)).collect();
    team.run(parts.iter().map(|p| units_of(p)).sum(), |mut unit| {
        let mut column = 0;
        // Threads take turns as a rule.
        let next = begin(unit + team.threads()).unwrap_or(std::ptr::null());
        for (&part, &access) in parts.iter().zip(&access) {
            if unit < units_of(part) {
                let first = unit * each(part);
                let panels = each(part).min(part.panels() - first);
                part.store.with_panels(access, first..first + panels, |weights| {
                    let product = |out: *mut f32, stride: usize| {
                        let product = Product {
                            kind: part.kind,
                            weights,
                            panels,
                            panel_bytes: part.shape.panel(part.blocks()),
                            next,
                            blocks: part.blocks(),
                            x: x.words.as_ptr(),
                            m,
                            out,
                            stride,
                            rows: part.rows - first * LANES,
                        };
                        match isa {
                            // SAFETY: the machine has it, see `dispatch`; shapes were checked above.
                            #[cfg(target_arch = "x86_64")]
                            Isa::Amx => unsafe { super::amx::product(product) },
                            _ => dispatch!(isa, quant::product(product: Product)),
                        }
                    };
                    if !x.fine {
                        return product(target.at(column + first * LANES), stride);
                    }
                    HALVES.with_borrow_mut(|halves| {
                        let wide = panels * LANES;
                        halves.resize(halves.len().max(m * wide), 0.0);
                        product(halves.as_mut_ptr(), wide);
                        let width = wide.min(part.rows - first * LANES);
                        for (row, halves) in halves.chunks_exact(2 * wide).take(rows).enumerate() {
                            let (high, low) = halves.split_at(wide);
                            // SAFETY: these rows of weights are this unit's alone, and inside `out`.
                            let out = unsafe { target.slice(row * stride + column + first * LANES, width) };
                            out.iter_mut().zip(high.iter().zip(low)).for_each(|(out, (a, b))| *out = a + b);
                        }
                    });
                });
                return;
            }
            unit -= units_of(part);
            column += part.rows;
        }
    });
    for (part, access) in parts.iter().zip(access) {
        part.store.end(access);
    }
}
