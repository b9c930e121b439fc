//! Ctrl-C: the first asks the running stage to stop at its next safe point, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The user asked to stop. Everything finished so far is on disk; the same command continues.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request; run the same command again to continue")]
pub struct Interrupted;

/// A flag that long loops look at between units of work.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Installs the signal handler (SIGINT, SIGTERM), which says `notice` if there is one. The second signal ends the process with
    /// status 130.
    pub fn on_ctrl_c(&self, notice: &'static str) -> Result<(), std::io::Error> {
        let flag = self.0.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            if !notice.is_empty() {
                eprintln!("{notice}");
            }
        })
        .map_err(std::io::Error::other)
    }

    /// Raises the flag by program, as Ctrl-C would.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Lowers the flag, for work that goes on with something else after a stop.
    pub fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Err(Interrupted)` once a stop was asked for; made for `?`.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested() { Err(Interrupted) } else { Ok(()) }
    }
}
