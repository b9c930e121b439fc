//! Step `publish`: the files of all splits become the result, and the accounts one summary.

use super::parts::{Account, Part};
use super::{Job, STEPS, Step};
use crate::archive::Damage;
use crate::error::Error;
use crate::funnel::Funnel;
use crate::{contamination, documents, rejects};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Documents and bytes of a part of the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
}

impl Amount {
    /// Counts a document.
    pub(super) fn add(&mut self, bytes: usize) {
        *self = Self { documents: self.documents + 1, bytes: self.bytes + bytes as u64 };
    }

    fn merge(&mut self, other: Self) {
        *self = Self { documents: self.documents + other.documents, bytes: self.bytes + other.bytes };
    }
}

/// What the stage did: `summary.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Files read.
    pub archives: u64,
    /// Responses in them.
    pub responses: u64,
    /// Places that could not be read.
    pub damage: Vec<Damage>,
    /// Documents written.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// By domain of the mix.
    pub domains: BTreeMap<String, Amount>,
    /// By language.
    pub languages: BTreeMap<String, Amount>,
    /// Lines that were dropped everywhere.
    pub frequent_lines: u64,
    /// Clusters of near-duplicate documents.
    pub clusters: u64,
    /// Every step's account.
    pub funnel: Funnel,
}

/// The steps whose accounts make the summary.
const COUNTED: [Step; 5] = [Step::Pages, Step::Representatives, Step::Frequent, Step::Clean, Step::Documents];

/// Writes the result.
pub fn publish(job: &Job) -> Result<Account, Error> {
    let mut files: Vec<&str> = job.plan.splits.iter().map(|split| split.file.as_str()).collect();
    files.dedup();
    let mut summary = Summary { archives: files.len() as u64, ..Summary::default() };
    let mut grams = Vec::new();
    for step in COUNTED {
        for k in 0..step.tasks(&job.plan) {
            let account = job.account(step, k)?;
            grams.extend(&account.benchmark_grams);
            add(account, step, &mut summary);
        }
    }
    summary.funnel.arrange(&STEPS);
    let problem = |damage: &[Damage]| match damage.first() {
        Some(d) => format!("{} at byte {}: {}", d.file, d.offset, d.problem),
        None => "they hold no response records with HTTP".to_string(),
    };
    if summary.responses == 0 {
        return Err(Error::EmptyCrawl { files: files.len(), problem: problem(&summary.damage) });
    }
    if job.settings.tasks.one_file {
        for name in ["documents.parquet", "rejects.parquet"] {
            job.out.join(name).remove()?;
        }
        write_rejects(job)?;
        write_documents(job)?;
    } else {
        move_parts(job)?;
    }
    job.out.write_json("funnel.json", &summary.funnel)?;
    if summary.documents == 0 {
        let rejects = job.out.path("rejects.parquet").display().to_string();
        return Err(Error::NothingLeft { funnel: summary.funnel, rejects });
    }
    if let Some(filter) = &job.tools()?.benchmarks {
        contamination::write_report(&filter.benchmarks, &grams, &job.out, job.ctx)?;
    }
    job.out.write_json("summary.json", &summary)?;
    Ok(Account::default())
}

fn add(account: Account, step: Step, summary: &mut Summary) {
    summary.responses += account.responses;
    summary.damage.extend(account.damage);
    summary.frequent_lines += account.frequent_lines;
    summary.clusters += account.clusters;
    summary.funnel.merge(&account.funnel);
    if step != Step::Documents {
        return;
    }
    for amount in account.domains.values() {
        summary.documents += amount.documents;
        summary.bytes += amount.bytes;
    }
    for (all, some) in [(&mut summary.domains, account.domains), (&mut summary.languages, account.languages)]
    {
        some.into_iter().for_each(|(name, amount)| all.entry(name).or_default().merge(amount));
    }
}

fn write_rejects(job: &Job) -> Result<(), Error> {
    let path = job.out.path("rejects.parquet");
    job.out.create("rejects.parquet", |file| {
        let mut all = rejects::Writer::new(file, &path)?;
        for step in [Step::Pages, Step::Clean, Step::Documents] {
            for k in 0..step.tasks(&job.plan) {
                job.ctx.stop.check()?;
                for reject in Part::new(&job.work, step, k).rejects()? {
                    all.push(reject?)?;
                }
            }
        }
        all.finish()?;
        Ok(())
    })
}

fn write_documents(job: &Job) -> Result<(), Error> {
    let path = job.out.path("documents.parquet");
    job.out.create("documents.parquet", |file| {
        let mut all = documents::Writer::new(file, &path)?;
        for k in 0..job.plan.splits.len() {
            Part::new(&job.work, Step::Documents, k).batches(|_, batch| {
                job.ctx.stop.check()?;
                Ok(batch.into_iter().try_for_each(|document| all.push(document))?)
            })?;
        }
        all.finish()?;
        Ok(())
    })
}

/// Moves the files of all splits into folders named as the one file would be; an empty one has no columns of values and
/// stays. What earlier runs with other splits left there goes.
fn move_parts(job: &Job) -> Result<(), Error> {
    let folders = ["documents.parquet", "rejects.parquet"].map(|name| (name, job.out.join(name)));
    for (name, folder) in &folders {
        if folder.local().is_none_or(Path::is_file) {
            job.out.remove_file(name)?;
        }
    }
    let [(_, documents), (_, rejects)] = &folders;
    let mut made = HashSet::new();
    for step in [Step::Pages, Step::Clean, Step::Documents] {
        for k in 0..step.tasks(&job.plan) {
            job.ctx.stop.check()?;
            let part = Part::new(&job.work, step, k);
            if step == Step::Documents && !job.account(step, k)?.domains.is_empty() {
                let name = format!("part-{k:05}.parquet");
                part.move_documents(documents, &name)?;
                made.insert(name);
            }
            let name = format!("part-{k:05}-{step}.parquet");
            part.move_rejects(rejects, &name)?;
            made.insert(name);
        }
    }
    for (_, folder) in &folders {
        for name in folder.names()?.iter().filter(|name| !made.contains(*name)) {
            folder.remove_file(name)?;
        }
    }
    Ok(())
}
