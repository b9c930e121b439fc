//! Step `clean`: repeated lines go, then the filters that look at a single document.

use super::clusters::Fates;
use super::lines::{Buckets, frequent};
use super::parts::{Account, Part, number};
use super::{Job, Step, Tools, corpus};
use crate::documents::Document;
use crate::error::Error;
use crate::filters::{Distribution, Filter, MinLength, PersonalDataFilter, Reason, Repetition, judge};
use crate::funnel::Funnel;
use crate::lines;
use crate::rejects::Reject;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Cleans the pages of a split that stay.
pub fn map(job: &Job, k: usize) -> Result<Account, Error> {
    let (fates, tools) = (Fates::of_split(job, k)?, job.tools()?);
    let (buckets, frequent) = (Buckets::load(job)?, frequent(job, k)?);
    let mut account = Account::default();
    let mut languages: BTreeMap<String, Distribution> = BTreeMap::new();
    Part::new(&job.work, Step::Clean, k).make(|sink| {
        job.pages(k).batches(|row, batch| {
            job.ctx.stop.check()?;
            let done =
                (number(k, row)..).zip(batch).collect::<Vec<_>>().into_par_iter().map(|(n, document)| {
                    let mut funnel = Funnel::default();
                    let result = staying(n, document, &fates, &mut funnel).and_then(|document| {
                        let bucket = buckets.of(&document);
                        clean(document, bucket, &frequent, job, tools, &mut funnel)
                    });
                    (result, funnel)
                });
            for (result, funnel) in done.collect::<Vec<_>>() {
                account.funnel.merge(&funnel);
                if let Ok(document) = &result {
                    languages.entry(document.language.clone()).or_default().add(&document.text);
                }
                sink.push(result)?;
            }
            Ok(())
        })
    })?;
    corpus::write(job, k, &languages)?;
    Ok(account)
}

/// The document, if no other stands for it, with its cluster.
fn staying(
    number: u64,
    mut document: Document,
    fates: &Fates,
    funnel: &mut Funnel,
) -> Result<Document, Reject> {
    let bytes = document.text.len();
    let dropped = if let Some(reason) = fates.older(number) {
        Some(("url", reason, None))
    } else {
        funnel.pass("url", bytes, bytes);
        fates.near_duplicate(number).map(|(reason, cluster)| ("near duplicates", reason, Some(cluster)))
    };
    if let Some((step, reason, cluster)) = dropped {
        funnel.drop(step, bytes, &reason.rule);
        let reason = reason.with_text(&document.text);
        return Err(Reject { url: document.url, reason, cluster: cluster.map(Box::from) });
    }
    funnel.pass("near duplicates", bytes, bytes);
    let cluster = fates.cluster(number);
    document.cluster = cluster.map(|(id, _)| id.to_string());
    document.values.insert("cluster_size".into(), cluster.map_or(1.0, |(_, size)| size as f32));
    Ok(document)
}

fn clean(
    mut document: Document,
    bucket: u64,
    frequent: &[u64],
    job: &Job,
    tools: &Tools,
    funnel: &mut Funnel,
) -> Result<Document, Reject> {
    let bytes = document.text.len();
    if let Some(text) = lines::without(&document.text, &document.language, bucket, frequent) {
        let before = std::mem::replace(&mut document.text, text);
        if document.text.is_empty() {
            funnel.drop("lines", bytes, "only repeated lines");
            let reason = Reason::new("only repeated lines", 1.0, 0.0, &before);
            return Err(Reject { url: document.url, reason, cluster: None });
        }
    }
    funnel.pass("lines", bytes, document.text.len());
    let settings = job.settings;
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
