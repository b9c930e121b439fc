//! Steps `large-star` and `small-star`: connected components of a graph that no machine holds, in rounds that are
//! logarithmic in practice (Kiveris et al., "Connected Components in MapReduce and Beyond", SoCC 2014). At the end every
//! document of a component has one edge, to the smallest of the component.

use super::parts::Account;
use super::plan::{file_name, last_round};
use super::{Job, Step};
use crate::error::Error;
use crate::exchange::{Groups, record};
use crate::hash;

record! {
    /// Two documents that are alike.
    Edge {
        /// Hash of `from`, which no other document has.
        key: u64,
        from: u64,
        to: u64,
    }
}

impl Edge {
    /// An edge for the task that has `from`.
    pub fn new(from: u64, to: u64) -> Self {
        Self { key: hash::mix(from), from, to }
    }
}

/// Where the edges lie that a round begins with; each stands there in both directions.
fn edges_before(round: u32) -> Vec<(Step, &'static str)> {
    match round {
        1 => vec![(Step::Candidates, "edges.parquet"), (Step::Similar, "edges.parquet")],
        _ => vec![(Step::SmallStar(round - 1), "edges.parquet")],
    }
}

/// The edges that the search ended with, each in both directions.
pub fn last_edges(job: &Job, k: usize) -> Result<Groups<Edge>, Error> {
    let round = last_round(&job.work)?;
    job.read(&edges_before(round), job.part(k))
}

/// Every larger neighbour of a document is led to the smallest document among it and its neighbours.
pub fn large(job: &Job, round: u32, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Edge>(&edges_before(round), job.part(k))?;
    let mut out = job.writer(0.5)?;
    let mut account = Account::default();
    while let Some(first) = rows.next_row()? {
        let (key, from) = (first.key, first.from);
        let least = first.to.min(from);
        let mut next = Some(first);
        while let Some(edge) = next {
            account.rows += 1;
            let pair = hash::of_sequence(&[from, edge.to]);
            account.fingerprint = account.fingerprint.wrapping_add(pair);
            if edge.to > from {
                out.push(Edge::new(edge.to, least))?;
            }
            next = rows.next_of(key)?;
        }
    }
    out.finish(&file_name(Step::LargeStar(round), k, "edges.parquet"))?;
    Ok(account)
}

/// Every document is led, with its smaller neighbours, to the smallest of them.
pub fn small(job: &Job, round: u32, k: usize) -> Result<Account, Error> {
    let from = [(Step::LargeStar(round), "edges.parquet")];
    let mut rows = job.read::<Edge>(&from, job.part(k))?;
    let mut out = job.writer(0.5)?;
    while let Some(first) = rows.next_row()? {
        let (key, from, least) = (first.key, first.from, first.to);
        let mut lead = |document: u64| {
            out.push(Edge::new(document, least))?;
            out.push(Edge::new(least, document))
        };
        lead(from)?;
        while let Some(edge) = rows.next_of(key)? {
            lead(edge.to)?;
        }
    }
    out.finish(&file_name(Step::SmallStar(round), k, "edges.parquet"))?;
    Ok(Account::default())
}
