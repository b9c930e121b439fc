//! `herd doctor`: what this machine has to compute with, and what is missing.

use herd_tensor::cuda::{Card, CudnnReport, Driver, E4m3Products, Kind, Library, Missing, search_folders};
use herd_tensor::isa;

/// Prints the processor, the driver, the CUDA libraries, the cards, and what attention on the first card is computed by, which
/// takes seconds the first time: small problems are computed there; and one in fp8. Measures nothing, and a machine without a card is no
/// error.
pub fn run() {
    println!("processor");
    println!("  cores           {}", std::thread::available_parallelism().map_or(1, usize::from));
    let sets: Vec<String> =
        isa::ALL.into_iter().filter(|i| i.is_present()).map(|i| format!("{i:?}")).collect();
    println!("  kernels for     {:?} (of {})", isa::active(), sets.join(", "));
    if let Some(bytes) = memory() {
        println!("  memory          {}", gibibytes(bytes));
    }

    println!("\nNVIDIA");
    let driver = Driver::open();
    let mut any_card = false;
    match &driver {
        Ok(driver) => {
            print_library(Kind::Driver, Ok(driver.library()));
            match driver.cards() {
                Ok(cards) if cards.is_empty() => println!("  cards           none"),
                Ok(cards) => cards.iter().enumerate().for_each(|(i, card)| {
                    any_card = true;
                    let (major, minor) = card.capability;
                    let memory = gibibytes(card.memory);
                    let old = if major < 8 { ", too old: bf16 needs 8.0" } else { "" };
                    println!(
                        "  card {i:<10} {}, {memory}, {} processors, capability {major}.{minor}{old}",
                        card.name, card.processors
                    );
                }),
                Err(error) => println!("  cards           none: {error}"),
            }
        }
        Err(missing) => print_library(Kind::Driver, Err(missing)),
    }
    for kind in Kind::ALL.into_iter().filter(|k| *k != Kind::Driver) {
        let library = Library::open(kind);
        print_library(kind, library.as_ref());
    }
    if any_card {
        match Card::open(0) {
            Ok(card) => {
                print_attention(&card.cudnn_report());
                print_fp8(&card);
            }
            Err(error) => println!("  attention       card 0 cannot be used: {error}"),
        }
    }
    println!("\nlooked in         the system's folders and LD_LIBRARY_PATH");
    search_folders().iter().for_each(|folder| println!("                  {}", folder.display()));
    println!(
        "\nA card is used where it is asked for: `device = \"cuda\"` in [pretrain], `--device cuda` of the commands that\n\
         open a model, and of `herd bench`. It needs the driver, NVRTC and cuBLASLt; attention in training is faster with\n\
         cuDNN. Everything else runs on the processor."
    );
}

/// What attention on card 0 is computed by.
fn print_attention(report: &CudnnReport) {
    let (version, _) = match &report.library {
        Ok(found) => found,
        Err(reason) => {
            println!("  attention       by Herd's kernels: no cuDNN, {reason}");
            return;
        }
    };
    let used = report.classes.iter().filter_map(|(_, verdict)| verdict.as_ref().ok());
    let most = used.clone().fold(0f32, |most, difference| most.max(*difference));
    println!(
        "  attention       by cuDNN {version} in {} of {} cases, at most {most:.1e} from Herd's kernels",
        used.count(),
        report.classes.len()
    );
    for (class, verdict) in &report.classes {
        if let Err(reason) = verdict {
            println!("                  by Herd's kernels: {class} ({reason})");
        }
    }
}

/// Whether `--weights fp8` is possible on card 0, and what scales the rows.
fn print_fp8(card: &Card) {
    let text = match card.e4m3_products() {
        Ok(Ok(E4m3Products::ScaledAndAdded)) => "by cuBLASLt, rows and columns scaled by it".into(),
        Ok(Ok(E4m3Products::Scaled)) => {
            "by cuBLASLt, rows and columns scaled by it, added by Herd's kernels".into()
        }
        Ok(Ok(E4m3Products::Unscaled)) => "by cuBLASLt, rows and columns scaled by Herd's kernels".into(),
        Ok(Err(reason)) => format!("no: {reason}"),
        Err(error) => format!("no: {error}"),
    };
    println!("  fp8             {text}");
}

fn print_library(kind: Kind, library: Result<&Library, &Missing>) {
    match library {
        Ok(library) => {
            let version = library.version().unwrap_or_else(|| "of unknown version".into());
            let version = if kind == Kind::Driver { format!("for CUDA {version}") } else { version };
            let path = library.path().map(|p| p.display().to_string()).unwrap_or_default();
            println!("  {:<15} {version}  {path}", kind.name());
        }
        Err(missing) => println!("  {:<15} {missing}", kind.name()),
    }
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
