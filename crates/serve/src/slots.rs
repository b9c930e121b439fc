//! `GET /slots`: what is answered now, in the words of llama-server's clients.
//!
//! llama-server computes a fixed number of answers at once, each in a slot with a cache of its own. Here answers share
//! one cache and stand in a batch; a slot is a place in it, taken from an answer's first token to its last.

use crate::native::settings;
use crate::reply::ApiError;
use crate::server::App;
use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use herd_infer::Sampling;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// All slots; as many as were ever taken at once.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Vec<Option<Arc<Answer>>>>);

/// The answer in a slot.
struct Answer {
    /// Which since the start.
    task: usize,
    sampling: Sampling,
    /// Tokens drawn.
    drawn: AtomicUsize,
}

/// A slot that is taken; it is free again when this is dropped.
pub(crate) struct Seat {
    slots: Arc<Slots>,
    at: usize,
    answer: Arc<Answer>,
}

impl Slots {
    fn all(&self) -> MutexGuard<'_, Vec<Option<Arc<Answer>>>> {
        // The list is valid whatever happened to the thread that held it.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes the first free slot.
    pub(crate) fn take(self: &Arc<Self>, sampling: &Sampling) -> Seat {
        static TASKS: AtomicUsize = AtomicUsize::new(0);
        let task = TASKS.fetch_add(1, Ordering::Relaxed);
        let answer = Arc::new(Answer { task, sampling: sampling.clone(), drawn: AtomicUsize::new(0) });
        let mut all = self.all();
        let at = all.iter().position(Option::is_none).unwrap_or(all.len());
        match all.get_mut(at) {
            Some(slot) => *slot = Some(answer.clone()),
            None => all.push(Some(answer.clone())),
        }
        Seat { slots: self.clone(), at, answer }
    }
}

impl Seat {
    /// Counts a token of the answer.
    pub(crate) fn count(&self) {
        self.answer.drawn.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.slots.all()[self.at] = None;
    }
}

/// `GET /slots`.
pub(crate) async fn slots(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let taken = app.slots.all().clone();
    let count = app.generator.settings().max_sequences.max(taken.len());
    let refuses = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("fail_on_no_slot")));
    if refuses && taken.iter().flatten().count() >= count {
        let message = "as many answers are under way as are computed at once; a new one waits for its turn";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_slot", message));
    }
    let slot = |id: usize| {
        let answer = taken.get(id).and_then(Option::as_ref);
        let mut slot = json!({
            "id": id,
            "n_ctx": app.generator.context(),
            "speculative": app.generator.settings().lookup_tokens > 0,
            "is_processing": answer.is_some(),
        });
        if let Some(answer) = answer {
            let drawn = answer.drawn.load(Ordering::Relaxed);
            slot["id_task"] = answer.task.into();
            slot["params"] = settings(&answer.sampling);
            slot["next_token"] = json!({
                "has_next_token": true,
                "n_remain": answer.sampling.max_tokens.saturating_sub(drawn),
                "n_decoded": drawn,
            });
        }
        slot
    };
    Ok(Json((0..count).map(slot).collect()))
}

/// `POST /slots/{id}`: saving, restoring and erasing the cache of a slot.
pub(crate) async fn action(Path(_id): Path<String>) -> ApiError {
    let message = "slots have no cache of their own here: what was computed for one answer is found by all, and the \
                   oldest of it gives way by itself";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message)
}
