//! Every operator on a card beside the CPU: random inputs, values and all gradients compared. The tests run it on a card made
//! of the processor, `herd bench card` on the real one; with `HERD_CUDA_POISON` set whatever an operator forgot to write is
//! NaN.

use super::{Card, DType, Error};
use crate::{
    Attention, AttentionShape, CounterRng, Grads, Init, ParamId, ParamSpec, Params, RopeTable, Segment,
    Segments, Tape, Tensor, Var,
};
use std::sync::Arc;

/// One operator on both.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The operator and its case.
    pub name: String,
    /// Type of activations on the card; the CPU computes in f32 from the same rounded inputs.
    pub dtype: DType,
    /// Largest difference of a value, relative to the largest value.
    pub value: f64,
    /// The same of the gradients.
    pub gradient: f64,
    /// What both may be at most.
    pub tolerance: f64,
}

impl Compared {
    /// Whether card and CPU agree. NaN never does.
    pub fn agrees(&self) -> bool {
        self.value <= self.tolerance && self.gradient <= self.tolerance
    }
}

/// Shapes of the parameters a case reads, and what it computes of them.
struct Case<'a> {
    name: &'a str,
    shapes: &'a [&'a [usize]],
    forward: &'a dyn Fn(&mut Tape, &[ParamId]) -> Var,
}

/// All rows of a matrix parameter: inputs are parameters, so that every gradient lands in one place.
fn rows(tape: &mut Tape, w: ParamId) -> Var {
    let ids: Vec<u32> = (0..tape.params().shape(w)[0] as u32).collect();
    tape.embedding(w, &ids)
}

fn difference(card: &[f32], cpu: &[f32]) -> f64 {
    assert_eq!(card.len(), cpu.len(), "lengths");
    let largest = cpu.iter().fold(1e-6f64, |a, b| a.max(f64::from(b.abs())));
    card.iter().zip(cpu).fold(0.0, |worst: f64, (a, b)| {
        let error = f64::from((a - b).abs()) / largest;
        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
    })
}

impl Case<'_> {
    fn compare(&self, card: Card, dtype: DType) -> Result<Compared, Error> {
        let specs = self.shapes.iter().enumerate();
        let specs = specs.map(|(i, shape)| {
            // Products stay of the order of 1; vectors are scales of norms.
            let std = if shape.len() == 1 { 1.0 } else { 2.0 / (shape[1] as f32).powf(0.25) };
            ParamSpec::new(format!("p{i}"), shape, Init::Normal { std })
        });
        let mut params = Params::new(specs.collect());
        params.initialize(7);
        if dtype == DType::Bf16 {
            let ids: Vec<ParamId> = params.ids().filter(|id| params.shape(*id).len() > 1).collect();
            for id in ids {
                params.value_mut(id).iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
            }
        }
        let mut on_card = params.clone();
        on_card.to_card(card, dtype)?;
        let run = |params: &Params| {
            let ids: Vec<ParamId> = params.ids().collect();
            let mut tape = Tape::new(params);
            let out = (self.forward)(&mut tape, &ids);
            let value = out.value().as_slice().to_vec();
            let rng = CounterRng::new(11, "seed");
            let seed: Vec<f32> = (0..value.len()).map(|i| rng.normal(i as u64) as f32).collect();
            let seed = seed.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            let seed = Tensor::from_vec(seed, out.shape());
            let mut grads = Grads::new(params);
            tape.backward_from([(out, seed)], &mut grads);
            let grads: Vec<Vec<f32>> = ids.iter().map(|id| grads.of(*id).to_vec()).collect();
            (value, grads)
        };
        let (cpu, card) = (run(&params), run(&on_card));
        let gradients = card.1.iter().zip(&cpu.1).map(|(card, cpu)| difference(card, cpu));
        Ok(Compared {
            name: self.name.into(),
            dtype,
            value: difference(&card.0, &cpu.0),
            gradient: gradients.fold(0.0, f64::max),
            tolerance: if dtype == DType::F32 { 1e-4 } else { 2e-2 },
        })
    }
}

/// Compares every operator.
pub fn operators(card: Card, dtype: DType) -> Result<Vec<Compared>, Error> {
    let mut all = rowwise(card, dtype)?;
    all.extend(losses(card, dtype)?);
    all.extend(attentions(card, dtype)?);
    Ok(all)
}

fn rowwise(card: Card, dtype: DType) -> Result<Vec<Compared>, Error> {
    let table = RopeTable::new(40, 10_000.0, None, 99);
    let positions = [0, 98, 3, 4, 4];
    let cases = [
        Case {
            name: "embedding, ids repeated",
            shapes: &[&[6, 70]],
            forward: &|tape, p| tape.embedding(p[0], &[2, 0, 2, 5, 2]),
        },
        Case {
            name: "select_rows, rows repeated",
            shapes: &[&[5, 300]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                let some = tape.select_rows(&x, &[4, 1, 4, 0, 2]);
                tape.add(&some, &x)
            },
        },
        Case {
            name: "linear",
            shapes: &[&[17, 40], &[72, 40]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.linear(&x, p[1])
            },
        },
        Case {
            name: "linear_add, twice the same input",
            shapes: &[&[9, 48], &[64, 48], &[9, 64], &[64, 48]],
            forward: &|tape, p| {
                let (x, residual) = (rows(tape, p[0]), rows(tape, p[2]));
                let y = tape.linear_add(&x, p[1], &residual);
                tape.linear_add(&x, p[3], &y)
            },
        },
        Case {
            name: "rms_norm",
            shapes: &[&[130, 300], &[300]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                let y = tape.rms_norm(&x, p[1], 1e-5);
                tape.add(&y, &x)
            },
        },
        Case {
            name: "rope",
            shapes: &[&[5, 120]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.rope(&x, &table.at(&positions))
            },
        },
        Case {
            name: "swiglu into a product",
            shapes: &[&[7, 320], &[24, 160]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                let h = tape.swiglu(&x);
                tape.linear(&h, p[1])
            },
        },
        Case {
            name: "a block computed again",
            shapes: &[&[33, 64], &[64], &[192, 64], &[64, 96]],
            forward: &|tape, p| {
                let (x, p) = (rows(tape, p[0]), p.to_vec());
                tape.segment(&[&x], move |tape, inputs| {
                    let h = tape.rms_norm(&inputs[0], p[1], 1e-5);
                    let h = tape.linear(&h, p[2]);
                    let h = tape.swiglu(&h);
                    tape.linear_add(&h, p[3], &inputs[0])
                })
            },
        },
    ];
    cases.iter().map(|case| case.compare(card, dtype)).collect()
}

fn losses(card: Card, dtype: DType) -> Result<Vec<Compared>, Error> {
    let targets = [3, 0, 1000, 4, 4];
    let mut all = vec![
        Case {
            name: "token_logprobs",
            shapes: &[&[5, 64], &[1001, 64]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.token_logprobs(&x, p[1], &targets)
            },
        }
        .compare(card, dtype)?,
    ];
    let weights = [("all rows", [0.2, 1.0, 0.5, 1.0, 2.0]), ("some rows", [0.0, 1.0, 0.0, -0.5, 2.0])];
    for (name, weights) in weights {
        let case = Case {
            name: &format!("linear_cross_entropy, {name}"),
            shapes: &[&[5, 64], &[1001, 64]],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.linear_cross_entropy(&x, p[1], &targets, &weights)
            },
        };
        all.push(case.compare(card, dtype)?);
    }
    Ok(all)
}

fn attentions(card: Card, dtype: DType) -> Result<Vec<Compared>, Error> {
    let shared = Segments::new(vec![
        Segment { rows: 0..9, prefix: 0..0 },
        Segment { rows: 9..80, prefix: 0..0 },
        Segment { rows: 80..100, prefix: 9..80 },
        Segment { rows: 100..141, prefix: 20..70 },
    ]);
    let layouts = [
        ("one row", Segments::causal(1)),
        ("causal", Segments::causal(200)),
        ("documents", Segments::documents(&[3, 61, 64, 1, 70])),
        ("shared prefix", shared),
    ];
    let mut all = Vec::new();
    for (head_dim, heads, kv_heads) in [(40, 4, 2), (64, 4, 2), (128, 3, 1)] {
        for (name, segments) in &layouts {
            let n = segments.rows();
            let shape = AttentionShape { heads, kv_heads, head_dim };
            let positions: Vec<u32> = (0..n as u32).collect();
            let rope =
                (*name != "documents").then(|| RopeTable::new(head_dim, 10_000.0, None, n).at(&positions));
            let call = Attention { shape, segments: Arc::new(segments.clone()), rope };
            let case = Case {
                name: &format!("attention {head_dim}, {name}"),
                shapes: &[&[n, shape.packed_width()]],
                forward: &|tape, p| {
                    let x = rows(tape, p[0]);
                    tape.attention(&x, &call)
                },
            };
            all.push(case.compare(card, dtype)?);
        }
    }
    Ok(all)
}
