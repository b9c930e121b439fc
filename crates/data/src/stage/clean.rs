//! Second map: repeated lines go, then the filters that look at a single document.

use super::Tools;
use super::duplicates::Fates;
use super::parts::Part;
use crate::documents::Document;
use crate::error::Error;
use crate::filters::{Filter, MinLength, PersonalDataFilter, Reason, Repetition, judge};
use crate::funnel::Funnel;
use crate::lines;
use crate::rejects::Reject;
use herd_run::Context;
use rayon::prelude::*;
use std::path::Path;

/// The parts after cleaning.
pub struct Clean {
    pub parts: Vec<Part>,
    /// Lines that went everywhere.
    pub frequent_lines: u64,
}

/// Cleans all pages that stay.
pub fn map(pages: &[Part], fates: &Fates, work: &Path, tools: &Tools, ctx: &Context) -> Result<Clean, Error> {
    let buckets = count_lines(pages, fates, tools, ctx)?;
    let parts: Vec<Part> = (0..pages.len()).map(|n| Part::new(work, "clean", n)).collect();
    let progress = ctx.progress.task("clean", None, "documents");
    for (n, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_complete()) {
        part.make(|sink| {
            let mut ordinal = buckets.first_of_part[n];
            pages[n].batches(|row, batch| {
                ctx.stop.check()?;
                progress.add(batch.len() as u64);
                let mut staying = Vec::with_capacity(batch.len());
                for (k, document) in batch.into_iter().enumerate() {
                    match fates.reason(n, row + k) {
                        Some(reason) => {
                            let reason = reason.clone().with_text(&document.text);
                            sink.push(Err(Reject { url: document.url, reason }))?
                        }
                        None => {
                            staying.push((document, (ordinal / buckets.size) as usize));
                            ordinal += 1;
                        }
                    }
                }
                let done: Vec<_> = staying
                    .into_par_iter()
                    .map(|(document, bucket)| {
                        let mut funnel = Funnel::default();
                        (clean(document, &buckets.frequent[bucket], tools, &mut funnel), funnel)
                    })
                    .collect();
                for (result, funnel) in done {
                    sink.account.funnel.merge(&funnel);
                    sink.push(result)?;
                }
                Ok(())
            })
        })?;
    }
    let frequent_lines = buckets.frequent.iter().map(|f| f.len() as u64).sum();
    Ok(Clean { parts, frequent_lines })
}

/// Frequent lines per bucket of documents.
struct Buckets {
    size: u64,
    frequent: Vec<Vec<u64>>,
    /// How many staying documents come before each part.
    first_of_part: Vec<u64>,
}

fn count_lines(pages: &[Part], fates: &Fates, tools: &Tools, ctx: &Context) -> Result<Buckets, Error> {
    let settings = &tools.settings.lines;
    let mut buckets =
        Buckets { size: settings.bucket_documents, frequent: Vec::new(), first_of_part: Vec::new() };
    let (mut counted, mut ordinal) = (Vec::new(), 0u64);
    let progress = ctx.progress.task("count lines", None, "documents");
    for (n, part) in pages.iter().enumerate() {
        buckets.first_of_part.push(ordinal);
        part.batches(|row, batch| {
            ctx.stop.check()?;
            progress.add(batch.len() as u64);
            let staying: Vec<_> =
                batch.into_iter().enumerate().filter(|(k, _)| fates.reason(n, row + k).is_none()).collect();
            let keys: Vec<Vec<u64>> =
                staying.into_par_iter().map(|(_, d)| lines::keys(&d.text, &d.language)).collect();
            for keys in keys {
                counted.extend(keys);
                ordinal += 1;
                if ordinal.is_multiple_of(buckets.size) {
                    buckets
                        .frequent
                        .push(lines::frequent(std::mem::take(&mut counted), settings.max_occurrences));
                }
            }
            Ok(())
        })?;
    }
    buckets.frequent.push(lines::frequent(counted, settings.max_occurrences));
    Ok(buckets)
}

fn clean(
    mut document: Document,
    frequent: &[u64],
    tools: &Tools,
    funnel: &mut Funnel,
) -> Result<Document, Reject> {
    let bytes = document.text.len();
    if let Some(text) = lines::without(&document.text, &document.language, frequent) {
        let before = std::mem::replace(&mut document.text, text);
        if document.text.is_empty() {
            funnel.drop("lines", bytes, "only repeated lines");
            return Err(Reject {
                url: document.url,
                reason: Reason::new("only repeated lines", 1.0, 0.0, &before),
            });
        }
    }
    funnel.pass("lines", bytes, document.text.len());
    let settings = tools.settings;
    let length = MinLength { min_chars: settings.min_chars };
    let repetition = Repetition {
        ngram: settings.repeated_ngram,
        max_share: settings.max_repeated_share,
        gopher: settings.gopher.clone(),
    };
    let personal = PersonalDataFilter {
        mask: settings.personal_data.mask,
        max_per_100_words: settings.personal_data.max_per_100_words,
        min_count: settings.personal_data.min_count,
    };
    let mut filters: Vec<&dyn Filter> = vec![&length, &repetition, &tools.dirty_words, &personal];
    filters.extend(tools.classifiers.iter().map(|filter| filter as &dyn Filter));
    filters.extend(tools.benchmarks.iter().map(|filter| filter as &dyn Filter));
    judge(&filters, document, funnel)
}
