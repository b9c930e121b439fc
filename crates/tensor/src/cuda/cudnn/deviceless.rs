//! Plans for a card that is not there: cuDNN compiles for the properties of any card, so every graph is tried against the
//! real library without one. Nothing runs.

use super::attention::Way;
use super::backend::{Backend, Descriptor};
use super::batch::Layout;
use super::names::{attribute, kind};
use super::plan::{Plan, Target};
use super::{dotted, reason};
use crate::AttentionShape;
use crate::cuda::{CardError, Kind, Library};
use std::path::PathBuf;

/// A plan that was compiled, or was not.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// cuDNN's version.
    pub version: String,
    /// The problem.
    pub what: String,
    /// `forward`, `ordered`, `any order` or `scores`.
    pub way: &'static str,
    /// Whether documents are packed.
    pub packed: bool,
    /// cuDNN's number of the engine and the bytes it works in, or cuDNN's words.
    pub plan: Result<(i64, usize), String>,
}

/// Compiles every graph of attention for a card with these properties (the JSON of
/// `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`), with cuDNN found in the given folders or on this machine. Needs `libcuda`
/// to be loadable, which may be a stub that accepts everything, and `libcublasLt`.
pub fn compile_without_card(folders: &[PathBuf], properties: &str) -> Result<Vec<Compiled>, CardError> {
    let backend = Backend::of(&Library::open_in(Kind::Cudnn, folders)?)?;
    let card = Descriptor::new(&backend, kind::DEVICEPROP)?;
    card.set(attribute::DEVICEPROP_JSON_REPRESENTATION, properties.as_bytes())?.finalize()?;
    let layouts = [
        Layout::Even { batch: 2, length: 8192 },
        Layout::Even { batch: 2, length: 328 },
        Layout::Packed { batch: 16, longest: 8192 },
        Layout::Packed { batch: 128, longest: 65_536 },
    ];
    let ways = [
        ("forward", Way::Forward),
        ("ordered", Way::Sums { ordered: true }),
        ("any order", Way::Sums { ordered: false }),
        ("scores", Way::Scores),
    ];
    let mut all = Vec::new();
    for (heads, kv_heads) in [(32, 8), (8, 8)] {
        for head_dim in [64, 128] {
            for (layout, (name, way)) in
                layouts.into_iter().flat_map(|layout| ways.into_iter().map(move |way| (layout, way)))
            {
                let (most, packed) = (1 << 40, layout.is_packed());
                if way == Way::Scores && packed {
                    continue;
                }
                let problem = layout.problem(AttentionShape { heads, kv_heads, head_dim });
                let plan = Plan::new(&backend, &Target::Properties(&card), problem, way, most);
                all.push(Compiled {
                    version: dotted(backend.version),
                    what: format!("{heads}/{kv_heads} heads of {head_dim}, {layout:?}"),
                    way: name,
                    packed,
                    plan: plan.map(|plan| (plan.engine, plan.workspace)).map_err(reason),
                });
            }
        }
    }
    Ok(all)
}
