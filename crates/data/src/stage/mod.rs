//! The stage: a crawl in, clean documents out. It is a row of *steps*, each a set of tasks that do not know of each
//! other: a task reads files of earlier steps, and writes its own and, last, an account. So any task can be lost,
//! repeated, or done twice at once, by any scheduler; [`run`] does them all in this process.
//!
//! A step works on splits of the input (`map`), or on parts of the keys of an [exchange](crate::exchange) (`reduce`):
//!
//! ```text
//! pages            map     read, decode, extract, block lists, language          -> pages, captures
//! captures         reduce  the newest capture of each URL                        -> older captures
//! signatures       map     MinHash bands of each page that stays                 -> bands
//! candidates       reduce  pairs that share a band                               -> pairs, edges
//! texts            map     the text of one of each pair goes to the other        -> texts
//! similar          map     exact Jaccard similarity of each pair                 -> edges, likeness
//! large-star-R     reduce  \ connected components in a few rounds, by stars that
//! small-star-R     reduce  / lead to ever smaller documents                      -> edges
//! clusters         reduce  the cluster of each document that is in one           -> members
//! members          map     what decides which document of a cluster stays        -> standings
//! representatives  reduce  the best of each cluster                              -> fates
//! lines            map     lines of each split with their counts                 -> lines
//! frequent         reduce  lines that occur too often                            -> frequent lines
//! clean            map     lines go; length, repetition, words, classifiers      -> clean, tokens
//! corpus           reduce  tokens of each language                               -> tokens
//! divergence       map     each document's divergence from its language          -> divergences
//! thresholds       one     thresholds of each language and length
//! documents        map     divergence, domain                                    -> documents
//! publish          one     documents.parquet, rejects.parquet, funnel.json, summary.json
//! ```
//!
//! How many tasks a step has does not change the result.

mod captures;
mod clean;
mod clusters;
mod corpus;
mod divergence;
mod lines;
mod near;
mod pages;
mod parts;
mod plan;
mod publish;
mod stars;

pub use plan::{Plan, Round, Step};
pub use publish::{Amount, Summary};

use crate::archive::Damage;
use crate::error::Error;
use crate::exchange::{self, Limits, Record};
use crate::filters::{BlockList, Classifiers, DecontaminationFilter, DirtyWordShare};
use crate::settings::Settings;
use crate::storage::Folder;
use herd_run::{Context, Interrupted};
use parts::{Account, Part};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Steps in the order of the funnel.
const STEPS: [&str; 16] = [
    "fetch",
    "decode",
    "extract",
    "block lists",
    "language",
    "url",
    "near duplicates",
    "lines",
    "length",
    "repetition",
    "dirty words",
    "personal data",
    "classifiers",
    "decontamination",
    "divergence",
    "domain",
];

/// Least memory that a task is given, bytes: two files of documents being written, a batch of pages, buffers to sort.
const LEAST_MEMORY: u64 = 160 << 20;

/// Least memory for rows that are sorted, bytes: with less, files would have a few rows each.
const LEAST_SORTED: usize = 128 << 10;

/// What a stage may use of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// Bytes of memory, about; what does not fit is written to disk. The program itself takes some 60 MB more.
    pub memory: u64,
    /// Tasks at the same time, at most.
    pub tasks: usize,
}

impl Default for Resources {
    /// A quarter of this machine's memory, and all of its cores.
    fn default() -> Self {
        let memory = herd_run::memory::installed().map_or(2 << 30, |bytes| bytes / 4);
        Self { memory, tasks: rayon::current_num_threads() }
    }
}

impl Resources {
    /// Tasks at the same time, and the memory of each.
    fn share(&self) -> (usize, usize) {
        let tasks = ((self.memory / LEAST_MEMORY) as usize).clamp(1, self.tasks.max(1));
        (tasks, (self.memory / tasks as u64) as usize)
    }
}

/// What the tasks that look at documents share.
struct Tools {
    block_list: BlockList,
    dirty_words: DirtyWordShare,
    classifiers: Option<Classifiers>,
    benchmarks: Option<DecontaminationFilter>,
}

impl Tools {
    fn load(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            block_list: BlockList::load(&settings.blocked_domains)?,
            dirty_words: DirtyWordShare::new(&settings.dirty_words)?,
            classifiers: Classifiers::load(&settings.classifiers)?,
            benchmarks: DecontaminationFilter::load(&settings.decontamination)?,
        })
    }
}

/// A stage with its folder and plan, ready to do tasks of it.
pub struct Job<'a> {
    settings: &'a Settings,
    out: Folder,
    work: Folder,
    plan: Plan,
    /// Bytes for one task.
    memory: usize,
    tools: OnceLock<Tools>,
    ctx: &'a Context,
}

impl<'a> Job<'a> {
    /// The stage that writes to `out`, a folder or an address of an object store. Its plan is made if it has none.
    ///
    /// # Errors
    ///
    /// Settings that cannot work; input that is not there; a plan that was made with other settings or input, unless
    /// `afresh` allows to begin again.
    pub fn open(
        settings: &'a Settings,
        out: impl AsRef<Path>,
        resources: &Resources,
        afresh: bool,
        ctx: &'a Context,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let out = Folder::at(out)?;
        let work = out.join("work");
        let plan = Plan::open(settings, &work, afresh)?;
        Ok(Self { settings, out, work, plan, memory: resources.share().1, tools: OnceLock::new(), ctx })
    }

    /// How the input is cut, and into how many parts keys are.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The step to be done now, and its tasks that are not done; `None` if all is done.
    pub fn next(&self) -> Result<Option<Round>, Error> {
        plan::next(&self.work, &self.plan)
    }

    /// Does the task `k` (from 0) of a step, unless it is done. False if it was.
    ///
    /// # Errors
    ///
    /// A task that the step does not have, or one that needs a step which is not done; what the task itself meets.
    pub fn task(&self, step: Step, k: usize) -> Result<bool, Error> {
        let n = step.tasks(&self.plan);
        if k >= n {
            return Err(Error::Task {
                step: step.to_string(),
                problem: format!("has tasks 1 to {n}, not {}", k + 1),
            });
        }
        if self.work.exists(&plan::account_name(step, k))? || self.is_published()? {
            return Ok(false);
        }
        if let Some(round) = self.next()?
            && plan::order(step) > plan::order(round.step)
        {
            let problem = format!("comes after `{}`, which is not done", round.step);
            return Err(Error::Task { step: step.to_string(), problem });
        }
        self.do_task(step, k)?;
        Ok(true)
    }

    fn is_published(&self) -> Result<bool, Error> {
        Ok(self.work.exists(&plan::account_name(Step::Publish, 0))?)
    }

    fn do_task(&self, step: Step, k: usize) -> Result<(), Error> {
        self.ctx.stop.check()?;
        let began = Instant::now();
        let mut account = match step {
            Step::Pages => pages::map(self, k),
            Step::Captures => captures::reduce(self, k),
            Step::Signatures => near::signatures(self, k),
            Step::Candidates => near::candidates(self, k),
            Step::Texts => near::texts(self, k),
            Step::Similar => near::similar(self, k),
            Step::LargeStar(round) => stars::large(self, round, k),
            Step::SmallStar(round) => stars::small(self, round, k),
            Step::Clusters => clusters::find(self, k),
            Step::Members => clusters::members(self, k),
            Step::Representatives => clusters::representatives(self, k),
            Step::Lines => lines::map(self, k),
            Step::Frequent => lines::reduce(self, k),
            Step::Clean => clean::map(self, k),
            Step::Corpus => corpus::reduce(self, k),
            Step::Divergence => divergence::measure(self, k),
            Step::Thresholds => divergence::thresholds(self),
            Step::Documents => divergence::judge(self, k),
            Step::Publish => publish::publish(self),
        }?;
        account.seconds = began.elapsed().as_secs_f64();
        self.work.write_json(&plan::account_name(step, k), &account)?;
        if step == Step::Publish {
            self.clear_work()?;
        }
        Ok(())
    }

    /// Removes what tasks left for each other; the plan and the account of the end stay.
    fn clear_work(&self) -> Result<(), Error> {
        let stays = [plan::FILE.to_string(), plan::account_name(Step::Publish, 0)];
        for name in self.work.names()? {
            if !stays.contains(&name) {
                self.work.remove_file(&name)?;
            }
        }
        Ok(())
    }

    /// Does everything that is left, some tasks at a time.
    pub fn finish(&self, resources: &Resources) -> Result<Summary, Error> {
        let (at_once, _) = resources.share();
        while let Some(round) = self.next()? {
            let progress =
                self.ctx.progress.task(round.step.title(), Some(round.missing.len() as u64), "tasks");
            let next = AtomicUsize::new(0);
            let workers: Vec<usize> = (0..at_once.min(round.missing.len())).collect();
            let work = |_: &usize| -> Result<(), Error> {
                while let Some(k) = round.missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.do_task(round.step, *k)?;
                    progress.add(1);
                }
                Ok(())
            };
            use rayon::prelude::*;
            workers.par_iter().with_max_len(1).try_for_each(work)?;
        }
        Ok(self.out.read_json("summary.json")?)
    }

    fn tools(&self) -> Result<&Tools, Error> {
        if self.tools.get().is_none() {
            let tools = Tools::load(self.settings)?;
            return Ok(self.tools.get_or_init(|| tools));
        }
        self.tools.get().ok_or(Error::Interrupted(Interrupted))
    }

    /// The pages of a split.
    fn pages(&self, k: usize) -> Part<'_> {
        Part::new(&self.work, Step::Pages, k)
    }

    /// A file for rows that go to tasks of another step; `share` of the task's memory may be used to sort them.
    fn writer<R: Record>(&self, share: f32) -> Result<exchange::Writer<R>, Error> {
        let memory = ((self.memory as f32 * share) as usize).max(LEAST_SORTED);
        Ok(exchange::Writer::new(&self.work, Limits { memory, borders: self.plan.partitions })?)
    }

    /// Rows that the tasks of steps wrote for a range of keys.
    fn read<R: Record>(
        &self,
        from: &[(Step, &str)],
        range: RangeInclusive<u64>,
    ) -> Result<exchange::Groups<R>, Error> {
        let mut names = Vec::new();
        for (step, what) in from {
            names.extend((0..step.tasks(&self.plan)).map(|k| plan::file_name(*step, k, what)));
        }
        Ok(exchange::merge(&self.work, &names, range, self.memory / 3)?.groups())
    }

    /// The keys of hashes that task `k` of a reduction has.
    fn part(&self, k: usize) -> RangeInclusive<u64> {
        exchange::hash_range(k, self.plan.partitions)
    }

    fn account(&self, step: Step, k: usize) -> Result<Account, Error> {
        Ok(self.work.read_json(&plan::account_name(step, k))?)
    }
}

/// Damaged places that are told one by one; all are in the summary.
const DAMAGE_TOLD: usize = 20;

/// Curates a crawl: reads what `settings.input` names, writes `documents.parquet`, `rejects.parquet`, `funnel.json` and
/// `summary.json` into `out`. The result depends neither on the number of threads nor on the memory.
///
/// # Errors
///
/// [`Error::Setting`] for a glob that matches nothing, [`Error::EmptyCrawl`] for archives without responses,
/// [`Error::NothingLeft`] if every document is dropped; damaged places are no error but listed in the summary.
pub fn run(settings: &Settings, out: &Path, resources: &Resources, ctx: &Context) -> Result<Summary, Error> {
    let job = Job::open(settings, out, resources, true, ctx)?;
    let summary = job.finish(resources)?;
    for place in summary.damage.iter().take(DAMAGE_TOLD) {
        let Damage { file, offset, problem } = place;
        ctx.progress.line(format!("{file}: damaged at byte {offset}: {problem}; the rest was read"));
    }
    if let more @ 1.. = summary.damage.len().saturating_sub(DAMAGE_TOLD) {
        ctx.progress
            .line(format!("{more} more damaged places are in {}", job.out.path("summary.json").display()));
    }
    job.work.remove()?;
    Ok(summary)
}
