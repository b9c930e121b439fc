//! First map: an archive's responses become pages of text.

use super::parts::Part;
use super::{STEPS, Tools};
use crate::archive::{Archive, Damage, Response};
use crate::documents::{Document, Domain};
use crate::error::Error;
use crate::extract::extract;
use crate::filters::{Filter, LanguageFilter, Reason, judge};
use crate::funnel::Funnel;
use crate::rejects::Reject;
use crate::{address, response};
use herd_run::Context;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Bytes of responses that are held at a time, per archive being read.
const BATCH_BYTES: usize = 8 << 20;

/// Makes a part of pages from each archive.
pub fn map(archives: &[PathBuf], work: &Path, tools: &Tools, ctx: &Context) -> Result<Vec<Part>, Error> {
    let progress = ctx.progress.task("extract", None, "pages");
    let parts: Vec<Part> = (0..archives.len()).map(|n| Part::new(work, "pages", n)).collect();
    archives.par_iter().zip(&parts).filter(|(_, part)| !part.is_complete()).try_for_each(
        |(archive, part)| {
            part.make(|sink| {
                let mut reader = Archive::open(archive, tools.settings.max_page_bytes as u64 + (64 << 10))?;
                loop {
                    ctx.stop.check()?;
                    let (batch, damage) = next_batch(&mut reader);
                    sink.account.damage.extend(damage);
                    if batch.is_empty() {
                        return Ok(());
                    }
                    let source = reader.name();
                    let done: Vec<_> = batch
                        .par_iter()
                        .map(|response| {
                            let mut funnel = Funnel::default();
                            (page(response, source, tools, &mut funnel), funnel)
                        })
                        .collect();
                    for (result, funnel) in done {
                        sink.account.responses += 1;
                        sink.account.funnel.merge(&funnel);
                        sink.push(result)?;
                    }
                    progress.add(batch.len() as u64);
                }
            })
        },
    )?;
    Ok(parts)
}

fn next_batch(reader: &mut Archive) -> (Vec<Response>, Vec<Damage>) {
    let (mut batch, mut damage, mut bytes) = (Vec::new(), Vec::new(), 0);
    for next in reader {
        match next {
            Ok(response) => {
                bytes += response.http.len();
                batch.push(response);
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
            Err(problem) => damage.push(problem),
        }
    }
    (batch, damage)
}

/// One response: its page, or why there is none.
fn page(response: &Response, source: &str, tools: &Tools, funnel: &mut Funnel) -> Result<Document, Reject> {
    let bytes = response.http.len();
    let mut reject = |step: &str, rule: &str, value: f32, threshold: f32, excerpt: &str| {
        for passed in STEPS.iter().take_while(|s| **s != step) {
            funnel.pass(passed, bytes, bytes);
        }
        funnel.drop(step, bytes, rule);
        Reject { url: response.url.clone(), reason: Reason::new(rule, value, threshold, excerpt) }
    };
    let Some(http) = response::parse(&response.http) else {
        return Err(reject(
            "fetch",
            "no HTTP",
            0.0,
            0.0,
            &String::from_utf8_lossy(&response.http[..bytes.min(80)]),
        ));
    };
    let Some(normal) = address::normalize(&response.url) else {
        return Err(reject("fetch", "no web address", 0.0, 0.0, &response.url));
    };
    if http.status != 200 {
        return Err(reject(
            "fetch",
            "status",
            http.status as f32,
            200.0,
            &format!("HTTP status {}", http.status),
        ));
    }
    let media = http.media_type();
    if !matches!(media.as_str(), "" | "text/html" | "application/xhtml+xml") {
        return Err(reject("fetch", "not HTML", 0.0, 0.0, &media));
    }
    let body = match http.decoded_body(tools.settings.max_page_bytes) {
        Ok(body) => body,
        Err(problem) => return Err(reject("decode", "undecodable", 0.0, 0.0, &problem)),
    };
    if response::is_binary(&body) {
        return Err(reject(
            "decode",
            "binary",
            0.0,
            0.0,
            &String::from_utf8_lossy(&body[..body.len().min(32)]),
        ));
    }
    let (html, _) = response::decode(&body, &http);
    let page = extract(&html, &response.url);
    if page.text.is_empty() {
        return Err(reject("extract", "no main text", 0.0, 1.0, &page.metadata.title));
    }
    funnel.pass("fetch", bytes, bytes);
    funnel.pass("decode", bytes, bytes);
    funnel.pass("extract", bytes, page.text.len());
    let document = Document {
        id: blake3::hash(normal.as_bytes()).to_hex()[..32].to_string(),
        url: response.url.clone(),
        date: response.date.clone(),
        title: page.metadata.title,
        language: String::new(),
        language_score: 0.0,
        domain: Domain::General,
        license: page.metadata.license,
        author: page.metadata.author,
        canonical: page.metadata.canonical,
        page_type: page.page_type,
        source: source.to_string(),
        text: page.text,
        values: Default::default(),
    };
    let language = LanguageFilter {
        languages: tools.settings.languages.clone(),
        min_score: tools.settings.min_language_score,
        min_scores: tools.settings.min_language_scores.clone(),
    };
    let filters: [&dyn Filter; 2] = [&tools.block_list, &language];
    judge(&filters, document, funnel)
}
