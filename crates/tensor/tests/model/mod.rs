//! A small Llama, for tests of what holds across operators.

use herd_tensor::{Attention, Grads, Init, ParamId, ParamSpec, Params, Tape, Var};

pub struct Sizes {
    pub vocabulary: usize,
    pub d: usize,
    pub f: usize,
    pub layers: usize,
}

pub struct Model {
    pub embed: ParamId,
    pub head: ParamId,
    pub norm: ParamId,
    pub layers: Vec<[ParamId; 6]>,
}

pub fn model(sizes: &Sizes, packed: usize, attended: usize) -> (Model, Params) {
    let Sizes { vocabulary, d, f, layers } = *sizes;
    let matrix = |name: String, out: usize, inputs: usize| {
        ParamSpec::new(name, &[out, inputs], Init::Normal { std: (inputs as f32).powf(-0.5) })
    };
    let mut specs = vec![
        ParamSpec::new("embed", &[vocabulary, d], Init::Normal { std: 1.0 }),
        matrix("head".into(), vocabulary, d),
        ParamSpec::new("norm", &[d], Init::Ones),
    ];
    for l in 0..layers {
        specs.push(ParamSpec::new(format!("{l}.attn_norm"), &[d], Init::Ones));
        specs.push(matrix(format!("{l}.wqkv"), packed, d));
        specs.push(matrix(format!("{l}.wo"), d, attended));
        specs.push(ParamSpec::new(format!("{l}.ffn_norm"), &[d], Init::Ones));
        specs.push(matrix(format!("{l}.w_gate_up"), 2 * f, d));
        specs.push(matrix(format!("{l}.w_down"), d, f));
    }
    let mut params = Params::new(specs);
    params.initialize(3);
    let id = |name: &str| params.id(name).unwrap();
    let names = ["attn_norm", "wqkv", "wo", "ffn_norm", "w_gate_up", "w_down"];
    let layers = (0..layers).map(|l| names.map(|name| id(&format!("{l}.{name}")))).collect();
    (Model { embed: id("embed"), head: id("head"), norm: id("norm"), layers }, params)
}

impl Model {
    fn block(tape: &mut Tape, x: &Var, layer: &[ParamId; 6], call: &Attention) -> Var {
        let [attn_norm, wqkv, wo, ffn_norm, w_gate_up, w_down] = *layer;
        let h = tape.rms_norm(x, attn_norm, 1e-5);
        let h = tape.linear(&h, wqkv);
        let h = tape.attention(&h, call);
        let x = tape.linear_add(&h, wo, x);
        let h = tape.rms_norm(&x, ffn_norm, 1e-5);
        let h = tape.linear(&h, w_gate_up);
        let h = tape.swiglu(&h);
        tape.linear_add_last(&h, w_down, &x)
    }

    pub fn hidden(&self, tape: &mut Tape, tokens: &[u32], call: &Attention, recompute: bool) -> Var {
        let mut x = tape.embedding(self.embed, tokens);
        for layer in &self.layers {
            x = if recompute {
                let (layer, call) = (*layer, call.clone());
                tape.segment(&[&x], move |tape, x| Self::block(tape, &x[0], &layer, &call))
            } else {
                Self::block(tape, &x, layer, call)
            };
        }
        tape.rms_norm(&x, self.norm, 1e-5)
    }

    /// Loss of predicting each next token, and its gradients (added to `grads`).
    #[allow(dead_code)]
    pub fn step(
        &self,
        params: &Params,
        grads: &mut Grads,
        tokens: &[u32],
        call: &Attention,
        recompute: bool,
    ) -> f32 {
        let n = tokens.len() - 1;
        let mut tape = Tape::new(params);
        let h = self.hidden(&mut tape, &tokens[..n], call, recompute);
        tape.cross_entropy_backward(h, self.head, &tokens[1..], &vec![1.0 / n as f32; n], grads)
    }
}
