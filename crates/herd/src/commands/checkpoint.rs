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

/// Endings of files with weights that others write. A folder may have any other: `Llama-3.2-1B`, `run.old`.
const NOT_WRITTEN: [&str; 16] = [
    "bin",
    "ckpt",
    "engine",
    "ggml",
    "h5",
    "json",
    "llamafile",
    "msgpack",
    "npy",
    "npz",
    "onnx",
    "pkl",
    "pt",
    "pth",
    "tar",
    "zip",
];

/// What is to be written, by the ending of its name.
fn format_of(output: &Path) -> anyhow::Result<Format> {
    let ending = output.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match &*ending {
        "gguf" => Ok(Format::Gguf),
        "safetensors" => {
            bail!("{}: a model in safetensors is a folder; name one (without .safetensors)", output.display())
        }
        other if NOT_WRITTEN.contains(&other) => bail!(
            "{}: .{other} files are not written; name a file that ends with .gguf, or a folder (without .{other}) for \
             safetensors",
            output.display()
        ),
        _ => Ok(Format::Safetensors),
    }
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
    let format = format_of(output)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_written() {
        for name in ["a.gguf", "b/a.Q4_K_M.gguf", "a.GGUF"] {
            assert_eq!(format_of(Path::new(name)).unwrap(), Format::Gguf, "{name}");
        }
        for name in ["a", "Llama-3.2-1B", "b.bin/a", "a.v2", "."] {
            assert_eq!(format_of(Path::new(name)).unwrap(), Format::Safetensors, "{name}");
        }
        for name in ["x.bin", "x.PT", "x.safetensors", "b/pytorch_model.pth"] {
            let error = format_of(Path::new(name)).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains("folder"), "{error}");
        }
        assert!(format_of(Path::new("x.bin")).unwrap_err().to_string().contains(".gguf"));
    }
}
