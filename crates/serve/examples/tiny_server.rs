//! Serves a small random model for the browser and client tests: `tiny_server [PORT] [MAX_WAITING]`.
//!
//! Special tokens have no weight, so that at temperature 0 an answer is text and never ends by itself.

use herd_infer::Generator;
use herd_model::{Llama, LlamaConfig};
use herd_run::{Context, Progress, Verbosity};
use herd_serve::{Options, Server};

#[path = "../../infer/tests/tiny/mod.rs"]
mod tiny;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse());
    let port = arguments.next().transpose()?.unwrap_or(8080u16);
    let tokenizer = tiny::tokenizer();
    let (tiny, _) = tiny::model_of_context(&tokenizer, 4096);
    // Large enough that a person, or a test, can stop an answer.
    let llama = Llama::new(LlamaConfig {
        hidden_size: 192,
        num_hidden_layers: 12,
        intermediate_size: 512,
        ..tiny.config
    });
    let mut params = llama.params();
    params.initialize(11);
    let special = tokenizer.specials().bos as usize * llama.config.hidden_size;
    params.value_mut(llama.head())[special..].fill(0.0);
    let mut options = Options { port, ..Options::default() };
    if let Some(most) = arguments.next().transpose()? {
        options.generation.max_waiting = usize::from(most);
    }
    let generator = Generator::new(llama, params, tokenizer, options.generation.clone())?;
    let server = Server::bind(generator, "tiny", &options)?;
    let ctx = Context { progress: Progress::new(Verbosity::Normal), ..Context::default() };
    ctx.stop.on_ctrl_c("")?;
    ctx.progress.line(format!("tiny answers at http://{}", server.address()?));
    Ok(server.run(&ctx)?)
}
