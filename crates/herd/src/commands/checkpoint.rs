//! `herd inspect` and `herd convert`: checkpoints as files.

use crate::folder::model_folder;
use anyhow::bail;
use herd_convert::{Checkpoint, Format, Target};
use herd_infer::gguf::BlockType;
use herd_run::Context;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `herd inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// A GGUF file, a safetensors file, a Hugging Face model folder, or a run folder.
    checkpoint: PathBuf,
    /// List every tensor.
    #[arg(long)]
    all: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Options of `herd convert`.
#[derive(clap::Args)]
pub struct ConvertArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    input: PathBuf,
    /// A file that ends with .gguf, or a folder for safetensors. It must not exist yet.
    output: PathBuf,
    /// Number type of the matrices [default: as they are]. `q4_k` keeps some of them as Q6_K, as llama.cpp does.
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Option<BlockType>,
    /// Most bytes of weights in one safetensors file, such as 500MB or 2GB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = super::bytes)]
    shard_size: u64,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn kind(name: &str) -> Result<BlockType, String> {
    let found = Target::KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let names = || Target::KINDS.map(|(known, _)| known).join(", ");
    found.map(|(_, kind)| *kind).ok_or_else(|| format!("there are {}", names()))
}

/// Files and folders with weights are taken as they are, others may be run folders.
fn checkpoint_at(path: &Path) -> anyhow::Result<PathBuf> {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    match path.is_file() || weights.iter().any(|name| path.join(name).exists()) {
        true => Ok(path.to_path_buf()),
        false => model_folder(path),
    }
}

/// Tells what is in a checkpoint.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let report = herd_convert::inspect::inspect(&checkpoint_at(&args.checkpoint)?, args.all)?;
    // A table may be longer than whoever reads it wants: `herd inspect MODEL | head`.
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", json!(report))?,
        false => writeln!(out, "{report}")?,
    }
    Ok(())
}

/// Converts a checkpoint.
pub fn convert(args: &ConvertArgs, ctx: &Context) -> anyhow::Result<()> {
    let input = checkpoint_at(&args.input)?;
    let output = &args.output;
    if output.exists() && !args.force {
        bail!("{} exists already; name another place, or replace it with --force", output.display());
    }
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
    if same(&input, output) {
        bail!("{} is the input also; name another place", output.display());
    }
    let format = match output.extension() {
        Some(extension) if extension == "gguf" => Format::Gguf,
        Some(extension) if extension == "safetensors" => {
            bail!("{}: a model in safetensors is a folder; name one (without .safetensors)", output.display())
        }
        _ => Format::Safetensors,
    };
    if format == Format::Safetensors && output.is_dir() && !output.join("config.json").exists() {
        bail!("{} is a folder that is no model; it will not be replaced", output.display());
    }
    let checkpoint = Checkpoint::open(&input)?;
    let target = Target { format, kind: args.kind, shard_bytes: args.shard_size };
    let summary = herd_convert::convert(&checkpoint, output, target, ctx)?;
    match args.json {
        true => println!("{}", json!(summary)),
        false => {
            let types: Vec<String> =
                summary.types.iter().map(|(name, tensors)| format!("{tensors} {name}")).collect();
            println!(
                "{}: {} tensors ({}), {:.1} MB, {:.2} bits for each parameter",
                summary.path.display(),
                summary.tensors,
                types.join(", "),
                summary.bytes as f64 / 1e6,
                summary.bits_per_weight
            );
        }
    }
    Ok(())
}
