//! Running stages: a stage that finished with the same settings and inputs is not run again; one that was killed
//! continues; one whose inputs or settings changed starts afresh.

use anyhow::Context as _;
use herd_run::{Context, Manifest, hash};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a stage does when it runs.
type Work<'a> = Box<dyn FnOnce(&Context) -> anyhow::Result<()> + 'a>;

/// One stage of a run, ready to be run.
pub struct Stage<'a> {
    /// Its name, which is also its subcommand.
    pub name: &'static str,
    /// What it does, for people.
    pub title: &'static str,
    /// Everything that decides its outcome besides the inputs.
    pub settings: Value,
    /// What it reads, by name.
    pub inputs: Vec<(&'static str, PathBuf)>,
    /// What it writes. Cleared when settings or inputs change; must all exist for the stage to count as done.
    pub outputs: Vec<PathBuf>,
    /// The work.
    pub work: Work<'a>,
}

/// What became of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done already.
    Kept,
    /// It ran to its end.
    Ran,
}

/// Runs `stage` unless it is done, and records it in the manifest of the run folder.
pub fn run(stage: Stage, manifest: &mut Manifest, ctx: &Context) -> anyhow::Result<Outcome> {
    let inputs = inputs(&stage)?;
    let key = Manifest::key(&stage.settings, &inputs);
    if manifest.is_done(stage.name, &key) && stage.outputs.iter().all(|p| p.exists()) {
        ctx.progress.line(format!("  {:<10} done before", stage.name));
        return Ok(Outcome::Kept);
    }
    ctx.stop.check()?;
    ctx.progress.line(format!("  {:<10} {}", stage.name, stage.title));
    let continues = manifest.start(stage.name, inputs, stage.settings)?;
    if !continues {
        stage.outputs.iter().try_for_each(|path| clear(path))?;
    }
    let began = Instant::now();
    let outcome = (stage.work)(ctx);
    let seconds = began.elapsed().as_secs_f64();
    if outcome.is_err() {
        // What stopped the stage is told, even where its time cannot be written down (a full disk).
        let _ = manifest.pause(stage.name, seconds);
    }
    outcome.with_context(|| format!("stage `{}`", stage.name))?;
    manifest.finish(stage.name, seconds)?;
    ctx.progress.line(format!("  {:<10} finished in {}", stage.name, duration(seconds)));
    Ok(Outcome::Ran)
}

/// The hashes of everything that a stage reads.
fn inputs(stage: &Stage) -> anyhow::Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::new();
    for (i, (name, path)) in stage.inputs.iter().enumerate() {
        let found = path.exists();
        anyhow::ensure!(
            found,
            "stage `{}` needs {}: run the stage that makes it first, or `herd run`",
            stage.name,
            path.display()
        );
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.insert(format!("{i}: {name} {file}"), hash::of_path(path)?);
    }
    // Another version of the program may do the same work differently.
    inputs.insert("herd".to_string(), env!("CARGO_PKG_VERSION").to_string());
    Ok(inputs)
}

/// Records a stage that was done by other means.
pub fn record(stage: Stage, manifest: &mut Manifest) -> anyhow::Result<()> {
    manifest.start(stage.name, inputs(&stage)?, stage.settings)?;
    Ok(manifest.finish(stage.name, 0.0)?)
}

fn clear(path: &Path) -> anyhow::Result<()> {
    let cleared = match path {
        p if p.is_dir() => std::fs::remove_dir_all(p),
        p if p.exists() => std::fs::remove_file(p),
        _ => Ok(()),
    };
    cleared.with_context(|| format!("cannot clear {}", path.display()))
}

/// `73.2` as `1 min 13 s`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 60.0 => format!("{s:.0} s"),
        s => format!("{} min {:02} s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
