//! `herd data plan`, `next` and `task`: the stage `data` task by task, for schedulers of clusters.

use super::pipeline::{record_data, resources, run_folder};
use crate::cli::RunArgs;
use crate::recipe::Recipe;
use anyhow::Context as _;
use clap::Args;
use herd_data::{Job, Resources, Step};
use herd_run::{Context, memory};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// Options of `herd data next`.
#[derive(Args)]
pub struct NextArgs {
    /// The recipe and where the run is.
    #[command(flatten)]
    pub run: RunArgs,
    /// One line of words for scripts, such as `pages 12 1-4,9`: step, its tasks, those to do; or `done`. Without it JSON.
    #[arg(long)]
    pub plain: bool,
}

/// Options of `herd data task`.
#[derive(Args)]
pub struct TaskArgs {
    /// The recipe and where the run is.
    #[command(flatten)]
    pub run: RunArgs,
    /// The step, such as pages; `herd data next` says which.
    pub step: String,
    /// Which task of how many, such as 3/12.
    #[arg(value_name = "K/N", value_parser = fraction)]
    pub task: (usize, usize),
}

/// `3/12`: task 2 from 0, of 12.
fn fraction(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    let parts = parts.filter(|(k, n): &(usize, usize)| (1..=*n).contains(k));
    parts.map(|(k, n)| (k - 1, n)).ok_or_else(|| "expected a task of how many, such as 3/12".into())
}

/// A process does one task, so the task has all of the memory.
fn alone(args: &RunArgs) -> Resources {
    Resources { tasks: 1, ..resources(args) }
}

fn open<'a>(args: &RunArgs, recipe: &'a Recipe, ctx: &'a Context) -> anyhow::Result<Job<'a>> {
    let folder = run_folder(args, recipe);
    Job::open(&recipe.data, folder.data(), &alone(args), false, ctx)
        .with_context(|| format!("recipe {}", args.recipe.display()))
}

/// Prints how the stage is cut.
pub fn plan(args: &RunArgs, ctx: &Context) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let job = open(args, &recipe, ctx)?;
    let plan = job.plan();
    let mut files: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for split in &plan.splits {
        let file = files.entry(&split.file).or_insert((split.bytes, 0));
        file.1 += 1;
    }
    let bytes: u64 = files.values().map(|(bytes, _)| bytes).sum();
    println!(
        "{} files, {bytes} bytes: {} splits; keys in {} parts",
        files.len(),
        plan.splits.len(),
        plan.partitions
    );
    for step in Step::all() {
        println!("  {:<16} {:>7} tasks  {}", step.to_string(), step.tasks(plan), step.title());
    }
    println!("large-star and small-star are repeated with 2, 3, ... until nothing changes");
    Ok(())
}

/// Prints what is to be done now.
pub fn next(args: &NextArgs, ctx: &Context) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.run.recipe)?;
    let job = open(&args.run, &recipe, ctx)?;
    match job.next()? {
        Some(round) if args.plain => println!("{} {} {}", round.step, round.tasks, ranges(&round.missing)),
        None if args.plain => println!("done"),
        Some(round) => {
            let missing: Vec<usize> = round.missing.iter().map(|k| k + 1).collect();
            let (step, title) = (round.step.to_string(), round.step.title());
            println!(
                "{}",
                json!({"done": false, "step": step, "title": title, "tasks": round.tasks, "missing": missing})
            );
        }
        None => println!("{}", json!({"done": true, "data": run_folder(&args.run, &recipe).data()})),
    }
    Ok(())
}

/// Tasks from 0 as ranges from 1, as job arrays take them: `1-4,9`.
fn ranges(tasks: &[usize]) -> String {
    let stretches = tasks.chunk_by(|a, b| a + 1 == *b);
    let text = stretches.map(|s| match s {
        [one] => format!("{}", one + 1),
        _ => format!("{}-{}", s[0] + 1, s[s.len() - 1] + 1),
    });
    text.collect::<Vec<_>>().join(",")
}

/// Does a task and prints what it took.
pub fn task(args: &TaskArgs, ctx: &Context) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.run.recipe)?;
    let step: Step =
        args.step.parse().map_err(|known| anyhow::anyhow!("no step `{}`: {known}", args.step))?;
    let job = open(&args.run, &recipe, ctx)?;
    let (k, n) = args.task;
    let tasks = step.tasks(job.plan());
    anyhow::ensure!(n == tasks, "step `{step}` has {tasks} tasks in this plan, not {n}");
    let began = Instant::now();
    let worked = job.task(step, k)?;
    if step == Step::Publish
        && !herd_data::storage::is_remote(&run_folder(&args.run, &recipe).root().to_string_lossy())
    {
        record_data(&args.run, &recipe)?;
    }
    let peak = memory::peak_resident().unwrap_or(0) / 1_000_000;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"step": step.to_string(), "task": k + 1, "tasks": n, "worked": worked, "seconds": seconds, "peak_rss_mb": peak})
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_named_from_one() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "1-3,6,8-9");
        assert_eq!(fraction("3/12"), Ok((2, 12)));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }
}
