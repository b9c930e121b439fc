//! Every operator against its f64 reference and finite differences, and what holds for all of them.

#[path = "check/cases.rs"]
mod cases;
mod check;

#[test]
fn embedding_and_selection() {
    cases::embedding_and_selection();
}

#[test]
fn linear() {
    cases::linear();
}

#[test]
fn rms_norm() {
    cases::rms_norm();
}

#[test]
fn rope() {
    cases::rope();
}

#[test]
fn swiglu() {
    cases::swiglu();
}

#[test]
fn attention() {
    cases::attention();
}

#[test]
fn attention_across_blocks() {
    cases::attention_across_blocks();
}

#[test]
fn losses() {
    cases::losses();
}

#[test]
fn segment() {
    cases::segment();
}
