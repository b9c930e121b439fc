//! Log-likelihood of continuations under the Transformer. A prefix is run once for all of its continuations: each is a
//! segment that sees the prefix and itself.

use crate::Error;
use herd_model::{Batch, Llama};
use herd_run::Context;
use herd_tensor::{Params, Segment, Segments, Tape};
use std::sync::Arc;

/// A prefix with continuations to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is given; not empty.
    pub prefix: Vec<u32>,
    /// What may follow it; none is empty.
    pub continuations: Vec<Vec<u32>>,
}

impl Request {
    /// Rows it takes in a batch: the last token of a continuation is only predicted, never read.
    fn rows(&self) -> usize {
        self.prefix.len() + self.continuations.iter().map(|c| c.len() - 1).sum::<usize>()
    }

    /// Cuts the prefix from the left so that the longest continuation fits into `context` positions, as
    /// lm-evaluation-harness does. A continuation longer than that loses its end.
    fn fit(&mut self, context: usize) {
        for continuation in &mut self.continuations {
            continuation.truncate(context);
        }
        let longest = self.continuations.iter().map(Vec::len).max().unwrap_or(1);
        let room = (context + 1 - longest).max(1);
        if self.prefix.len() > room {
            self.prefix.drain(..self.prefix.len() - room);
        }
    }
}

/// A model with the size of its batches.
#[derive(Clone, Copy)]
pub struct Scorer<'m> {
    /// The model.
    pub llama: &'m Llama,
    /// Its weights.
    pub params: &'m Params,
    /// Rows of one forward pass; a request larger than this runs alone.
    pub batch_rows: usize,
}

/// Rows of several requests, and what is to be read off them.
#[derive(Default)]
struct Packed {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    /// Row whose hidden state predicts each target.
    rows: Vec<usize>,
    targets: Vec<u32>,
}

impl Packed {
    fn add(&mut self, request: &Request) {
        let start = self.tokens.len();
        let prefix = request.prefix.len();
        let alone = request.continuations.len() == 1;
        self.tokens.extend_from_slice(&request.prefix);
        self.positions.extend(0..prefix as u32);
        if !alone {
            self.segments.push(Segment { rows: start..start + prefix, prefix: 0..0 });
        }
        for continuation in &request.continuations {
            let inputs = continuation.len() - 1;
            let first = self.tokens.len();
            self.rows.push(start + prefix - 1);
            self.rows.extend(first..first + inputs);
            self.targets.extend_from_slice(continuation);
            self.tokens.extend_from_slice(&continuation[..inputs]);
            self.positions.extend(prefix as u32..(prefix + inputs) as u32);
            if inputs > 0 && !alone {
                self.segments.push(Segment { rows: first..first + inputs, prefix: start..start + prefix });
            }
        }
        if alone {
            self.segments.push(Segment { rows: start..self.tokens.len(), prefix: 0..0 });
        }
    }
}

impl Scorer<'_> {
    /// Natural-log likelihood of every continuation given its prefix. `done` is told after each batch how many
    /// requests it finished. Which requests share a batch depends on the requests alone.
    ///
    /// # Errors
    /// A stop was asked for, or the model gives something that is not a number.
    pub fn score(
        &self,
        mut requests: Vec<Request>,
        ctx: &Context,
        mut done: impl FnMut(u64),
    ) -> Result<Vec<Vec<f64>>, Error> {
        let context = self.llama.config.max_position_embeddings;
        requests.iter_mut().for_each(|request| request.fit(context));
        let mut scores = Vec::with_capacity(requests.len());
        let mut first = 0;
        while first < requests.len() {
            ctx.stop.check()?;
            let mut last = first;
            let mut rows = 0;
            while last < requests.len() && (last == first || rows + requests[last].rows() <= self.batch_rows)
            {
                rows += requests[last].rows();
                last += 1;
            }
            self.batch(&requests[first..last], first, &mut scores)?;
            done((last - first) as u64);
            first = last;
        }
        Ok(scores)
    }

    fn batch(&self, requests: &[Request], first: usize, scores: &mut Vec<Vec<f64>>) -> Result<(), Error> {
        let mut packed = Packed::default();
        requests.iter().for_each(|request| packed.add(request));
        let segments = Arc::new(Segments::new(packed.segments));
        let batch = Batch { tokens: packed.tokens, positions: packed.positions, segments };
        let mut tape = Tape::no_grad(self.params);
        let hidden = self.llama.hidden(&mut tape, &batch);
        let hidden = tape.select_rows(&hidden, &packed.rows);
        let logprobs = tape.token_logprobs(&hidden, self.llama.head(), &packed.targets);
        let mut rest = tape.value(&logprobs).as_slice();
        for (i, request) in requests.iter().enumerate() {
            let mut sums = Vec::with_capacity(request.continuations.len());
            for continuation in &request.continuations {
                let (mine, others) = rest.split_at(continuation.len());
                rest = others;
                let sum: f64 = mine.iter().map(|&logprob| f64::from(logprob)).sum();
                if !sum.is_finite() {
                    return Err(Error::NotANumber(format!("example {}", first + i)));
                }
                sums.push(sum);
            }
            scores.push(sums);
        }
        Ok(())
    }
}
