//! Last reduction and output: divergence from the corpus, domains, and the four files of the stage.

use super::clean::Clean;
use super::duplicates::Fates;
use super::parts::Part;
use super::{STEPS, Summary, Tools};
use crate::documents::{self, Document};
use crate::domain::domain;
use crate::error::Error;
use crate::filters::{Distribution, Reason, Thresholds, divergence, domain_by_score, thresholds};
use crate::funnel::Funnel;
use crate::rejects::{self, Reject};
use crate::settings::Settings;
use herd_run::Context;
use herd_run::atomic;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// The corpus of one language.
#[derive(Default)]
struct Language {
    corpus: Distribution,
    documents: Vec<(f32, usize)>,
    thresholds: Option<Thresholds>,
}

/// Writes the result.
pub fn write(
    pages: &[Part],
    clean: &Clean,
    fates: &Fates,
    out: &Path,
    tools: &Tools,
    ctx: &Context,
) -> Result<Summary, Error> {
    let languages = measure(&clean.parts, tools, ctx)?;
    let mut summary = Summary {
        archives: pages.len() as u64,
        frequent_lines: clean.frequent_lines,
        clusters: fates.clusters,
        ..Summary::default()
    };
    let mut funnel = Funnel::default();
    for part in pages {
        let account = part.account()?;
        summary.responses += account.responses;
        summary.damage.extend(account.damage);
        funnel.merge(&account.funnel);
    }
    funnel.merge(&fates.funnel);
    for part in &clean.parts {
        funnel.merge(&part.account()?.funnel);
    }
    if summary.responses == 0 {
        let problem =
            summary.damage.first().map_or("they hold no response records with HTTP".to_string(), |d| {
                format!("{} at byte {}: {}", d.file, d.offset, d.problem)
            });
        return Err(Error::EmptyCrawl { files: pages.len(), problem });
    }
    let (documents_path, rejects_path) = (out.join("documents.parquet"), out.join("rejects.parquet"));
    atomic::create(&rejects_path, |file| {
        let mut rejects = rejects::Writer::new(file, &rejects_path)?;
        for part in pages.iter().chain(&clean.parts) {
            for reject in rejects::read(&part.rejects)? {
                rejects.push(reject?)?;
            }
        }
        atomic::create(&documents_path, |file| {
            let mut documents = documents::Writer::new(file, &documents_path)?;
            for part in &clean.parts {
                part.batches(|_, batch| {
                    ctx.stop.check()?;
                    let judged: Vec<_> =
                        batch.into_par_iter().map(|d| judge(d, &languages, tools.settings)).collect();
                    for result in judged {
                        match result {
                            Ok(document) => {
                                count(&document, &mut funnel, &mut summary);
                                documents.push(document)?;
                            }
                            Err((bytes, reject)) => {
                                funnel.drop("divergence", bytes, &reject.reason.rule);
                                rejects.push(reject)?;
                            }
                        }
                    }
                    Ok(())
                })?;
            }
            documents.finish()?;
            Ok::<_, Error>(())
        })?;
        rejects.finish()?;
        Ok::<_, Error>(())
    })?;
    funnel.arrange(&STEPS);
    summary.funnel = funnel;
    atomic::write_json(&out.join("funnel.json"), &summary.funnel)?;
    if summary.documents == 0 {
        return Err(Error::NothingLeft {
            funnel: summary.funnel,
            rejects: rejects_path.display().to_string(),
        });
    }
    atomic::write_json(&out.join("summary.json"), &summary)?;
    Ok(summary)
}

/// Token distributions of all languages, then each document's divergence from its own, then the thresholds.
fn measure(parts: &[Part], tools: &Tools, ctx: &Context) -> Result<BTreeMap<String, Language>, Error> {
    let mut languages: BTreeMap<String, Language> = BTreeMap::new();
    for part in parts {
        part.batches(|_, batch| {
            ctx.stop.check()?;
            for document in batch {
                languages.entry(document.language).or_default().corpus.add(&document.text);
            }
            Ok(())
        })?;
    }
    for part in parts {
        part.batches(|_, batch| {
            ctx.stop.check()?;
            let measured: Vec<_> =
                batch.par_iter().map(|d| divergence(&d.text, &languages[&d.language].corpus)).collect();
            for (document, measured) in batch.into_iter().zip(measured) {
                languages.entry(document.language).or_default().documents.push(measured);
            }
            Ok(())
        })?;
    }
    for language in languages.values_mut() {
        language.thresholds = Some(thresholds(&language.documents, &tools.settings.divergence));
        language.documents = Vec::new();
    }
    Ok(languages)
}

fn judge(
    mut document: Document,
    languages: &BTreeMap<String, Language>,
    settings: &Settings,
) -> Result<Document, (usize, Reject)> {
    let language = &languages[&document.language];
    let (value, words) = divergence(&document.text, &language.corpus);
    document.values.insert("divergence".into(), value);
    let threshold = language.thresholds.as_ref().map_or(f32::INFINITY, |t| t.of(words));
    if value > threshold {
        let reason =
            Reason::new("outlier tokens", value, threshold, &document.text).with_text(&document.text);
        return Err((document.text.len(), Reject { url: document.url, reason }));
    }
    document.domain = domain(&document.text, &document.language);
    document.domain = domain_by_score(&document, &settings.classifiers);
    Ok(document)
}

fn count(document: &Document, funnel: &mut Funnel, summary: &mut Summary) {
    let bytes = document.text.len();
    funnel.pass("divergence", bytes, bytes);
    funnel.pass("domain", bytes, bytes);
    summary.documents += 1;
    summary.bytes += bytes as u64;
    let domain = summary.domains.entry(document.domain.name().to_string()).or_default();
    (domain.documents, domain.bytes) = (domain.documents + 1, domain.bytes + bytes as u64);
    let language = summary.languages.entry(document.language.clone()).or_default();
    (language.documents, language.bytes) = (language.documents + 1, language.bytes + bytes as u64);
}
