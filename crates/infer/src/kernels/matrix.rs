//! Quantised matrices and activations, and their product: shapes are checked here, work is shared here.

use super::planes::{BLOCK, Shape};
use super::quant::{Product, WORDS, next_group};
use super::store::{Arena, PanelSource, Store};
use super::{Isa, LANES, SharedOut, brain, dispatch, quant};
use crate::gguf::BlockType;
use crate::team::Team;
use std::sync::Arc;

/// Bytes of weights in one unit of work when one row of activations is multiplied.
const UNIT_BYTES: usize = 48 << 10;

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
    rows: usize,
    columns: usize,
    /// Rows of the largest group.
    group: usize,
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

    /// Takes the rows of `x` [rows, columns]; `columns` is a multiple of 32.
    pub(crate) fn quantise(&mut self, isa: Isa, team: &Team, x: &[f32], columns: usize) {
        assert!(columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns), "rows of whole blocks");
        let (rows, blocks) = (x.len() / columns, columns / BLOCK);
        self.words.resize(rows * blocks * WORDS, 0);
        (self.rows, self.columns, self.group) = (rows, columns, isa.group());
        let words = SharedOut(self.words.as_mut_ptr());
        // A group is one unit: its rows lie in the same cache lines.
        let mut groups = Vec::with_capacity(rows / isa.group() + 4);
        while let Some((first, size)) = next_group(groups.last().copied(), rows, isa.group()) {
            groups.push((first, size));
        }
        team.run(groups.len(), |unit| {
            let (first, size) = groups[unit];
            let group = words.at(first * blocks * WORDS);
            for row in 0..size {
                let x = x[(first + row) * columns..(first + row + 1) * columns].as_ptr();
                let place = (row, size);
                dispatch!(isa, quant::quantise_row(x: *const f32, blocks: usize, place: (usize, usize), group: *mut i32));
            }
        });
    }
}

/// What the bytes of a row ([`quant::quantise_row`]) leave over, at most half a step of each block.
pub(crate) fn left_over(x: &[f32], rest: &mut [f32]) {
    for (x, rest) in x.chunks_exact(BLOCK).zip(rest.chunks_exact_mut(BLOCK)) {
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let (scale, inverse) = (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 });
        rest.iter_mut().zip(x).for_each(|(rest, x)| *rest = x - scale * (x * inverse).round_ties_even());
    }
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
    let m = x.rows;
    let width: usize = parts.iter().map(|p| p.rows).sum();
    assert!(parts.iter().all(|p| p.columns == x.columns), "columns of a product");
    assert!(m == 0 || out.len() >= (m - 1) * stride + width && stride >= width, "output of a product");
    if m == 0 {
        return;
    }
    assert_eq!(x.group, isa.group(), "activations of another instruction set");
    let target = SharedOut(out.as_mut_ptr());
    // What a unit costs grows with the bytes of the weights and with the rows.
    let each = |p: &Planes| (UNIT_BYTES / (p.shape.panel(p.blocks()) * m.div_ceil(4))).max(1);
    let units_of = |p: &Planes| p.panels().div_ceil(each(p));
    let access: Vec<_> = parts.iter().map(|p| p.store.begin(m)).collect();
    team.run(parts.iter().map(|p| units_of(p)).sum(), |mut unit| {
        let mut column = 0;
        for (&part, &access) in parts.iter().zip(&access) {
            if unit < units_of(part) {
                let first = unit * each(part);
                let panels = each(part).min(part.panels() - first);
                part.store.with_panels(access, first..first + panels, |weights| {
                    let product = Product {
                        kind: part.kind,
                        weights,
                        panels,
                        panel_bytes: part.shape.panel(part.blocks()),
                        blocks: part.blocks(),
                        x: x.words.as_ptr(),
                        m,
                        out: target.at(column + first * LANES),
                        stride,
                        rows: part.rows - first * LANES,
                    };
                    match isa {
                        // SAFETY: the machine has it, see `dispatch`; shapes were checked above.
                        #[cfg(target_arch = "x86_64")]
                        Isa::Amx => unsafe { super::amx::product(product) },
                        _ => dispatch!(isa, quant::product(product: Product)),
                    }
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
