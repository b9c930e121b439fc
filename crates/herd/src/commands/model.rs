//! What the commands that open a model share.

use crate::folder::model_folder;
use herd_infer::{ActivationType, CacheType, Device, Generator, Settings, WeightType};
use std::io::Read;
use std::path::Path;

/// Where and in how many bits a model computes.
#[derive(clap::Args, Clone, Copy)]
pub struct Computing {
    /// Where to compute: the processor, or the first NVIDIA card.
    #[arg(long, default_value = "cpu", value_parser = device, value_name = "cpu|cuda")]
    device: Device,
    /// How the cache keeps keys and values; auto is f16 for weights of 16 bits or fewer, f32 for others. (A card has auto:
    /// bf16 and f32.)
    #[arg(long, default_value = "auto", value_parser = cache_type, value_name = "auto|f32|f16|q8")]
    cache_type: CacheType,
    /// What weights in bf16 are multiplied with; auto is bf16. (Quantised weights always take bytes, others f32; on a card
    /// they are bf16 too, and everything is f32 with f32.)
    #[arg(long, default_value = "auto", value_parser = activation_type, value_name = "auto|f32")]
    activations: ActivationType,
    /// What a card keeps the weights of feed-forward layers as; auto is as all others. (With fp8 those of all layers but the first
    /// and last are e4m3 with a scale for each row, and more than 8 rows of activations too; Ada, Hopper and later.)
    #[arg(long, default_value = "auto", value_parser = weight_type, value_name = "auto|fp8")]
    weights: WeightType,
}

impl Computing {
    /// Settings with this device and these types.
    pub fn settings(self) -> Settings {
        let Self { device, cache_type, activations, weights } = self;
        Settings { device, cache_type, activations, weights, ..Settings::default() }
    }
}

/// `cpu` or `cuda`.
pub fn device(name: &str) -> Result<Device, String> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda),
        _ => Err("there are cpu and cuda".into()),
    }
}

fn cache_type(name: &str) -> Result<CacheType, String> {
    match name {
        "auto" => Ok(CacheType::Auto),
        "f32" => Ok(CacheType::F32),
        "f16" => Ok(CacheType::F16),
        "q8" => Ok(CacheType::Q8),
        _ => Err("there are auto, f32, f16 and q8".into()),
    }
}

/// `auto` or `f32`.
pub fn activation_type(name: &str) -> Result<ActivationType, String> {
    match name {
        "auto" => Ok(ActivationType::Auto),
        "f32" => Ok(ActivationType::F32),
        _ => Err("there are auto and f32".into()),
    }
}

/// `auto` or `fp8`.
pub fn weight_type(name: &str) -> Result<WeightType, String> {
    match name {
        "auto" => Ok(WeightType::Auto),
        "fp8" => Ok(WeightType::Fp8),
        _ => Err("there are auto and fp8".into()),
    }
}

/// Opens a GGUF file, a model folder, or the most finished model of a run folder, for one answer at a time. A card says what
/// it holds.
pub fn open(path: &Path, computing: Computing) -> anyhow::Result<Generator> {
    let settings = Settings { max_sequences: 1, ..computing.settings() };
    let generator = Generator::open(&model_folder(path)?, settings)?;
    if let Some(card) = generator.device() {
        eprintln!("{card}");
    }
    Ok(generator)
}

/// The text of a file; `-` is standard input.
pub fn text_of(path: &Path) -> anyhow::Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        bytes
    } else {
        herd_run::atomic::read(path)?
    };
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{}: not UTF-8 at byte {at}; convert the file first", path.display())
    })
}
