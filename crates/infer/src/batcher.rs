//! A thread that owns an engine and answers requests as they come.

use crate::engine::{Engine, JobId};
use crate::request::{Event, FinishReason, Load, Request};
use crate::{Error, Generator};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Where the news of a request goes; `false` means that nobody listens any more.
type Sink = Box<dyn FnMut(Event) -> bool + Send>;

enum Command {
    Submit {
        request: Box<Request>,
        cancelled: Arc<AtomicBool>,
        sink: Sink,
    },
    /// Something was cancelled, or nothing new is to be accepted: look around.
    Wake,
}

/// A submitted request. Dropping it cancels what is left of it; its pages come back before the next token.
pub struct Submitted {
    cancelled: Arc<AtomicBool>,
    commands: Sender<Command>,
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        // Wakes the thread if it sleeps; if it is gone there is nothing to cancel.
        let _ = self.commands.send(Command::Wake);
    }
}

/// Continuous batching on its own thread. Dropping it finishes what is running, refuses the rest and joins the thread.
pub struct Batcher {
    commands: Sender<Command>,
    waiting: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    load: Arc<Mutex<Load>>,
    /// Knows the limits; computes nothing.
    checker: Engine,
    max_waiting: usize,
    thread: Option<JoinHandle<()>>,
}

impl Batcher {
    /// Starts the thread.
    pub fn new(generator: &Generator) -> Result<Self, Error> {
        let (commands, inbox) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let closing = Arc::new(AtomicBool::new(false));
        let engine = generator.engine();
        let load = Arc::new(Mutex::new(engine.load()));
        let worker = Worker {
            engine,
            inbox,
            jobs: HashMap::new(),
            waiting: waiting.clone(),
            closing: closing.clone(),
            load: load.clone(),
        };
        let thread = std::thread::Builder::new().name("herd-batcher".into()).spawn(move || worker.run())?;
        Ok(Self {
            commands,
            waiting,
            closing,
            load,
            checker: generator.engine(),
            max_waiting: generator.settings().max_waiting,
            thread: Some(thread),
        })
    }

    /// Queues a request; its news come through the channel until every sample is finished. Drop the [`Submitted`]
    /// to cancel.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full, or the reason why this request can never be answered.
    pub fn submit(&self, request: Request) -> Result<(Submitted, Receiver<Event>), Error> {
        let (sender, receiver) = mpsc::channel();
        let submitted = self.submit_to(request, move |event| sender.send(event).is_ok())?;
        Ok((submitted, receiver))
    }

    /// As [`Batcher::submit`], with a function that takes the news on the batcher's thread (so it must not block) and
    /// says whether it wants more.
    pub fn submit_to(
        &self,
        request: Request,
        sink: impl FnMut(Event) -> bool + Send + 'static,
    ) -> Result<Submitted, Error> {
        self.queue(request, Box::new(sink), self.max_waiting)
    }

    /// As [`Batcher::submit_to`], for a further part of what was accepted already: it is not refused because the
    /// queue is full. A list of prompts that is longer than the queue could never be accepted otherwise.
    pub fn submit_more(
        &self,
        request: Request,
        sink: impl FnMut(Event) -> bool + Send + 'static,
    ) -> Result<Submitted, Error> {
        self.queue(request, Box::new(sink), usize::MAX - 1)
    }

    fn queue(&self, request: Request, sink: Sink, most: usize) -> Result<Submitted, Error> {
        self.checker.check(&request)?;
        if self.closing.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |w| (w <= most).then_some(w + 1))
            .map_err(|waiting| Error::Busy { waiting })?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let command = Command::Submit { request: Box::new(request), cancelled: cancelled.clone(), sink };
        self.commands.send(command).map_err(|_| Error::Closed)?;
        Ok(Submitted { cancelled, commands: self.commands.clone() })
    }

    /// What is going on now.
    pub fn load(&self) -> Load {
        let mut load = *self.load.lock().unwrap_or_else(|e| e.into_inner());
        load.waiting = self.waiting.load(Ordering::Relaxed);
        load
    }

    /// Accepts nothing more; what was accepted is still answered.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = self.commands.send(Command::Wake);
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which it has reported itself.
            let _ = thread.join();
        }
    }
}

struct Job {
    cancelled: Arc<AtomicBool>,
    sink: Sink,
    samples: usize,
    finished: usize,
    started: bool,
}

struct Worker {
    engine: Engine,
    inbox: Receiver<Command>,
    jobs: HashMap<JobId, Job>,
    /// Requests accepted whose prompt is not computed yet.
    waiting: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    load: Arc<Mutex<Load>>,
}

impl Worker {
    fn run(mut self) {
        loop {
            self.publish();
            if self.engine.idle() {
                if self.closing.load(Ordering::Relaxed) {
                    // Commands sent before the close are still in the inbox.
                    match self.inbox.try_recv() {
                        Ok(command) => self.take(command),
                        Err(_) => return,
                    }
                } else {
                    match self.wait() {
                        Some(command) => self.take(command),
                        None => return,
                    }
                }
            }
            while let Ok(command) = self.inbox.try_recv() {
                self.take(command);
            }
            self.drop_cancelled();
            let events = match self.engine.step() {
                Ok(events) => events,
                Err(error) => return self.fail(&error),
            };
            // Before a request stops to count as waiting, it counts as running.
            self.publish();
            for (job, event) in events {
                self.deliver(job, event);
            }
        }
    }

    /// The next command; until it comes the model is made ready. `None` if nobody is left to send one.
    fn wait(&self) -> Option<Command> {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if !self.engine.prepare() => return self.inbox.recv().ok(),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    /// Ends all requests and refuses further ones: the device has failed.
    fn fail(&mut self, error: &Error) {
        eprintln!("generation ends: {error}");
        self.closing.store(true, Ordering::Relaxed);
        for (id, mut job) in std::mem::take(&mut self.jobs) {
            self.engine.cancel(id);
            for sample in 0..job.samples {
                (job.sink)(Event::Finished { sample, text: String::new(), reason: FinishReason::Cancelled });
            }
        }
        self.waiting.store(0, Ordering::Relaxed);
        self.publish();
    }

    fn publish(&self) {
        *self.load.lock().unwrap_or_else(|e| e.into_inner()) = self.engine.load();
    }

    fn take(&mut self, command: Command) {
        let Command::Submit { request, cancelled, mut sink } = command else { return };
        let samples = request.samples;
        match self.engine.submit(*request) {
            Ok(job) => {
                self.jobs.insert(job, Job { cancelled, sink, samples, finished: 0, started: false });
            }
            // Checked before it was sent; said anyway, so that nobody waits for ever.
            Err(_) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                for sample in 0..samples {
                    let reason = FinishReason::Cancelled;
                    sink(Event::Finished { sample, text: String::new(), reason });
                }
            }
        }
    }

    fn drop_cancelled(&mut self) {
        let mut gone: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, j)| j.cancelled.load(Ordering::Relaxed))
            .map(|(&id, _)| id)
            .collect();
        gone.sort_unstable();
        for id in gone {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: JobId) {
        self.engine.cancel(id);
        if self.jobs.remove(&id).is_some_and(|job| !job.started) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn deliver(&mut self, id: JobId, event: Event) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if matches!(event, Event::Started { .. }) {
            job.started = true;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        job.finished += usize::from(matches!(event, Event::Finished { .. }));
        let done = job.finished == job.samples;
        if !(job.sink)(event) || done {
            self.forget(id);
        }
    }
}
