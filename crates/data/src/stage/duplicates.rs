//! First reduction: which documents stay of those with the same URL or nearly the same text.

use super::parts::Part;
use crate::error::Error;
use crate::filters::Reason;
use crate::funnel::Funnel;
use crate::near_duplicates::{bands, candidates, clusters, components, jaccard, shingles};
use crate::settings::Settings;
use herd_run::Context;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is decided about every page, by its place in the sequence of all parts.
#[derive(Default)]
pub struct Fates {
    /// For each part, the number of its first page.
    starts: Vec<u32>,
    dropped: BTreeMap<u32, Reason>,
    /// The account of both steps.
    pub funnel: Funnel,
    /// Clusters of near-duplicates.
    pub clusters: u64,
}

impl Fates {
    /// Why the page at a row of a part goes; `None` if it stays.
    pub fn reason(&self, part: usize, row: usize) -> Option<&Reason> {
        self.dropped.get(&(self.starts[part] + row as u32))
    }
}

/// What is remembered of a page.
struct Entry {
    id: String,
    date: String,
    bytes: usize,
    bands: Vec<u64>,
}

/// Decides about all pages.
pub fn reduce(parts: &[Part], settings: &Settings, ctx: &Context) -> Result<Fates, Error> {
    let mut fates = Fates::default();
    let near = &settings.near_duplicates;
    let mut entries: Vec<Entry> = Vec::new();
    let progress = ctx.progress.task("de-duplicate", None, "documents");
    for part in parts {
        fates.starts.push(entries.len() as u32);
        part.batches(|_, batch| {
            ctx.stop.check()?;
            progress.add(batch.len() as u64);
            entries.par_extend(batch.into_par_iter().map(|d| {
                let bands = bands(&shingles(&d.text, &d.language, near.shingle), near);
                Entry { id: d.id, date: d.date, bytes: d.text.len(), bands }
            }));
            Ok(())
        })?;
    }
    keep_newest(&mut entries, &mut fates);
    let signatures: Vec<Vec<u64>> = entries.iter_mut().map(|e| std::mem::take(&mut e.bands)).collect();
    let pairs = candidates(&signatures);
    drop(signatures);
    let (similar, urls) = compare(parts, &fates, pairs, settings, ctx)?;
    keep_one_of_each_cluster(&entries, &similar, &urls, settings, &mut fates);
    Ok(fates)
}

/// Of all captures of a URL the newest stays; of those with the same date the last in order.
fn keep_newest(entries: &mut [Entry], fates: &mut Fates) {
    let mut newest: HashMap<&str, u32> = HashMap::new();
    for (n, entry) in entries.iter().enumerate() {
        newest
            .entry(&entry.id)
            .and_modify(|best| {
                *best = if entry.date >= entries[*best as usize].date { n as u32 } else { *best }
            })
            .or_insert(n as u32);
    }
    let newest: Vec<u32> = entries.iter().map(|e| newest[e.id.as_str()]).collect();
    for n in 0..entries.len() {
        let bytes = entries[n].bytes;
        if newest[n] == n as u32 {
            fates.funnel.pass("url", bytes, bytes);
            continue;
        }
        let excerpt =
            format!("captured {}; a capture of {} stays", entries[n].date, entries[newest[n] as usize].date);
        fates.funnel.drop("url", bytes, "older capture");
        fates.dropped.insert(n as u32, Reason::new("older capture", 0.0, 0.0, &excerpt));
        entries[n].bands.clear();
    }
}

type Similar = BTreeMap<(u32, u32), f32>;

/// The candidates that are alike, with their similarity, and the URLs of all candidates.
fn compare(
    parts: &[Part],
    fates: &Fates,
    pairs: Vec<(u32, u32)>,
    settings: &Settings,
    ctx: &Context,
) -> Result<(Similar, HashMap<u32, String>), Error> {
    let near = &settings.near_duplicates;
    let wanted: BTreeSet<u32> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let mut sets: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut urls = HashMap::new();
    for (part, start) in parts.iter().zip(&fates.starts) {
        part.batches(|row, batch| {
            ctx.stop.check()?;
            let first = *start + row as u32;
            for (n, document) in (first..).zip(batch).filter(|(n, _)| wanted.contains(n)) {
                if near.verify {
                    sets.insert(n, shingles(&document.text, &document.language, near.shingle));
                }
                urls.insert(n, document.url);
            }
            Ok(())
        })?;
    }
    let alike = pairs.into_par_iter().filter_map(|(a, b)| {
        let similarity = if near.verify { jaccard(&sets[&a], &sets[&b]) } else { near.similarity };
        (similarity >= near.similarity).then_some(((a, b), similarity))
    });
    Ok((alike.collect(), urls))
}

/// Of each cluster the longest document stays, of equally long ones the newest.
fn keep_one_of_each_cluster(
    entries: &[Entry],
    similar: &Similar,
    urls: &HashMap<u32, String>,
    settings: &Settings,
    fates: &mut Fates,
) {
    let edges: Vec<(u32, u32)> = similar.keys().copied().collect();
    let clusters = clusters(&components(entries.len(), &edges));
    fates.clusters = clusters.len() as u64;
    let mut gone: BTreeMap<u32, Reason> = BTreeMap::new();
    for members in clusters.values() {
        let rank =
            |n: &u32| (entries[*n as usize].bytes, entries[*n as usize].date.as_str(), std::cmp::Reverse(*n));
        let Some(stays) = members.iter().copied().max_by_key(rank) else { continue };
        for member in members.iter().filter(|m| **m != stays) {
            let pair = (stays.min(*member), stays.max(*member));
            let best = || {
                similar
                    .iter()
                    .filter(|((a, b), _)| a == member || b == member)
                    .map(|(_, s)| *s)
                    .fold(0.0, f32::max)
            };
            let similarity = similar.get(&pair).copied().unwrap_or_else(best);
            let excerpt = format!("like {}", urls.get(&stays).map_or("", String::as_str));
            gone.insert(
                *member,
                Reason::new("near duplicate", similarity, settings.near_duplicates.similarity, &excerpt),
            );
        }
    }
    for (n, entry) in entries.iter().enumerate().filter(|(n, _)| !fates.dropped.contains_key(&(*n as u32))) {
        match gone.contains_key(&(n as u32)) {
            true => fates.funnel.drop("near duplicates", entry.bytes, "near duplicate"),
            false => fates.funnel.pass("near duplicates", entry.bytes, entry.bytes),
        }
    }
    fates.dropped.extend(gone);
}
