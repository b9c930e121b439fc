//! Which tasks a stage has, and which of them are to be done now.

use super::parts::Account;
use crate::error::Error;
use crate::input::{self, Split};
use crate::settings::Settings;
use crate::storage::Folder;
use herd_run::hash;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Where the plan lies in the folder of work.
pub(super) const FILE: &str = "plan.json";
/// Most parts of keys that are chosen if the recipe names no number.
const MOST_PARTITIONS: usize = 1024;

/// How the input is cut; written once, so that all tasks mean the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Hash of settings and input.
    key: String,
    /// What the tasks of a map read.
    pub splits: Vec<Split>,
    /// Tasks of a reduction.
    pub partitions: usize,
}

impl Plan {
    /// Reads the plan of a folder, or makes it.
    pub(super) fn open(settings: &Settings, work: &Folder, afresh: bool) -> Result<Self, Error> {
        let files = input::find(&settings.input)?;
        let mut key = serde_json::to_string(settings).unwrap_or_default();
        files.iter().for_each(|(file, bytes)| key.push_str(&format!("\n{file} {bytes}")));
        let key = hash::of_bytes(key.as_bytes());
        if work.exists(FILE)? {
            let plan: Self = work.read_json(FILE)?;
            if plan.key == key {
                return Ok(plan);
            }
            if !afresh {
                return Err(Error::OtherPlan { path: work.path(FILE) });
            }
        }
        if afresh {
            work.remove()?;
        }
        let splits = input::splits(&files, settings.tasks.split_bytes);
        let partitions = match settings.tasks.partitions {
            0 => splits.len().div_ceil(4).clamp(1, MOST_PARTITIONS),
            n => n,
        };
        let plan = Self { key, splits, partitions };
        work.write_json(FILE, &plan)?;
        Ok(plan)
    }
}

/// A step of the stage; the two of connected components have a round, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the documentation of the stage says what each does
pub enum Step {
    Pages,
    Captures,
    Signatures,
    Candidates,
    Texts,
    Similar,
    LargeStar(u32),
    SmallStar(u32),
    Clusters,
    Members,
    Representatives,
    Lines,
    Frequent,
    Clean,
    Corpus,
    Divergence,
    Thresholds,
    Documents,
    Publish,
}

/// Names of the steps, and what they do, for people.
const NAMES: [(Step, &str, &str); 17] = [
    (Step::Pages, "pages", "extract pages"),
    (Step::Captures, "captures", "newest captures"),
    (Step::Signatures, "signatures", "MinHash signatures"),
    (Step::Candidates, "candidates", "pairs of documents"),
    (Step::Texts, "texts", "texts of pairs"),
    (Step::Similar, "similar", "similarity of pairs"),
    (Step::Clusters, "clusters", "clusters"),
    (Step::Members, "members", "members of clusters"),
    (Step::Representatives, "representatives", "best of each cluster"),
    (Step::Lines, "lines", "count lines"),
    (Step::Frequent, "frequent", "frequent lines"),
    (Step::Clean, "clean", "clean"),
    (Step::Corpus, "corpus", "tokens of languages"),
    (Step::Divergence, "divergence", "divergence"),
    (Step::Thresholds, "thresholds", "thresholds"),
    (Step::Documents, "documents", "documents"),
    (Step::Publish, "publish", "write the result"),
];
/// Steps before the rounds of stars.
const BEFORE_STARS: usize = 6;

impl Step {
    /// All steps in order, with the first round of stars.
    pub fn all() -> impl Iterator<Item = Self> {
        let (before, after) = NAMES.split_at(BEFORE_STARS);
        let stars = [Self::LargeStar(1), Self::SmallStar(1)];
        before.iter().map(|n| n.0).chain(stars).chain(after.iter().map(|n| n.0))
    }

    /// What it does, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::LargeStar(_) | Self::SmallStar(_) => "connected components",
            _ => NAMES.iter().find(|(step, ..)| *step == self).map_or("", |(_, _, title)| title),
        }
    }

    /// Its tasks.
    pub fn tasks(self, plan: &Plan) -> usize {
        match self {
            Self::Thresholds | Self::Publish => 1,
            Self::Pages
            | Self::Signatures
            | Self::Texts
            | Self::Similar
            | Self::Members
            | Self::Lines
            | Self::Clean
            | Self::Divergence
            | Self::Documents => plan.splits.len(),
            _ => plan.partitions,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LargeStar(round) => write!(f, "large-star-{round}"),
            Self::SmallStar(round) => write!(f, "small-star-{round}"),
            _ => f.write_str(NAMES.iter().find(|(step, ..)| step == self).map_or("", |(_, name, _)| name)),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let round = |prefix: &str| name.strip_prefix(prefix)?.parse().ok().filter(|n| *n > 0);
        if let Some(round) = round("large-star-") {
            return Ok(Self::LargeStar(round));
        }
        if let Some(round) = round("small-star-") {
            return Ok(Self::SmallStar(round));
        }
        NAMES.iter().find(|(_, known, _)| *known == name).map(|(step, ..)| *step).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|(_, name, _)| *name).collect();
            format!("there are {}, large-star-1, small-star-1, large-star-2, ...", known.join(", "))
        })
    }
}

/// A step with tasks that are not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The step.
    pub step: Step,
    /// All of its tasks.
    pub tasks: usize,
    /// Those that are not done, from 0.
    pub missing: Vec<usize>,
}

/// The name of a file that a task writes.
pub(super) fn file_name(step: Step, k: usize, what: &str) -> String {
    format!("{step}-{k:05}.{what}")
}

/// The name of the file that says that a task is done.
pub(super) fn account_name(step: Step, k: usize) -> String {
    file_name(step, k, "json")
}

/// Where a step stands in the row of all.
pub(super) fn order(step: Step) -> (usize, u32) {
    match step {
        Step::LargeStar(round) => (BEFORE_STARS, 2 * round),
        Step::SmallStar(round) => (BEFORE_STARS, 2 * round + 1),
        _ => {
            let at = NAMES.iter().position(|(known, ..)| *known == step).unwrap_or(0);
            (at + usize::from(at >= BEFORE_STARS), 0)
        }
    }
}

/// The first step that has tasks to do.
pub(super) fn next(work: &Folder, plan: &Plan) -> Result<Option<Round>, Error> {
    let there: HashSet<String> = work.names()?.into_iter().collect();
    let is_done = |step: Step, k: usize| there.contains(&account_name(step, k));
    if is_done(Step::Publish, 0) {
        return Ok(None);
    }
    let round = |step: Step| {
        let tasks = step.tasks(plan);
        let missing: Vec<usize> = (0..tasks).filter(|k| !is_done(step, *k)).collect();
        (!missing.is_empty()).then_some(Round { step, tasks, missing })
    };
    let (before, after) = NAMES.split_at(BEFORE_STARS);
    if let Some(round) = before.iter().find_map(|(step, ..)| round(*step)) {
        return Ok(Some(round));
    }
    for n in 1.. {
        if let Some(round) = round(Step::LargeStar(n)) {
            return Ok(Some(round));
        }
        if is_converged(work, plan, n)? {
            break;
        }
        if let Some(round) = round(Step::SmallStar(n)) {
            return Ok(Some(round));
        }
    }
    Ok(after.iter().find_map(|(step, ..)| round(*step)))
}

/// Whether a round of stars has found the edges that the round before it found; or none at all.
fn is_converged(work: &Folder, plan: &Plan, round: u32) -> Result<bool, Error> {
    let edges = |round: u32| {
        let mut all = (0u64, 0u64);
        for k in 0..plan.partitions {
            let account: Account = work.read_json(&account_name(Step::LargeStar(round), k))?;
            all = (all.0 + account.rows, all.1.wrapping_add(account.fingerprint));
        }
        Ok::<_, Error>(all)
    };
    let now = edges(round)?;
    Ok(now.0 == 0 || (round > 1 && now == edges(round - 1)?))
}

/// The last round of stars that was begun.
pub(super) fn last_round(work: &Folder) -> Result<u32, Error> {
    let mut round = 1;
    while work.exists(&account_name(Step::LargeStar(round + 1), 0))? {
        round += 1;
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_in_order() {
        let mut steps: Vec<Step> = NAMES.iter().map(|(step, ..)| *step).collect();
        steps.splice(
            BEFORE_STARS..BEFORE_STARS,
            [Step::LargeStar(1), Step::SmallStar(1), Step::LargeStar(2), Step::SmallStar(2)],
        );
        for pair in steps.windows(2) {
            assert!(order(pair[0]) < order(pair[1]), "{pair:?}");
        }
        for step in steps {
            assert_eq!(step.to_string().parse::<Step>(), Ok(step));
        }
        assert!("large-star-0".parse::<Step>().unwrap_err().contains("representatives"));
    }
}
