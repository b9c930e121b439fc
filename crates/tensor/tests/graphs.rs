//! Graphs of captured work, with the card made of the processor. Needs g++.

#![cfg(target_os = "linux")]

mod fake_card;

use herd_tensor::cuda::{Card, CardBuffer, CardError, DType, Graph};
use herd_tensor::{Init, ParamId, ParamSpec, Params, Tape, Tensor, Var};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SHAPE: [usize; 2] = [6, 8];

/// A layer with a matrix, its input and a norm, on a card of its own.
fn layer() -> (Card, Params, Tensor) {
    let card = fake_card::open();
    let normal = Init::Normal { std: 0.5 };
    let specs = vec![ParamSpec::new("w", &[8, 8], normal), ParamSpec::new("norm", &[8], Init::Ones)];
    let mut params = Params::new(specs);
    params.initialize(3);
    params.to_card(&card, DType::F32).unwrap();
    let x: Vec<f32> = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tape::no_grad(&params).constant(Tensor::from_slice(&x, &SHAPE)).value().clone();
    (card, params, x)
}

fn forward(tape: &mut Tape, x: &Tensor) -> Var {
    let [w, norm] = ["w", "norm"].map(|name| tape.params().id(name).unwrap());
    let x = tape.constant(x.clone());
    let y = tape.linear(&x, w);
    let y = tape.rms_norm(&y, norm, 1e-5);
    let y = tape.linear(&y, w);
    tape.linear_add(&y, w, &x)
}

fn plain(params: &Params, x: &Tensor) -> Vec<f32> {
    forward(&mut Tape::no_grad(params), x).value().to_host().as_slice().to_vec()
}

/// The captured layer, and where it writes to.
fn captured(card: &Card, params: &Params, x: &Tensor) -> (Graph, Tensor) {
    let mut out = None;
    let graph = card.capture("a layer", || {
        out = Some(forward(&mut Tape::no_grad(params), x).value().clone());
        Ok(())
    });
    (graph.unwrap(), out.unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_host().as_slice().to_vec()
}

#[test]
fn a_launch_computes_with_what_is_there_then() {
    let (card, mut params, x) = layer();
    let first = plain(&params, &x);
    // Nothing of that is left where the graph will work.
    let zeros: Vec<_> = (0..8).map(|_| CardBuffer::zeroed(&card, 48 * size_of::<f32>()).unwrap()).collect();
    drop(zeros);
    let (graph, out) = captured(&card, &params, &x);
    assert_eq!((graph.name(), graph.nodes()), ("a layer", 4));
    assert_ne!(values(&out), first, "nothing runs while it is captured");
    graph.launch().unwrap();
    assert_eq!(values(&out), first);
    params.value_mut(ParamId::new(0))[3] = 2.0;
    let second = plain(&params, &x);
    assert_eq!(values(&out), first, "and nothing until the next launch");
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(values(&out), second);
    assert_ne!(first, second);
}

/// What the graph uses in between is nobody else's, also if memory for it was asked of the driver while it was captured.
#[test]
fn memory_of_a_graph_is_its_own() {
    let (card, params, x) = layer();
    let want = plain(&params, &x);
    let before = card.usage();
    // The card's chunks are full.
    let room = (before.held - before.live) / 256;
    let fillers: Vec<CardBuffer> = (0..room).map(|_| CardBuffer::stale(&card, 256).unwrap()).collect();
    assert_eq!(card.usage().requests, before.requests);
    let (graph, out) = captured(&card, &params, &x);
    assert!(card.usage().requests > before.requests, "a chunk was asked for meanwhile");
    let ones = vec![1.0f32; x.len()];
    let others: Vec<CardBuffer> = (0..64).map(|_| CardBuffer::from_host(&card, &ones).unwrap()).collect();
    graph.launch().unwrap();
    assert_eq!(values(&out), want);
    for other in &others {
        let mut found = vec![0.0f32; x.len()];
        other.read(&mut found).unwrap();
        assert_eq!(found, ones, "a launch writes to the memory of others");
    }
    drop((others, out, fillers));
    assert!(card.usage().live > before.live, "the graph holds what it uses");
    drop(graph);
    assert_eq!(card.usage().live, before.live);
}

#[test]
fn what_a_graph_cannot_hold_is_refused_by_name() {
    let (card, params, x) = layer();
    let want = plain(&params, &x);
    let buffer = CardBuffer::zeroed(&card, 8).unwrap();
    let live = card.usage().live;
    type Work<'a> = &'a dyn Fn() -> Result<(), CardError>;
    let cases: [(&str, Work<'_>); 4] = [
        ("an upload", &|| buffer.overwrite(&[1.0f32, 2.0])),
        ("a download", &|| buffer.read(&mut [0.0f32; 2])),
        ("waiting for the card", &|| card.synchronize()),
        ("another graph", &|| card.capture("inner", || Ok(())).map(drop)),
    ];
    for (what, work) in cases {
        let attempt = || {
            forward(&mut Tape::no_grad(&params), &x);
            work()
        };
        let text = card.capture("decoding", attempt).unwrap_err().to_string();
        let parts = ["graph `decoding`: ", &format!("{what} cannot be part of a graph"), "before the graph"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    // An operator that fails ends with a panic.
    let panicking = || card.capture("broken", || panic!("an operator failed"));
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    assert_eq!(card.usage().live, live, "nothing is left of captures that failed");
    assert_eq!(plain(&params, &x), want, "the card is as before");
    let (graph, out) = captured(&card, &params, &x);
    let nested = card.capture("outer", || graph.launch()).unwrap_err();
    assert!(nested.to_string().starts_with("graph `outer`: graph `a layer`: another graph"), "{nested}");
    graph.launch().unwrap();
    assert_eq!(values(&out), want);
}
