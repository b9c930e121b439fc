//! Wrong shapes are reported with the operator and both sides.

use herd_tensor::{
    Attention, AttentionShape, Grads, Init, ParamId, ParamSpec, Params, RopeTable, Segments, Tape, Tensor,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

fn message(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("should have panicked");
    panic
        .downcast_ref::<String>()
        .cloned()
        .unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap().to_string())
}

fn params() -> (Params, Vec<ParamId>) {
    let spec = |name: &str, shape: &[usize]| ParamSpec::new(name, shape, Init::Ones);
    let params = Params::new(vec![spec("embed", &[10, 8]), spec("w", &[4, 6]), spec("norm", &[8])]);
    let ids = params.ids().collect();
    (params, ids)
}

#[test]
fn shapes_ids_and_targets_are_named() {
    let (params, p) = params();
    let mut tape = Tape::new(&params);
    let x = tape.embedding(p[0], &[1, 2]);
    let expect = |found: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| found.contains(part)), "message was: {found}");
    };
    expect(
        message(|| drop(Tape::new(&params).embedding(p[0], &[10]))),
        &["embedding", "id 10", "vocabulary of 10"],
    );
    expect(message(|| drop(tape.linear(&x, p[1]))), &["linear", "w has shape [4, 6]", "8 wide"]);
    expect(message(|| drop(tape.select_rows(&x, &[2]))), &["select_rows", "row 2 of 2"]);
    expect(message(|| drop(tape.token_logprobs(&x, p[0], &[1]))), &["token_logprobs", "2 rows, 1 targets"]);
    expect(
        message(|| drop(tape.linear_cross_entropy(&x, p[0], &[1, 99], &[1.0, 1.0]))),
        &["target 99 of row 1", "vocabulary of 10"],
    );
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 2 };
    let call = Attention { shape, segments: Arc::new(Segments::causal(3)), rope: None };
    expect(message(|| drop(tape.attention(&x, &call))), &["attention", "segments"]);
    expect(
        message(|| drop(RopeTable::new(2, 1e4, None, 4).at(&[0, 4]))),
        &["row 1", "position 4", "ends at 4"],
    );
}

#[test]
fn ignored_rows_may_have_any_target() {
    let (params, p) = params();
    let mut tape = Tape::new(&params);
    let x = tape.embedding(p[0], &[1, 2]);
    let loss = tape.linear_cross_entropy(&x, p[0], &[u32::MAX, 3], &[0.0, 1.0]);
    assert!((loss.value().item() - 10f32.ln()).abs() < 1e-5);
}

#[test]
fn a_tape_that_does_not_record_cannot_walk_back_nor_mix() {
    let (params, p) = params();
    let mut quiet = Tape::no_grad(&params);
    let x = quiet.embedding(p[0], &[1]);
    let mut grads = Grads::new(&params);
    let seed = Tensor::zeros(x.shape());
    assert!(message(|| quiet.backward_from([(x.clone(), seed)], &mut grads)).contains("does not record"));
    let mut first = Tape::new(&params);
    let y = first.embedding(p[0], &[1]);
    assert!(message(|| drop(Tape::new(&params).rms_norm(&y, p[2], 1e-5))).contains("another tape"));
}

#[test]
fn not_a_number_reaches_the_loss() {
    let (mut params, p) = params();
    params.value_mut(p[0])[9] = f32::NAN;
    let mut tape = Tape::new(&params);
    let x = tape.embedding(p[0], &[1, 2]);
    let loss = tape.linear_cross_entropy(&x, p[0], &[3, 3], &[1.0, 1.0]);
    assert!(loss.value().item().is_nan());
}

/// The last operator of a block has a value the first time only, so nothing may read it the second time.
#[test]
fn nothing_follows_the_last_operator_of_a_block_that_is_computed_again() {
    let square = ParamSpec::new("w", &[3, 3], Init::Ones);
    let params = Params::new(vec![ParamSpec::new("embed", &[10, 3], Init::Ones), square]);
    let p: Vec<ParamId> = params.ids().collect();
    let walk = |goes_on: bool| {
        let mut tape = Tape::new(&params);
        let (x, w) = (tape.embedding(p[0], &[1, 2]), p[1]);
        let y = tape.segment(&[&x], move |tape, inputs| {
            let last = tape.linear_add_last(&inputs[0], w, &inputs[0]);
            if goes_on { tape.linear(&last, w) } else { last }
        });
        let seed = Tensor::from_slice(&[1.0; 6], &[2, 3]);
        tape.backward_from([(y, seed)], &mut Grads::new(&params));
    };
    walk(false);
    assert!(message(|| walk(true)).contains("follows the last one of a block"));
}
