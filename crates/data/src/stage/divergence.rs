//! Steps `divergence`, `thresholds` and `documents`: each document's divergence from the corpus of its language, the
//! bounds that follow from all of them, and what stays within them.

use super::parts::{Account, Part};
use super::plan::file_name;
use super::{Job, Step, corpus};
use crate::documents::Document;
use crate::domain::domain;
use crate::error::Error;
use crate::exchange::record;
use crate::filters::{Distribution, Measured, Reason, Thresholds, divergence, domain_by_score};
use crate::rejects::Reject;
use crate::settings::Settings;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

record! {
    /// How many documents of a language and about a length diverge so much.
    Measurement {
        /// All go to one task.
        key: u64,
        language: String,
        class: u32,
        cell: u32,
        documents: u64,
    } absorb(this, later) {
        if (&this.language, this.class, this.cell) == (&later.language, later.class, later.cell) {
            this.documents += later.documents;
            return true;
        }
        false
    }
}

const THRESHOLDS: &str = "thresholds.json";

/// Measures the documents of a split.
pub fn measure(job: &Job, k: usize) -> Result<Account, Error> {
    let languages = corpus::load(job)?;
    let mut out = job.writer(0.3)?;
    Part::new(&job.work, Step::Clean, k).batches(|_, batch| {
        job.ctx.stop.check()?;
        let measured: Vec<_> = batch.par_iter().map(|d| diverges(d, &languages)).collect();
        for (document, (value, words)) in batch.into_iter().zip(measured) {
            let (class, cell) = Measured::place(value, words);
            out.push(Measurement { key: 0, language: document.language, class, cell, documents: 1 })?;
        }
        Ok(())
    })?;
    out.finish(&file_name(Step::Divergence, k, "measured.parquet"))?;
    Ok(Account::default())
}

fn diverges(document: &Document, languages: &BTreeMap<String, Distribution>) -> (f32, usize) {
    languages.get(&document.language).map_or((0.0, 0), |corpus| divergence(&document.text, corpus))
}

/// Finds the bounds of all languages.
pub fn thresholds(job: &Job) -> Result<Account, Error> {
    let from = [(Step::Divergence, "measured.parquet")];
    let mut rows = job.read::<Measurement>(&from, 0..=u64::MAX)?;
    let mut languages: BTreeMap<String, Measured> = BTreeMap::new();
    while let Some(row) = rows.next_row()? {
        languages.entry(row.language).or_default().add(row.class, row.cell, row.documents);
    }
    let bounds = &job.settings.divergence;
    let thresholds: BTreeMap<String, Thresholds> =
        languages.into_iter().map(|(language, measured)| (language, measured.thresholds(bounds))).collect();
    job.work.write_json(THRESHOLDS, &thresholds)?;
    Ok(Account::default())
}

/// Judges the documents of a split by these bounds and says which domain they belong to.
pub fn judge(job: &Job, k: usize) -> Result<Account, Error> {
    let languages = corpus::load(job)?;
    let thresholds: BTreeMap<String, Thresholds> = job.work.read_json(THRESHOLDS)?;
    let benchmarks = job.tools()?.benchmarks.as_ref().map(|filter| &filter.benchmarks);
    let mut grams = BTreeSet::new();
    let mut account = Account::default();
    Part::new(&job.work, Step::Documents, k).make(|sink| {
        Part::new(&job.work, Step::Clean, k).batches(|_, batch| {
            job.ctx.stop.check()?;
            let judged = batch.into_par_iter().map(|document| {
                let bytes = document.text.len();
                let measured = diverges(&document, &languages);
                let bound = thresholds.get(&document.language).map_or(f32::INFINITY, |t| t.of(measured.1));
                let result = within(document, measured.0, bound, job.settings);
                let met = benchmarks.zip(result.as_ref().ok()).map(|(b, document)| b.find(&document.text));
                (bytes, result, met.unwrap_or_default())
            });
            for (bytes, result, met) in judged.collect::<Vec<_>>() {
                grams.extend(met);
                match &result {
                    Ok(document) => {
                        account.funnel.pass("divergence", bytes, bytes);
                        account.funnel.pass("domain", bytes, bytes);
                        let domain = document.domain.name().to_string();
                        account.domains.entry(domain).or_default().add(bytes);
                        account.languages.entry(document.language.clone()).or_default().add(bytes);
                    }
                    Err(reject) => account.funnel.drop("divergence", bytes, &reject.reason.rule),
                }
                sink.push(result)?;
            }
            Ok(())
        })
    })?;
    account.benchmark_grams = grams.into_iter().collect();
    Ok(account)
}

fn within(mut document: Document, value: f32, bound: f32, settings: &Settings) -> Result<Document, Reject> {
    document.values.insert("divergence".into(), value);
    if value > bound {
        let reason = Reason::new("outlier tokens", value, bound, &document.text).with_text(&document.text);
        return Err(Reject { url: document.url, reason, cluster: None });
    }
    document.domain = domain(&document.text, &document.language);
    document.domain = domain_by_score(&document, &settings.classifiers);
    Ok(document)
}
