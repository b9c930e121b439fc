//! Progress: bars with rate and time left on a terminal, a plain line now and then when piped, nothing if quiet.

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How much a command says about its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Only results and errors.
    #[default]
    Quiet,
    /// Stages, progress, results.
    Normal,
    /// Details of every stage besides.
    Verbose,
}

/// Seconds between two plain lines of one task when the output is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Where tasks report to. Cheap to clone. Everything goes to standard error; results belong to standard output.
#[derive(Clone, Default)]
pub struct Progress {
    verbosity: Verbosity,
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars if standard error is a terminal, plain lines if not.
    pub fn new(verbosity: Verbosity) -> Self {
        let terminal = std::io::stderr().is_terminal() && verbosity > Verbosity::Quiet;
        let bars = terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8)));
        Self { verbosity, bars }
    }

    /// How much to say.
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Says one line, above the bars if there are any. Silent if quiet.
    pub fn line(&self, text: impl AsRef<str>) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text.as_ref());
            }
            None => {
                let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
            }
        }
    }

    /// Says one line only with `-v`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbosity == Verbosity::Verbose {
            self.line(text);
        }
    }

    /// Starts a task of `total` units (`None` if unknown) named by its verb, such as `task("extract", Some(900),
    /// "pages")`. The task ends when it is dropped.
    pub fn task(&self, name: &str, total: Option<u64>, unit: &str) -> Task {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            });
            let style = match total {
                Some(_) => format!("{{prefix:>14}} {{bar:24}} {{human_pos}}/{{human_len}} {unit}  {{rate}}  {{eta}} left  {{msg}}"),
                None => format!("{{prefix:>14}} {{spinner}} {{human_pos}} {unit}  {{rate}}  {{msg}}"),
            };
            let style = ProgressStyle::with_template(&style).unwrap_or(ProgressStyle::default_bar());
            bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&rate(state.per_sec()));
            }));
            bar.set_prefix(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Task(Arc::new(TaskState {
            name: name.to_string(),
            unit: unit.to_string(),
            total,
            done: AtomicU64::new(0),
            before: AtomicU64::new(0),
            bar,
            plain: self.bars.is_none() && self.verbosity > Verbosity::Quiet,
            started: Mutex::new(Instant::now()),
            message: Mutex::new((Instant::now(), String::new())),
        }))
    }
}

/// Units per second: whole above 10, one digit below.
fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 10.0 => format!("{r:.1}/s"),
        r => format!("{}/s", HumanCount(r as u64)),
    }
}

struct TaskState {
    name: String,
    unit: String,
    total: Option<u64>,
    done: AtomicU64,
    /// Units that were done before this process started; they say nothing about its rate.
    before: AtomicU64,
    bar: Option<ProgressBar>,
    plain: bool,
    /// When this process began to count, which a resumption sets anew.
    started: Mutex<Instant>,
    message: Mutex<(Instant, String)>,
}

/// A running task; share it between threads by reference or clone.
#[derive(Clone)]
pub struct Task(Arc<TaskState>);

impl Task {
    /// Counts `units` more as done.
    pub fn add(&self, units: u64) {
        let done = self.0.done.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(bar) = &self.0.bar {
            bar.set_position(done);
        } else if self.0.plain {
            self.0.say_now_and_then(done);
        }
    }

    /// Starts counting from `units`, for work that was done before this process started.
    pub fn resume_from(&self, units: u64) {
        self.0.done.store(units, Ordering::Relaxed);
        self.0.before.store(units, Ordering::Relaxed);
        if let Ok(mut started) = self.0.started.lock() {
            *started = Instant::now();
        }
        if let Some(bar) = &self.0.bar {
            bar.set_position(units);
            bar.reset_eta();
        }
    }

    /// Shows a short text beside the count, such as the current loss.
    pub fn message(&self, text: impl Into<String>) {
        let text = text.into();
        if let Some(bar) = &self.0.bar {
            bar.set_message(text);
        } else if let Ok(mut slot) = self.0.message.lock() {
            slot.1 = text;
        }
    }
}

impl TaskState {
    fn say_now_and_then(&self, done: u64) {
        let Ok(mut slot) = self.message.lock() else { return };
        if slot.0.elapsed() < PLAIN_INTERVAL {
            return;
        }
        slot.0 = Instant::now();
        let Ok(started) = self.started.lock() else { return };
        let per_second =
            done.saturating_sub(self.before.load(Ordering::Relaxed)) as f64 / started.elapsed().as_secs_f64();
        let of = self.total.map(|t| format!("/{t}")).unwrap_or_default();
        let left = match self.total {
            Some(total) if per_second > 0.0 => {
                format!(", {:.0} s left", total.saturating_sub(done) as f64 / per_second)
            }
            _ => String::new(),
        };
        let _ = writeln!(
            std::io::stderr(),
            "{}: {done}{of} {} ({}{left}) {}",
            self.name,
            self.unit,
            rate(per_second),
            slot.1
        );
    }
}

impl Drop for TaskState {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
