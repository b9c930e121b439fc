//! Step `pages`: the responses of a split become pages of text; rows of documents that others extracted become documents.

use super::parts::{Account, number};
use super::{Job, STEPS, Step, Tools};
use crate::archive::{Archive, Damage, Response};
use crate::documents::{Document, DocumentsError, Domain};
use crate::error::Error;
use crate::exchange::record;
use crate::extract::{PageType, extract};
use crate::filters::{Filter, LanguageFilter, Reason, judge};
use crate::funnel::Funnel;
use crate::input::{Kind, Local};
use crate::rejects::Reject;
use crate::response::Body;
use crate::settings::Settings;
use crate::table::Row;
use crate::{address, response};
use rayon::prelude::*;
use serde_json::Value;

/// Bytes of responses that are held at a time.
const BATCH_BYTES: usize = 8 << 20;
/// Columns of documents of others that are read.
const COLUMNS: [&str; 7] = ["text", "url", "date", "title", "license", "author", "page_type"];

record! {
    /// A page, for the task that has all captures of its URL.
    Capture {
        /// First half of the hash of its URL.
        key: u64,
        second_half: u64,
        date: String,
        document: u64,
    }
}

/// Makes the pages of a split.
pub fn map(job: &Job, k: usize) -> Result<Account, Error> {
    let split = &job.plan.splits[k];
    let local = Local::of(split, &job.work)?;
    let mut account = Account::default();
    let mut captures = job.writer(0.25)?;
    let mut row = 0;
    job.pages(k).make(|sink| {
        let mut done = |result: Result<Document, Reject>, funnel: Funnel| {
            account.responses += 1;
            account.funnel.merge(&funnel);
            if let Ok(document) = &result {
                captures.push(capture(document, number(k, row)))?;
                row += 1;
            }
            sink.push(result)
        };
        if Kind::of(&split.file) != Kind::Archive {
            return rows(&local, job, k, &mut done);
        }
        let limit = job.settings.max_page_bytes as u64 + (64 << 10);
        let mut reader = local.archive(split, limit)?;
        loop {
            job.ctx.stop.check()?;
            let (batch, damage) = next_batch(&mut reader);
            account.damage.extend(damage);
            if batch.is_empty() {
                return Ok(());
            }
            let tools = job.tools()?;
            let judged = batch.par_iter().map(|response| {
                let (mut funnel, mut missing) = (Funnel::default(), None);
                let page = page(response, split.name(), job.settings, tools, &mut funnel, &mut missing);
                (page, funnel, missing)
            });
            for ((result, funnel, missing), response) in judged.collect::<Vec<_>>().into_iter().zip(&batch) {
                let Response { url, offset, .. } = response;
                account.damage.extend(missing.map(|missing| Damage {
                    file: split.name().to_string(),
                    offset: *offset,
                    problem: format!("the page {url}: {missing}"),
                }));
                done(result, funnel)?;
            }
        }
    })?;
    captures.finish(&super::plan::file_name(Step::Pages, k, "captures.parquet"))?;
    Ok(account)
}

fn capture(document: &Document, number: u64) -> Capture {
    let half = |at: usize| u64::from_str_radix(&document.id[at..at + 16], 16).unwrap_or(0);
    Capture { key: half(0), second_half: half(16), date: document.date.clone(), document: number }
}

/// Rows of documents that others extracted.
fn rows(
    local: &Local,
    job: &Job,
    k: usize,
    done: &mut impl FnMut(Result<Document, Reject>, Funnel) -> Result<(), Error>,
) -> Result<(), Error> {
    let split = &job.plan.splits[k];
    let mut rows = local.rows(split, &COLUMNS)?;
    let mut read = 0u64;
    loop {
        job.ctx.stop.check()?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(row) = rows.next().transpose()? else { break };
            read += 1;
            let text = row.get("text").and_then(Value::as_str);
            let Some(text) = text else {
                let there: Vec<&str> = row.keys().map(String::as_str).collect();
                let problem = format!("is missing or no text in row {read}; there are {}", there.join(", "));
                return Err(DocumentsError::column(split.file.as_ref(), "text", problem).into());
            };
            bytes += text.len();
            batch.push((row, format!("{}#{}-{read}", split.name(), split.from)));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let tools = job.tools()?;
        let judged = batch.into_par_iter().map(|(row, name)| {
            let mut funnel = Funnel::default();
            let document = of_row(row, &name, split.name());
            let bytes = document.text.len();
            ["fetch", "decode", "extract"].iter().for_each(|step| funnel.pass(step, bytes, bytes));
            (first_filters(document, job.settings, tools, &mut funnel), funnel)
        });
        for (result, funnel) in judged.collect::<Vec<_>>() {
            done(result, funnel)?;
        }
    }
}

/// A document of a row; one without an address of the web has its place in the file for one.
fn of_row(row: Row, name: &str, source: &str) -> Document {
    let text = |column: &str| row.get(column).and_then(Value::as_str).map(str::to_string);
    let url = text("url").unwrap_or_else(|| name.to_string());
    let normal = address::normalize(&url).unwrap_or_else(|| url.clone());
    Document {
        id: id(&normal),
        url,
        date: text("date").unwrap_or_default(),
        title: text("title").unwrap_or_default(),
        license: text("license"),
        author: text("author"),
        page_type: text("page_type").and_then(|name| PageType::from_name(&name)).unwrap_or_default(),
        source: source.to_string(),
        text: text("text").unwrap_or_default(),
        language: String::new(),
        language_score: 0.0,
        domain: Domain::General,
        canonical: None,
        cluster: None,
        values: Default::default(),
    }
}

fn id(normal: &str) -> String {
    blake3::hash(normal.as_bytes()).to_hex()[..32].to_string()
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

/// One response: its page, or why there is none. What is not there of a page, damaged or longer than allowed, is said in
/// `missing`.
fn page(
    response: &Response,
    source: &str,
    settings: &Settings,
    tools: &Tools,
    funnel: &mut Funnel,
    missing: &mut Option<String>,
) -> Result<Document, Reject> {
    let bytes = response.http.len();
    let mut reject = |step: &str, rule: &str, value: f32, threshold: f32, excerpt: &str| {
        for passed in STEPS.iter().take_while(|s| **s != step) {
            funnel.pass(passed, bytes, bytes);
        }
        funnel.drop(step, bytes, rule);
        Reject {
            url: response.url.clone(),
            reason: Reason::new(rule, value, threshold, excerpt),
            cluster: None,
        }
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
    let Body { bytes: body, missing: missing_in_body } = match http.decoded_body(settings.max_page_bytes) {
        Ok(body) => body,
        Err(problem) => {
            let rejected = reject("decode", "undecodable", 0.0, 0.0, &problem);
            *missing = Some(problem);
            return Err(rejected);
        }
    };
    let cut = response.announced > bytes as u64;
    *missing = missing_in_body.or_else(|| {
        cut.then(|| format!("only {bytes} of {} bytes were read (max_page_bytes)", response.announced))
    });
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
        id: id(&normal),
        url: response.url.clone(),
        date: response.date.clone(),
        title: page.metadata.title,
        language: String::new(),
        language_score: 0.0,
        domain: Domain::General,
        license: page.metadata.license,
        author: page.metadata.author,
        canonical: page.metadata.canonical,
        cluster: None,
        page_type: page.page_type,
        source: source.to_string(),
        text: page.text,
        values: Default::default(),
    };
    first_filters(document, settings, tools, funnel)
}

/// What is decided before documents are compared.
fn first_filters(
    document: Document,
    settings: &Settings,
    tools: &Tools,
    funnel: &mut Funnel,
) -> Result<Document, Reject> {
    let language = LanguageFilter {
        languages: settings.languages.clone(),
        min_score: settings.min_language_score,
        min_scores: settings.min_language_scores.clone(),
    };
    let filters: [&dyn Filter; 2] = [&tools.block_list, &language];
    judge(&filters, document, funnel)
}
