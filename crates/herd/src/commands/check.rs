//! `herd check`: a recipe with every default filled in, and what the model would be.

use crate::cli::RunArgs;
use crate::commands::pipeline::run_folder;
use crate::recipe::Recipe;

/// Prints the whole recipe, the model's size and where the run would go. Touches nothing.
pub fn check(args: &RunArgs) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    print!("{}", toml::to_string(&recipe)?);
    let config = recipe.model.config(recipe.tokenizer.vocab_size, 0, Vec::new());
    let initial = &recipe.pretrain.initial;
    let tokens = initial.batch.tokens_after(initial.steps);
    let context = initial.batch.longest() as f64;
    let flops = tokens as f64 * config.flops_per_token(context);
    println!("\n# {}", args.recipe.display());
    println!("# parameters       {}", grouped(config.parameters() as u64));
    println!(
        "# initial phase    {} tokens, {flops:.3e} FLOPs (causal attention counted once)",
        grouped(tokens)
    );
    println!("# run folder       {}", run_folder(args, &recipe).root().display());
    Ok(())
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|g| String::from_utf8_lossy(g)).collect::<Vec<_>>().join(",")
}
