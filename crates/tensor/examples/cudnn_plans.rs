//! Compiles every graph of attention with the real cuDNN for three cards, none of which needs to be there:
//! `crates/tensor/src/cuda/cudnn/check/run` starts it. Ends with 1 if cuDNN lacks something that an H200 needs.

use herd_tensor::cuda::compile_without_card;

/// Name, capability times 100, processors, shared memory that a block may ask for, memory, its bus in bits, level-2 cache.
const CARDS: [(&str, u32, u32, u32, u64, u32, u32); 3] = [
    ("NVIDIA A100-SXM4-80GB", 800, 108, 166_912, 80_000_000_000, 5120, 41_943_040),
    ("NVIDIA H200", 900, 132, 232_448, 141_000_000_000, 6144, 62_914_560),
    ("NVIDIA B200", 1000, 148, 232_448, 180_000_000_000, 8192, 132_644_864),
];

fn main() {
    let mut missing = false;
    for (name, version, processors, shared, memory, bus, cache) in CARDS {
        let properties = format!(
            r#"{{"deviceName":"{name}","cudaDeviceId":0,"deviceVer":{version},"driverVer":13000,"pciDeviceId":0,
            "multiProcessorCount":{processors},"smCountOrigin":0,"warpSize":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,
            "maxCtasPerSM":32,"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,
            "maxRegistersPerSM":65536,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":{shared},
            "reservedSharedMemoryPerBlock":1024,"oversizedSharedMemoryPerBlock":0,"isTccDriver":0,"supportCoopLaunch":1,
            "totalGlobalMem":{memory},"smClockRateKHz":1980000,"memClockRateKHz":3201000,"memoryBusWidth":{bus},
            "l2CacheSize":{cache}}}"#
        );
        let plans = compile_without_card(&[], &properties).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(1)
        });
        println!("{name}, cuDNN {}", plans[0].version);
        let parts: Vec<u32> = plans[0].version.split('.').filter_map(|part| part.parse().ok()).collect();
        let orders = parts >= vec![9, 26];
        for plan in plans {
            let said = match &plan.plan {
                Ok((engine, workspace)) => format!("engine {engine}, works in {workspace} bytes"),
                Err(error) => error.clone(),
            };
            println!("  {:<64} {:<10} {said}", plan.what, plan.way);
            let needed = plan.way != "ordered" || orders;
            missing |= name.contains("H200") && needed && plan.plan.is_err();
        }
    }
    std::process::exit(i32::from(missing));
}
