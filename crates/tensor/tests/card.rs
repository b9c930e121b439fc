//! A card's operators against the CPU's, on a card made of the processor (or a real one):
//!
//! ```sh
//! crates/tensor/tests/card_of_cpu/build.sh FOLDER
//! HERD_CUDA_LIBS=FOLDER HERD_CUDA_POISON=1 cargo test --release -p herd-tensor --test card -- --ignored
//! ```

use herd_tensor::cuda::{Card, DType, check};

const NEEDED: &str = "needs a card: the folder of card_of_cpu/build.sh in HERD_CUDA_LIBS";

fn card() -> Card {
    Card::open(0).unwrap_or_else(|error| panic!("{NEEDED}: {error}"))
}

fn operators_agree(dtype: DType) {
    let all = check::operators(card(), dtype).unwrap();
    for c in &all {
        let sign = if c.agrees() { "ok  " } else { "FAIL" };
        println!("{sign} {:36} values {:.1e}, gradients {:.1e}", c.name, c.value, c.gradient);
    }
    assert!(all.len() > 20 && all.iter().all(check::Compared::agrees));
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn operators_agree_in_f32() {
    operators_agree(DType::F32);
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn operators_agree_in_bf16() {
    operators_agree(DType::Bf16);
}
