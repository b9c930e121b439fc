//! Counters in Prometheus' text format.

use herd_infer::Load;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Upper bounds of the histogram of seconds to the first token.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What the server counts besides the batcher's load.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    requests: BTreeMap<(String, u16), u64>,
    first_token: [u64; BOUNDS.len()],
    first_token_count: u64,
    first_token_seconds: f64,
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters are valid whatever happened to the thread that held them.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn count_request(&self, path: &str, status: u16) {
        *self.counts().requests.entry((path.to_string(), status)).or_default() += 1;
    }

    pub(crate) fn observe_first_token(metrics: &Arc<Self>, after: Duration) {
        let mut counts = metrics.counts();
        let seconds = after.as_secs_f64();
        counts.first_token_count += 1;
        counts.first_token_seconds += seconds;
        for (count, bound) in counts.first_token.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self, load: &Load) -> String {
        let mut out = String::new();
        let mut single = |kind: &str, name: &str, help: &str, value: u64| {
            let _ =
                write!(out, "# HELP herd_{name} {help}\n# TYPE herd_{name} {kind}\nherd_{name} {value}\n");
        };
        single(
            "gauge",
            "requests_waiting",
            "Requests whose prompt is not computed yet.",
            load.waiting as u64,
        );
        single("gauge", "answers_running", "Answers in the batch.", load.running as u64);
        single(
            "gauge",
            "answers_paused",
            "Answers that gave their cache pages to older ones.",
            load.paused as u64,
        );
        single("counter", "preemptions_total", "Times that an answer gave its pages away.", load.preemptions);
        single(
            "counter",
            "recomputed_tokens_total",
            "Tokens computed again after that.",
            load.recomputed_tokens,
        );
        single(
            "gauge",
            "cache_pages_used",
            "Cache pages that running answers refer to.",
            load.pages_used as u64,
        );
        single("gauge", "cache_pages", "Cache pages in all.", load.pages as u64);
        single("counter", "prompt_tokens_total", "Prompt tokens computed.", load.prompt_tokens);
        single(
            "counter",
            "cached_prompt_tokens_total",
            "Prompt tokens found in the cache.",
            load.cached_tokens,
        );
        single("counter", "completion_tokens_total", "Tokens drawn.", load.answer_tokens);
        let counts = self.counts();
        let name = "herd_requests_total";
        let _ = write!(out, "# HELP {name} Requests by path and status.\n# TYPE {name} counter\n");
        for ((path, status), count) in &counts.requests {
            let _ = writeln!(out, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        let name = "herd_time_to_first_token_seconds";
        let _ = write!(out, "# HELP {name} From arrival to the first token.\n# TYPE {name} histogram\n");
        for (bound, count) in BOUNDS.iter().zip(counts.first_token) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let total = counts.first_token_count;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let _ = write!(out, "{name}_sum {}\n{name}_count {total}\n", counts.first_token_seconds);
        out
    }
}
