//! OpenAI-compatible API and chat page over one model (SPEC INFER-3).
//!
//! [`serve`] opens a model folder and answers until it is told to stop. A request that cannot work gets an error in
//! OpenAI's shape that names the field; a client that hangs up frees its cache pages; a full queue answers 429.
//!
//! A chat request goes through `fields` (reading), `tools` and `form` (what may be called, what form the answer must
//! have), `dialog` (the template's messages), `answers` (the batcher's events) and `turn` (text, calls and
//! log-probabilities of one answer, whole or as it streams).

mod access;
mod answers;
mod body;
mod chat;
mod completions;
mod connections;
mod dialog;
mod embeddings;
mod fields;
mod form;
mod infill;
mod metrics;
mod native;
mod prompts;
mod reply;
mod rerank;
mod sampling;
mod server;
mod slots;
mod tools;
mod turn;

pub use server::Server;

use herd_infer::Generator;
use herd_run::{Context, Interrupted};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; the loopback address unless told otherwise.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Name of the model in the API; the folder's name if none.
    pub name: Option<String>,
    /// File with the keys that clients must send, one a line; everyone may use the server if none.
    pub keys: Option<PathBuf>,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Most tokens of an answer whose request does not say.
    pub default_max_tokens: usize,
    /// Origins whose pages may use the server (`*`: all); none but its own page unless told otherwise.
    pub cors: Vec<String>,
    /// Most seconds that an answer may take from its arrival.
    pub answer_seconds: u64,
    /// Most seconds that the head of a request, and then its body, may take to arrive; also how long a connection may stay
    /// open between requests.
    pub request_seconds: u64,
    /// Seconds that running answers have after the server is told to stop.
    pub grace_seconds: u64,
    /// Limits of generation.
    pub generation: herd_infer::Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            name: None,
            keys: None,
            max_body_bytes: 8 << 20,
            default_max_tokens: 1024,
            cors: Vec::new(),
            answer_seconds: 3600,
            request_seconds: 30,
            grace_seconds: 30,
            generation: herd_infer::Settings::default(),
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}; choose another with --host or --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file of keys cannot be used.
    #[error("{}: {problem}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Generation(#[from] herd_infer::Error),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Opens the model in `model_dir` and serves it until `ctx.stop` is raised, which is a normal end.
///
/// # Errors
/// The model cannot be read, or the address cannot be used.
pub fn serve(model_dir: &Path, options: &Options, ctx: &Context) -> Result<(), Error> {
    // A port that is taken, or keys that cannot be read, are told before a large model is read.
    let listener = server::listen(options)?;
    if let Some(keys) = &options.keys {
        access::read_keys(keys)?;
    }
    let generator = open(model_dir, options, ctx)?;
    let folder = model_dir.canonicalize().unwrap_or_else(|_| model_dir.to_path_buf());
    let folder = folder.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let name = options.name.as_deref().unwrap_or(&folder);
    if let Some(card) = generator.device() {
        ctx.progress.line(card);
    }
    let server = Server::on(listener, generator, name, options)?;
    let address = server.address()?;
    ctx.progress.line(format!("{name} answers at http://{address} (API: http://{address}/v1)"));
    if options.host.is_loopback() {
        ctx.progress.line("only this machine can reach it; --host 0.0.0.0 opens it to the network");
    } else if options.keys.is_none() {
        ctx.progress.line("everyone who can reach this address may use it; --keys FILE asks for a key");
    }
    server.run(ctx)
}

/// Opens the model on another thread, which is left to itself if the user does not want to wait for it.
fn open(model_dir: &Path, options: &Options, ctx: &Context) -> Result<Generator, Error> {
    let (sender, opened) = std::sync::mpsc::channel();
    let (path, settings) = (model_dir.to_path_buf(), options.generation.clone());
    std::thread::spawn(move || sender.send(Generator::open(&path, settings)));
    loop {
        match opened.recv_timeout(Duration::from_millis(50)) {
            Ok(generator) => return Ok(generator?),
            Err(RecvTimeoutError::Timeout) => ctx.stop.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(herd_infer::Error::Model {
                    path: model_dir.to_path_buf(),
                    problem: "reading it failed inside the program".into(),
                }
                .into());
            }
        }
    }
}
