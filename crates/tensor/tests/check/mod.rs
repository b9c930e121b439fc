//! Compares an operator with its f64 reference, and its gradients with finite differences of the reference.
//! Every test binary uses a part of this.
#![allow(dead_code)]

use herd_tensor::cuda::{Card, DType};
use herd_tensor::{CounterRng, Grads, Init, ParamId, ParamSpec, Params, Tape, Tensor, Var};

/// Largest difference allowed between a fast result and the f64 one, relative to the largest value.
pub const TOLERANCE: f64 = 2e-5;

thread_local! {
    /// The card that this thread's cases compute on; none is the host.
    pub static CARD: std::cell::RefCell<Option<Card>> = const { std::cell::RefCell::new(None) };
}

/// An operator applied to parameters: inputs are parameters too (through `rows`), so that all gradients land in one
/// place.
pub struct Case<'a> {
    pub name: &'a str,
    /// Shapes of the parameters, drawn from a normal distribution with these standard deviations.
    pub shapes: &'a [(&'a [usize], f32)],
    pub forward: &'a dyn Fn(&mut Tape, &[ParamId]) -> Var,
    pub reference: &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>,
}

/// All rows of a matrix parameter as a variable.
pub fn rows(tape: &mut Tape, w: ParamId) -> Var {
    let ids: Vec<u32> = (0..tape.params().shape(w)[0] as u32).collect();
    tape.embedding(w, &ids)
}

fn max_abs(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |a, b| if b.abs() > a || b.is_nan() { b.abs() } else { a })
}

pub fn assert_close(what: &str, fast: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(fast.len(), exact.len(), "{what}: lengths");
    let scale = max_abs(exact.iter().copied()).max(1e-3);
    let worst = max_abs(fast.iter().zip(exact).map(|(a, b)| f64::from(*a) - b));
    assert!(worst <= tolerance * scale, "{what}: off by {worst:.3e}, largest value {scale:.3e}");
}

pub fn params(shapes: &[(&[usize], f32)], seed: u64) -> (Params, Vec<ParamId>) {
    let specs = shapes.iter().enumerate();
    let specs =
        specs.map(|(i, (shape, std))| ParamSpec::new(format!("p{i}"), shape, Init::Normal { std: *std }));
    let mut params = Params::new(specs.collect());
    params.initialize(seed);
    if let Some(card) = CARD.with_borrow(Clone::clone) {
        params.to_card(&card, DType::F32).unwrap();
    }
    let ids = params.ids().collect();
    (params, ids)
}

impl Case<'_> {
    pub fn check(&self) {
        let name = self.name;
        let (params, ids) = params(self.shapes, 7);
        let exact: Vec<Vec<f64>> =
            ids.iter().map(|id| params.value(*id).iter().map(|v| f64::from(*v)).collect()).collect();

        let mut quiet = Tape::no_grad(&params);
        let unrecorded = (self.forward)(&mut quiet, &ids);
        let mut tape = Tape::new(&params);
        let out = (self.forward)(&mut tape, &ids);
        assert_eq!(
            unrecorded.value().to_host().as_slice(),
            out.value().to_host().as_slice(),
            "{name}: recording changes the result"
        );
        assert_close(
            &format!("{name} forward"),
            out.value().to_host().as_slice(),
            &(self.reference)(&exact),
            TOLERANCE,
        );

        // The loss is sum(seed * out), so that every output matters differently.
        let rng = CounterRng::new(11, "seed");
        let seed: Vec<f32> = (0..out.value().len()).map(|i| rng.normal(i as u64) as f32).collect();
        let loss = |values: &[Vec<f64>]| -> f64 {
            (self.reference)(values).iter().zip(&seed).map(|(y, s)| y * f64::from(*s)).sum()
        };
        let mut grads = Grads::new(&params);
        tape.backward_from([(out.clone(), Tensor::from_slice(&seed, out.shape()))], &mut grads);
        for (index, id) in ids.iter().enumerate() {
            let mut values = exact.clone();
            let numeric: Vec<f64> = (0..exact[index].len())
                .map(|i| {
                    let step = 1e-5;
                    values[index][i] = exact[index][i] + step;
                    let up = loss(&values);
                    values[index][i] = exact[index][i] - step;
                    let down = loss(&values);
                    values[index][i] = exact[index][i];
                    (up - down) / (2.0 * step)
                })
                .collect();
            assert_close(&format!("{name} gradient of p{index}"), grads.of(*id), &numeric, 5.0 * TOLERANCE);
        }
    }
}
