//! The kernels of every instruction set that this machine has agree with the reference. One test, because the choice is global.

#[path = "check/cases.rs"]
mod cases;
mod check;

use herd_tensor::isa::{self, force};

#[test]
fn every_instruction_set_passes_every_case() {
    for isa in isa::ALL {
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
