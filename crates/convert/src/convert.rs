//! From one format and number type to another.

use crate::parts::{Part, Role, parts};
use crate::quantise::{is_written, quantise};
use crate::{Checkpoint, Error, Format, gguf, safetensors};
use herd_infer::gguf::BlockType;
use herd_model::{LlamaConfig, TorchDtype};
use herd_run::Context;
use herd_run::atomic;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Numbers that are in memory at once.
const STRETCH: usize = 1 << 22;

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The format of the files.
    pub format: Format,
    /// The number type of the matrices; `None` keeps that of the source where the format has it.
    pub kind: Option<BlockType>,
    /// Most bytes of weights in one safetensors file, unless a single tensor has more; a model that needs several
    /// files gets an index.
    pub shard_bytes: u64,
}

impl Target {
    /// What [`Target::shard_bytes`] is where nobody says: 5 GB, as hubs like it.
    pub const SHARD_BYTES: u64 = 5_000_000_000;
    /// The names of number types that can be written, for the command line.
    pub const KINDS: [(&'static str, BlockType); 9] = [
        ("f32", BlockType::F32),
        ("f16", BlockType::F16),
        ("bf16", BlockType::Bf16),
        ("q8_0", BlockType::Q8_0),
        ("q6_k", BlockType::Q6K),
        ("q5_0", BlockType::Q5_0),
        ("q4_k", BlockType::Q4K),
        ("q4_1", BlockType::Q4_1),
        ("q4_0", BlockType::Q4_0),
    ];
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Where.
    pub path: PathBuf,
    /// Tensors.
    pub tensors: usize,
    /// Parameters.
    pub parameters: u64,
    /// Size of the weights, bytes.
    pub bytes: u64,
    /// Bits for each parameter.
    pub bits_per_weight: f64,
    /// Tensors of each number type: not all get the one asked for, since rows that are not whole blocks get another.
    pub types: BTreeMap<&'static str, usize>,
}

/// A part and the number type it gets.
struct Planned {
    part: Part,
    kind: BlockType,
}

impl Planned {
    fn parameters(&self) -> u64 {
        self.part.shape.iter().product::<usize>() as u64
    }

    fn bytes(&self) -> u64 {
        let (weights, size) = self.kind.block();
        self.parameters() / weights as u64 * size as u64
    }
}

/// Writes `checkpoint` to `out`: a file for GGUF, a folder for safetensors. `out` appears complete or not at all.
///
/// # Errors
/// A checkpoint that is no Llama, is damaged, or has a tokenizer that GGUF has no name for; a number type that the
/// format does not have.
pub fn convert(checkpoint: &Checkpoint, out: &Path, target: Target, ctx: &Context) -> Result<Summary, Error> {
    let config = checkpoint.config().map_err(|problem| Error::at(checkpoint.path(), problem))?;
    let tokenizer = checkpoint.tokenizer()?;
    if tokenizer.vocab_size() > config.vocab_size {
        let problem = format!(
            "the tokenizer has {} tokens, the model only {}",
            tokenizer.vocab_size(),
            config.vocab_size
        );
        return Err(Error::at(checkpoint.path(), problem));
    }
    let kinds = [BlockType::F32, BlockType::F16, BlockType::Bf16];
    if target.format == Format::Safetensors && target.kind.is_some_and(|kind| !kinds.contains(&kind)) {
        return Err(Error::at(
            out,
            "a safetensors folder holds f32, f16 or bf16; name a file that ends with .gguf for quantised weights",
        ));
    }
    let all = parts(config);
    for part in &all {
        checkpoint.check(part)?;
    }
    let stored = checkpoint.tensors();
    let kind_in_file = |part: &Part| {
        let name = if checkpoint.format() == Format::Gguf { &part.gguf } else { &part.hf };
        let found = stored.iter().find(|tensor| tensor.name == *name);
        match found.map(|tensor| &tensor.kind) {
            Some(crate::TensorKind::Known(kind)) => *kind,
            _ => BlockType::F32,
        }
    };
    let planned: Vec<Planned> = all
        .into_iter()
        .map(|part| {
            let kind = match (target.kind, part.role) {
                (_, Role::Vector) if target.format == Format::Gguf => BlockType::F32,
                (Some(kind), _) => mixed(kind, &part, config),
                (None, _) => kind_in_file(&part),
            };
            // Without a type asked for, floats are the nearest that safetensors has.
            let floats = target.format == Format::Safetensors && !kinds.contains(&kind);
            Planned { kind: if floats { BlockType::F32 } else { kind }, part }
        })
        .collect();
    let parameters = planned.iter().map(Planned::parameters).sum::<u64>();
    let bytes = planned.iter().map(Planned::bytes).sum::<u64>();
    match target.format {
        Format::Gguf => {
            let mut described = tokenizer.to_gguf()?;
            // A vocabulary that was padded for the machines it was trained on.
            for id in described.tokens.len()..config.vocab_size {
                described.tokens.push(format!("[PAD{id}]").into());
                described.types.push(5);
                if !described.scores.is_empty() {
                    described.scores.push(0.0);
                }
            }
            let metadata =
                gguf::metadata(&name(checkpoint), config, described, file_type(target.kind, &planned));
            atomic::create(out, |file| write_gguf(checkpoint, config, &metadata, &planned, file, ctx))?;
        }
        Format::Safetensors => {
            atomic::create_folder(out, |folder| {
                tokenizer.save(folder)?;
                write_folder(checkpoint, config, (&planned, target.shard_bytes), folder, ctx)
            })?;
        }
    }
    let mut types = BTreeMap::new();
    planned.iter().for_each(|part| *types.entry(part.kind.name()).or_default() += 1);
    Ok(Summary {
        path: out.to_path_buf(),
        tensors: planned.len(),
        parameters,
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / parameters as f64,
        types,
    })
}

/// What the model is called: by its own file, or by the name of its folder.
fn name(checkpoint: &Checkpoint) -> String {
    let own = checkpoint.gguf().and_then(|file| file.metadata.get("general.name"));
    if let Some(herd_infer::gguf::Value::Text(name)) = own {
        return name.clone();
    }
    let path = checkpoint.path().canonicalize().unwrap_or_else(|_| checkpoint.path().to_path_buf());
    let last = if path.is_dir() { path.file_name() } else { path.file_stem() };
    last.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The number type of one tensor, mixed as llama.cpp does: what the logits are made of is kept finer, in `q4_k` half
/// of the values and last matrices also; and rows that are not whole blocks of 256 get the next larger type of 32.
fn mixed(kind: BlockType, part: &Part, c: &LlamaConfig) -> BlockType {
    let quantised = !matches!(kind, BlockType::F32 | BlockType::F16 | BlockType::Bf16);
    if !quantised {
        return kind;
    }
    let layers = c.num_hidden_layers;
    let finer = |i: usize| i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2;
    let gives_logits = match part.role {
        Role::Output => true,
        Role::Embedding => c.tie_word_embeddings,
        _ => false,
    };
    let kind = match (kind, part.role) {
        (BlockType::Q8_0, _) => kind,
        _ if gives_logits => BlockType::Q6K,
        (BlockType::Q4K, Role::Values(i) | Role::Down(i)) if finer(i) => BlockType::Q6K,
        _ => kind,
    };
    let whole = |kind: BlockType| part.columns().is_multiple_of(kind.block().0);
    match kind {
        _ if whole(kind) => kind,
        BlockType::Q4K if whole(BlockType::Q5_0) => BlockType::Q5_0,
        BlockType::Q6K if whole(BlockType::Q8_0) => BlockType::Q8_0,
        _ => BlockType::F16,
    }
}

/// llama.cpp's number of the mixture, which it shows and otherwise ignores.
fn file_type(asked: Option<BlockType>, planned: &[Planned]) -> u32 {
    let kind = asked.or_else(|| planned.iter().find(|p| p.part.role == Role::Matrix).map(|p| p.kind));
    match kind {
        Some(BlockType::F16) => 1,
        Some(BlockType::Q4_0) => 2,
        Some(BlockType::Q4_1) => 3,
        Some(BlockType::Q8_0) => 7,
        Some(BlockType::Q5_0) => 8,
        Some(BlockType::Q5_1) => 9,
        Some(BlockType::Q2K) => 10,
        Some(BlockType::Q3K) => 12,
        Some(BlockType::Q4K) => 15,
        Some(BlockType::Q5K) => 17,
        Some(BlockType::Q6K) => 18,
        Some(BlockType::Bf16) => 32,
        Some(BlockType::F32) | None => 0,
    }
}

fn write_gguf(
    checkpoint: &Checkpoint,
    config: &LlamaConfig,
    metadata: &[(String, gguf::Value)],
    planned: &[Planned],
    out: &mut impl Write,
    ctx: &Context,
) -> Result<(), Error> {
    let divisors = gguf::rope_divisors(config);
    let mut entries: Vec<gguf::Entry> = planned
        .iter()
        .map(|p| gguf::Entry { name: p.part.gguf.clone(), shape: p.part.shape.clone(), kind: p.kind })
        .collect();
    if let Some(divisors) = &divisors {
        let (name, shape) = ("rope_freqs.weight".into(), vec![divisors.len()]);
        entries.insert(0, gguf::Entry { name, shape, kind: BlockType::F32 });
    }
    gguf::write_head(out, metadata, &entries)?;
    let pad = |out: &mut dyn Write, written: usize| {
        out.write_all(&[0; gguf::ALIGNMENT][..written.next_multiple_of(gguf::ALIGNMENT) - written])
    };
    if let Some(divisors) = divisors {
        let bytes: Vec<u8> = divisors.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write_all(&bytes)?;
        pad(out, bytes.len())?;
    }
    let task = ctx.progress.task("convert", Some(planned.len() as u64), "tensors");
    for p in planned {
        ctx.progress.detail(format!("{} {}", p.part.gguf, p.kind.name()));
        let written = write_part(checkpoint, p, Format::Gguf, out, ctx)?;
        pad(out, written)?;
        task.add(1);
    }
    Ok(())
}

fn write_folder(
    checkpoint: &Checkpoint,
    config: &LlamaConfig,
    (planned, shard_bytes): (&[Planned], u64),
    folder: &Path,
    ctx: &Context,
) -> Result<(), Error> {
    let kind = planned.iter().find(|p| p.part.role == Role::Matrix).map(|p| p.kind);
    let torch_dtype = match kind {
        Some(BlockType::F16) => TorchDtype::Float16,
        Some(BlockType::Bf16) => TorchDtype::Bfloat16,
        _ => TorchDtype::Float32,
    };
    let config = LlamaConfig { torch_dtype, ..config.clone() };
    let generation = serde_json::json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids,
    });
    atomic::write_json(&folder.join("generation_config.json"), &generation)?;
    atomic::write_json(&folder.join("config.json"), &config.to_json("LlamaForCausalLM"))?;
    let shards = shards(planned, shard_bytes);
    let file_name = |shard: usize| match shards.len() {
        1 => "model.safetensors".to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    let task = ctx.progress.task("convert", Some(planned.len() as u64), "tensors");
    for (shard, planned_here) in shards.iter().enumerate() {
        atomic::create(&folder.join(file_name(shard)), |out| {
            let entry = |p: &Planned| safetensors::Entry {
                name: p.part.hf.clone(),
                shape: p.part.shape.clone(),
                kind: p.kind,
            };
            let entries: Vec<_> = planned_here.iter().map(entry).collect();
            safetensors::write_head(out, &entries)?;
            for p in *planned_here {
                ctx.progress.detail(format!("{} {}", p.part.hf, p.kind.name()));
                write_part(checkpoint, p, Format::Safetensors, out, ctx)?;
                task.add(1);
            }
            Ok::<(), Error>(())
        })?;
    }
    if shards.len() > 1 {
        let place = |(shard, planned): (usize, &&[Planned])| {
            let name = file_name(shard);
            planned.iter().map(|p| (p.part.hf.clone(), name.clone())).collect::<Vec<_>>()
        };
        // Sorted, as Transformers writes it.
        let places: BTreeMap<String, String> = shards.iter().enumerate().flat_map(place).collect();
        let index = serde_json::json!({
            "metadata": {
                "total_parameters": planned.iter().map(Planned::parameters).sum::<u64>(),
                "total_size": planned.iter().map(Planned::bytes).sum::<u64>(),
            },
            "weight_map": places,
        });
        atomic::write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    Ok(())
}

/// The tensors of each file: as many, in their order, as `most` bytes allow, but at least one.
fn shards(planned: &[Planned], most: u64) -> Vec<&[Planned]> {
    let (mut shards, mut first, mut bytes) = (Vec::new(), 0, 0);
    for (i, p) in planned.iter().enumerate() {
        if i > first && bytes + p.bytes() > most {
            shards.push(&planned[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes += p.bytes();
    }
    shards.push(&planned[first..]);
    shards
}

/// Writes one tensor, a stretch of rows at a time; returns its size.
fn write_part(
    checkpoint: &Checkpoint,
    Planned { part, kind }: &Planned,
    order: Format,
    out: &mut impl Write,
    ctx: &Context,
) -> Result<usize, Error> {
    let (weights, size) = kind.block();
    let (rows, columns) = (part.rows(), part.columns());
    let row_bytes = columns / weights * size;
    let step = (STRETCH / columns).clamp(1, rows);
    let (mut numbers, mut bytes) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(step) {
        ctx.stop.check()?;
        let range = first..(first + step).min(rows);
        if order == checkpoint.format()
            && let Some(stored) = checkpoint.stored(part, *kind, range.clone())
        {
            out.write_all(stored)?;
            continue;
        }
        if !is_written(*kind) {
            let name = kind.name();
            return Err(Error::at(
                checkpoint.path(),
                format!("`{}` is {name}, which is read but not written; name a type with --type", part.gguf),
            ));
        }
        numbers.resize(range.len() * columns, 0.0);
        bytes.resize(range.len() * row_bytes, 0);
        checkpoint.read(part, range, order, &mut numbers)?;
        quantise(*kind, &numbers, &mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(rows * row_bytes)
}
