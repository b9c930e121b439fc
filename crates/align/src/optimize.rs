//! The training loop that the reward model, SFT and DPO share: AdamW over an objective, resumable at any step with
//! the same bits, with the averages of SPEC POST-7.

use crate::Error;
use crate::settings::Optimization;
use herd_model::{Llama, weights};
use herd_run::Context;
use herd_run::atomic::{self, FileError};
use herd_tensor::{Grads, Params};
use herd_train::{AdamW, AdamWSettings, Schedule, average, checkpoint, metrics};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Named numbers of a step, as the metrics file holds them.
pub(crate) type Values = Vec<(&'static str, f64)>;

/// Adds the values of a part of a batch to those of the parts before it.
pub(crate) fn add(sum: &mut Values, part: Values) {
    if sum.is_empty() {
        *sum = part;
    } else {
        sum.iter_mut().zip(part).for_each(|((_, sum), (_, value))| *sum += value);
    }
}

/// Measurements on the held-out data in one run, the first before any step and the last after all.
const MEASUREMENTS: u64 = 5;

/// What is minimised. A step must depend on its number and the parameters alone, so that a resumed run repeats it.
pub(crate) trait Objective {
    /// Steps of a run.
    fn steps(&self) -> u64;
    /// Adds the gradient of step `step` (from 0) to `grads`; its loss comes first among the values.
    fn step(&self, step: u64, params: &Params, grads: &mut Grads) -> Values;
    /// What is measured now and then on data that is not trained on.
    fn held_out(&self, params: &Params) -> Values;
}

/// Where a sub-stage works and how it is called in metrics and progress.
pub(crate) struct Place<'a> {
    pub name: &'static str,
    pub folder: &'a Path,
    pub ctx: &'a Context,
}

/// Trains once for each learning rate; returns the folders of the runs' models, to be averaged. A run that is finished
/// is not done again.
pub(crate) fn train(
    place: &Place,
    llama: &Llama,
    start: &Params,
    settings: &Optimization,
    objective: &dyn Objective,
) -> Result<Vec<PathBuf>, Error> {
    let mut models = Vec::new();
    for (run, &peak) in settings.learning_rates.iter().enumerate() {
        // The first run keeps its metrics where the report looks for them.
        let folder =
            if run == 0 { place.folder.to_path_buf() } else { place.folder.join(format!("run-{}", run + 1)) };
        let model = folder.join("run-model");
        if !model.exists() {
            let params = single(place, &folder, llama, start, settings, peak, objective)?;
            save(&model, llama, &params)?;
            // Only now: until the model is on disk, the checkpoints are what a killed run continues from.
            for spent in ["checkpoints", "snapshots"] {
                clear(&folder.join(spent))?;
            }
        }
        models.push(model);
    }
    Ok(models)
}

/// Removes the runs' own models once their average is in use.
pub(crate) fn clear_runs(folder: &Path) -> Result<(), FileError> {
    clear(&folder.join("run-model"))?;
    for run in (2..).map(|run| folder.join(format!("run-{run}"))).take_while(|run| run.exists()) {
        clear(&run.join("run-model"))?;
    }
    Ok(())
}

/// Saves a model folder, complete or not at all.
fn save(folder: &Path, llama: &Llama, params: &Params) -> Result<(), Error> {
    atomic::create_folder(folder, |scratch| Ok(weights::save(scratch, llama, params)?))
}

fn clear(folder: &Path) -> Result<(), FileError> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(FileError::at("remove", folder))
    } else {
        Ok(())
    }
}

/// One run: from `start` with peak learning rate `peak`; the result is the average of its last snapshots.
fn single(
    place: &Place,
    folder: &Path,
    llama: &Llama,
    start: &Params,
    settings: &Optimization,
    peak: f64,
    objective: &dyn Objective,
) -> Result<Params, Error> {
    let steps = objective.steps();
    let warmup = (settings.warmup * steps as f64).ceil() as u64;
    let schedule = Schedule::warmup_cosine(peak, 0.0, warmup, steps);
    let adamw = AdamWSettings { weight_decay: settings.weight_decay, ..AdamWSettings::default() };
    let mut params = start.clone();
    let mut optimizer = AdamW::new(&params, adamw);
    let checkpoints = folder.join("checkpoints");
    let warn = |warning| place.ctx.progress.line(format!("warning: {warning}"));
    let state = checkpoint::latest(&checkpoints, &mut params, &mut optimizer, warn)?;
    let mut step = state.as_ref().map_or(0, |state| state.step);
    if state.is_none() {
        // A damaged checkpoint may have left its numbers behind.
        params = start.clone();
        optimizer = AdamW::new(&params, adamw);
    }
    let mut writer = metrics::Writer::open(folder, step)?;
    if state.is_none() {
        record(&mut writer, place.name, 0, &objective.held_out(&params))?;
    }

    let measured: BTreeSet<u64> = (1..MEASUREMENTS).map(|i| steps * i / (MEASUREMENTS - 1)).collect();
    let snapshots = snapshot_steps(steps, settings.average_last);
    let mut grads = Grads::new(&params);
    let task = place.ctx.progress.task(place.name, Some(steps), "steps");
    task.resume_from(step);
    while step < steps {
        place.ctx.stop.check()?;
        let mut values = objective.step(step, &params, &mut grads);
        let rate = schedule.lr(step);
        step += 1;
        let loss = values.first().map_or(0.0, |v| v.1);
        let diverged = |problem: String| Error::Diverged { stage: place.name, step, problem };
        if !loss.is_finite() {
            return Err(diverged(format!("the loss is {loss}")));
        }
        let stats = optimizer.step(&mut params, &mut grads, rate).map_err(|e| diverged(e.to_string()))?;
        values.extend([("grad_norm", stats.grad_norm), ("learning_rate", rate)]);
        if measured.contains(&step) {
            values.extend(objective.held_out(&params));
        }
        record(&mut writer, place.name, step, &values)?;
        if snapshots.contains(&step) {
            save(&snapshot(folder, step), llama, &params)?;
        }
        if step.is_multiple_of(settings.checkpoint_every) || step == steps {
            writer.sync()?;
            checkpoint::save(&checkpoints, 2, step, &params, &optimizer, json!({}))?;
        }
        task.message(format!("loss {loss:.3}"));
        task.add(1);
    }
    if snapshots.is_empty() {
        return Ok(params);
    }
    let folders: Vec<PathBuf> = snapshots.iter().map(|&step| snapshot(folder, step)).collect();
    let (_, params) = average(&folders)?;
    Ok(params)
}

fn snapshot(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("snapshots/step-{step:010}"))
}

/// Steps after which a snapshot for the average is taken: `count` of them spread over the last third, the last step
/// among them; none if there is nothing to average.
fn snapshot_steps(steps: u64, count: usize) -> BTreeSet<u64> {
    if count < 2 {
        return BTreeSet::new();
    }
    let apart = (steps / 3 / count as u64).max(1);
    (0..count as u64).filter_map(|i| steps.checked_sub(i * apart)).filter(|&step| step > 0).collect()
}

/// Writes a step's values under the sub-stage's name: `sft/loss`.
fn record(writer: &mut metrics::Writer, stage: &str, step: u64, values: &Values) -> Result<(), FileError> {
    let names: Vec<String> = values.iter().map(|(name, _)| format!("{stage}/{name}")).collect();
    let values: Vec<(&str, f64)> =
        names.iter().zip(values).map(|(name, (_, value))| (name.as_str(), *value)).collect();
    writer.write(step, &values)
}

#[cfg(test)]
mod tests {
    use super::snapshot_steps;

    #[test]
    fn snapshots_lie_in_the_last_third_and_include_the_end() {
        assert_eq!(snapshot_steps(90, 3).into_iter().collect::<Vec<_>>(), [70, 80, 90]);
        assert!(snapshot_steps(90, 1).is_empty());
        assert_eq!(snapshot_steps(2, 5).into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
