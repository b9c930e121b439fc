//! Steps of a workload on a card. A step is begun before the loss of the one before it is read, as in training, so the time
//! of a step is that between the ends of two; with `--interactive` each step is waited for.

use super::{Error, LEARNING_RATE, Options, Step, told};
use crate::packing::MicroBatch;
use crate::pretrain::MFU_CONVENTION;
use crate::trainer::{BegunStep, NotFinite, StepOutcome, Trainer};
use herd_model::Llama;
use herd_run::{Context, memory::peak_resident};
use herd_tensor::cuda::{self, Card, Later};
use herd_tensor::{Grads, Params, Tape};
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

/// What is measured.
enum Work {
    Training(Box<Trainer>),
    /// Forward and backward alone.
    Gradients {
        llama: Arc<Llama>,
        params: Params,
        grads: Grads,
        recompute: bool,
    },
}

/// One step of it that was begun.
enum Begun {
    Step(BegunStep),
    Loss(Later),
}

impl Work {
    fn new(options: &Options) -> Result<Self, cuda::Error> {
        let workload = options.workload;
        if !options.no_update {
            return Ok(Work::Training(Box::new(workload.trainer_on(options.place, options.moments)?)));
        }
        let llama = Arc::new(Llama::new(workload.config()));
        let mut params = llama.params();
        super::initialize(&mut params);
        options.place.take(&mut params)?;
        let grads = Grads::new(&params);
        Ok(Work::Gradients { llama, params, grads, recompute: workload.recompute })
    }

    fn card(&self) -> Option<Card> {
        match self {
            Work::Training(trainer) => trainer.params.card(),
            Work::Gradients { params, .. } => params.card(),
        }
    }

    fn llama(&self) -> &Llama {
        match self {
            Work::Training(trainer) => &trainer.llama,
            Work::Gradients { llama, .. } => llama,
        }
    }

    fn begin(&mut self, micro: &MicroBatch) -> Begun {
        match self {
            Work::Training(trainer) => Begun::Step(trainer.begin(std::slice::from_ref(micro), LEARNING_RATE)),
            Work::Gradients { llama, params, grads, recompute } => {
                grads.zero();
                let mut tape = Tape::new(params);
                let hidden = match recompute {
                    true => llama.hidden_recomputed(&mut tape, &micro.batch),
                    false => llama.hidden(&mut tape, &micro.batch),
                };
                let n = micro.targets.len();
                let weights = vec![1.0 / n as f32; n];
                Begun::Loss(tape.cross_entropy_backward_later(
                    hidden,
                    llama.head(),
                    &micro.targets,
                    &weights,
                    grads,
                ))
            }
        }
    }

    fn finish(&mut self, begun: Begun) -> Result<StepOutcome, NotFinite> {
        match (self, begun) {
            (Work::Training(trainer), Begun::Step(step)) => trainer.finish(step),
            (_, Begun::Loss(loss)) => {
                Ok(StepOutcome { loss: f64::from(loss.wait()[0]), grad_norm: f64::NAN })
            }
            (Work::Gradients { .. }, Begun::Step(_)) => unreachable!("it begins no steps"),
        }
    }
}

/// Makes the steps and says how long they took.
pub fn run(
    options: &Options,
    mut input: impl BufRead,
    mut output: impl Write,
    ctx: &Context,
) -> Result<(), Error> {
    let workload = options.workload;
    let mut micro = workload.micro_batch(0);
    let mut work = Work::new(options)?;
    let card = work.card().expect("not the CPU");
    let peak = card.promised_flops();
    if !options.json {
        let what = if options.no_update { "forward and backward of " } else { "" };
        writeln!(output, "{}: {what}{}", workload.name, workload.title)?;
        let peak = peak.map_or("peak unknown".into(), |p| format!("promised peak {:.0} TFLOP/s", p / 1e12));
        writeln!(output, "{card:?}, {:?}, {peak}; {MFU_CONVENTION}", options.place.dtype())?;
    }
    let flops = workload.tokens as f64 * work.llama().config.flops_per_token(micro.mean_context());
    let (mut steps, mut waiting, mut begun): (Vec<Step>, _, _) = (Vec::new(), None, 0);
    let mut last = Instant::now();
    loop {
        let more = match options.interactive {
            true => told(&mut input)?,
            false => begun < options.steps,
        };
        ctx.stop.check()?;
        let mut ready = None;
        if more {
            if options.fresh {
                micro = workload.micro_batch(begun);
            }
            if options.interactive {
                last = Instant::now();
            }
            begun += 1;
            let step = work.begin(&micro);
            match options.interactive {
                true => ready = Some(step),
                false => ready = waiting.replace(step),
            }
        } else {
            ready = ready.or_else(|| waiting.take());
        }
        if let Some(step) = ready {
            let number = steps.len() as u64 + 1;
            let broken = |problem| Error::NotFinite { workload: workload.name, step: number, problem };
            let outcome = work.finish(step).map_err(broken)?;
            let seconds = last.elapsed().as_secs_f64();
            last = Instant::now();
            steps.push(Step {
                workload: workload.name,
                step: number,
                seconds,
                loss: outcome.loss,
                tokens_per_s: workload.tokens as f64 / seconds,
                gflops: flops / seconds / 1e9,
                peak_rss_mb: peak_resident().map(|bytes| bytes as f64 / 1e6),
                peak_card_mb: Some(card.usage().peak as f64 / 1e6),
            });
            say(&mut output, options.json, steps.last().expect("just pushed"), peak)?;
        } else if !more {
            break;
        }
    }
    if !options.json && steps.len() > 2 {
        let mut seconds: Vec<f64> = steps[2..].iter().map(|step| step.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let mfu = peak.map_or(String::new(), |peak| format!(", MFU {:.1}%", 100.0 * flops / median / peak));
        let speed = workload.tokens as f64 / median;
        writeln!(output, "median of {} steps: {median:.4} s, {speed:.0} tokens/s{mfu}", seconds.len())?;
    }
    Ok(())
}

fn say(output: &mut impl Write, json: bool, step: &Step, peak: Option<f64>) -> io::Result<()> {
    let mfu = peak.map(|peak| step.gflops * 1e9 / peak);
    if json {
        let mut row = serde_json::to_value(step).map_err(io::Error::other)?;
        row["mfu"] = serde_json::json!(mfu);
        writeln!(output, "{row}")?;
    } else {
        let mfu = mfu.map_or(String::new(), |mfu| format!(" (MFU {:.1}%)", 100.0 * mfu));
        writeln!(
            output,
            "step {}: {:.4} s, loss {:.4}, {:.0} tokens/s, {:.1} TFLOP/s{mfu}, {:.0} MB of the card",
            step.step,
            step.seconds,
            step.loss,
            step.tokens_per_s,
            step.gflops / 1e3,
            step.peak_card_mb.unwrap_or(0.0)
        )?;
    }
    output.flush()
}
