//! A one-layer Llama against PyTorch (tests/golden/make_golden.py): hidden states, loss, log-probabilities, gradients.

mod check;
mod model;

use check::assert_close;
use herd_tensor::{Attention, AttentionShape, Grads, Llama3Scaling, RopeTable, Segments, Tape};
use model::{Sizes, model};
use safetensors::SafeTensors;
use std::sync::Arc;

struct Golden(Vec<u8>);

impl Golden {
    fn get(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("golden file lacks {name}"));
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn exact(&self, name: &str) -> Vec<f64> {
        self.get(name).iter().map(|v| f64::from(*v)).collect()
    }
    fn ints(&self, name: &str) -> Vec<u32> {
        self.get(name).iter().map(|v| *v as u32).collect()
    }
}

const SCALING: Llama3Scaling =
    Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };

#[test]
fn a_layer_matches_pytorch() {
    let golden = Golden(
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/golden.safetensors")).unwrap(),
    );
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 8 };
    let (model, mut params) =
        model(&Sizes { vocabulary: 97, d: 48, f: 40, layers: 1 }, shape.packed_width(), 48);
    let specs = params.specs().to_vec();
    for spec in &specs {
        let id = params.id(&spec.name).unwrap();
        params.value_mut(id).copy_from_slice(&golden.get(&format!("param.{}", spec.name)));
    }
    let (tokens, weights) = (golden.ints("tokens"), golden.get("weights"));
    let lengths: Vec<usize> = golden.ints("lengths").iter().map(|n| *n as usize).collect();
    let table = RopeTable::new(8, 500_000.0, Some(SCALING), 1000);
    let call = Attention {
        shape,
        segments: Arc::new(Segments::documents(&lengths)),
        rope: Some(table.at(&golden.ints("positions"))),
    };
    let n = tokens.len() - 1;
    for recompute in [false, true] {
        let mut tape = Tape::new(&params);
        let hidden = model.hidden(&mut tape, &tokens[..n], &call, recompute);
        assert_close("hidden", hidden.value().as_slice(), &golden.exact("hidden"), 1e-5);
        let logprobs = tape.token_logprobs(&hidden, model.head, &tokens[1..]);
        assert_close("logprobs", logprobs.value().as_slice(), &golden.exact("logprobs"), 1e-5);
        let mut grads = Grads::new(&params);
        let loss = tape.cross_entropy_backward(hidden, model.head, &tokens[1..], &weights, &mut grads);
        assert_close("loss", &[loss], &golden.exact("loss"), 1e-5);
        for spec in &specs {
            let grad = grads.of(params.id(&spec.name).unwrap());
            assert_close(&spec.name, grad, &golden.exact(&format!("grad.{}", spec.name)), 2e-5);
        }
    }
}

#[test]
fn scaled_frequencies_match_transformers() {
    let golden = Golden(
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/golden.safetensors")).unwrap(),
    );
    // The angle of position 1 is the frequency itself.
    let table = RopeTable::new(8, 500_000.0, Some(SCALING), 2);
    let angles: Vec<f32> = table.row(1).1.iter().map(|sin| sin.asin()).collect();
    assert_close("frequency", &angles[1..], &golden.exact("inv_freq")[1..], 1e-6);
    // Beyond the first they are below 1, so the arcsine is unambiguous; the first is 1 radian.
    assert_close("frequency 0", &angles[..1], &[1.0], 1e-6);
}
