//! The portable, AVX2 and AVX-512 kernels all agree with the reference. One test, because the choice is global.

#[path = "check/cases.rs"]
mod cases;
mod check;

use herd_tensor::isa::{Isa, force};

#[test]
fn every_instruction_set_passes_every_case() {
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        println!("{isa:?} -> {:?}", force(isa));
        cases::embedding_and_selection();
        cases::linear();
        cases::rms_norm();
        cases::rope();
        cases::swiglu();
        cases::attention();
        cases::attention_across_blocks();
        cases::losses();
        cases::segment();
    }
}
