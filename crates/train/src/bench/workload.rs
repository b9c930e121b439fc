//! Training steps that are fixed to the last token and weight, to be measured beside other programs: any of them can
//! compute the same tokens and initial weights from the formulas here, and must then see the same losses.

use crate::adamw::AdamWSettings;
use crate::packing::{MicroBatch, Packer};
use crate::trainer::Trainer;
use herd_model::{Llama, LlamaConfig};
use herd_tensor::{Init, Params};
use rayon::prelude::*;

/// Learning rate of every step; the optimizer's other settings are its defaults.
pub const LEARNING_RATE: f64 = 3e-4;

/// A fixed training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// What it is called: `W1` to `W5`, `W0` for trying out, `G1` and so on for a card.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// Width of the residual stream.
    pub model_dimension: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of the feed-forward network.
    pub ffn_dimension: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Tokens of a step.
    pub tokens: usize,
    /// Tokens of each sequence; 0 for documents laid end to end.
    pub sequence: usize,
    /// Tokens of the longest document; the shortest has 50.
    pub longest: usize,
    /// Whether every block is computed again in the backward pass instead of kept.
    pub recompute: bool,
    /// Whether the step ends with the optimizer; else with the gradient, and there are no moments.
    pub optimizer: bool,
}

const W1: Workload = Workload {
    name: "W1",
    title: "57M parameters, 4 x 512 tokens",
    model_dimension: 512,
    layers: 8,
    heads: 8,
    kv_heads: 2,
    ffn_dimension: 1536,
    vocabulary: 32_000,
    tied: false,
    tokens: 2048,
    sequence: 512,
    longest: 1500,
    recompute: false,
    optimizer: true,
};

const G1: Workload = Workload {
    name: "G1",
    title: "1236M parameters in the shape of Llama 3.2 1B, 8,192 tokens, for a card",
    model_dimension: 2048,
    layers: 16,
    heads: 32,
    kv_heads: 8,
    ffn_dimension: 8192,
    vocabulary: 128_256,
    tied: true,
    tokens: 8192,
    sequence: 8192,
    longest: 1950,
    ..W1
};

/// All workloads.
pub const WORKLOADS: [Workload; 11] = [
    Workload {
        name: "W0",
        title: "a smoke test: 0.2M parameters, 2 x 32 tokens",
        model_dimension: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn_dimension: 128,
        vocabulary: 1000,
        tokens: 64,
        sequence: 32,
        ..W1
    },
    W1,
    Workload {
        name: "W2",
        title: "57M parameters, 4,096 tokens of packed documents",
        tokens: 4096,
        sequence: 0,
        ..W1
    },
    Workload {
        name: "W3",
        title: "222M parameters of which the vocabulary takes 197M, 2 x 1,024 tokens",
        model_dimension: 768,
        layers: 4,
        heads: 12,
        kv_heads: 4,
        ffn_dimension: 2048,
        vocabulary: 128_256,
        tokens: 2048,
        sequence: 1024,
        ..W1
    },
    Workload {
        name: "W4",
        title: "254M parameters, 2,048 tokens, every block computed again",
        model_dimension: 1024,
        layers: 16,
        heads: 16,
        kv_heads: 8,
        ffn_dimension: 2816,
        tokens: 2048,
        sequence: 2048,
        recompute: true,
        ..W1
    },
    Workload {
        name: "W5",
        title: "57M parameters, one sequence of 16,384 tokens",
        tokens: 16_384,
        sequence: 16_384,
        ..W1
    },
    G1,
    Workload {
        name: "G1P8",
        title: "1236M parameters, 8,192 tokens of packed documents, for a card",
        sequence: 0,
        ..G1
    },
    Workload {
        name: "G1P64",
        title: "1236M parameters, 65,536 tokens of packed documents, for a card",
        tokens: 65_536,
        sequence: 0,
        ..G1
    },
    Workload {
        name: "G3",
        title: "3213M parameters in the shape of Llama 3.2 3B, 8,192 tokens, for a card",
        model_dimension: 3072,
        layers: 28,
        heads: 24,
        ..G1
    },
    Workload {
        name: "G8",
        title: "8030M parameters in the shape of Llama 3 8B, 8,192 tokens, no optimizer, for a card",
        model_dimension: 4096,
        layers: 32,
        ffn_dimension: 14_336,
        tied: false,
        optimizer: false,
        ..G1
    },
];

/// The finaliser by which tokens and weights are made (Chris Wellons' lowbias32).
pub fn hash(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Number `index` of stream `stream`. Stream 0 holds tokens, 1 document lengths, `2 + p` the values of parameter `p`
/// in the order of [`Params::specs`].
pub fn number(stream: u32, index: u32) -> u32 {
    hash(index.wrapping_mul(0x9e37_79b9).wrapping_add(hash(stream)))
}

impl Workload {
    /// The workload called `name`, in either case.
    pub fn find(name: &str) -> Option<Self> {
        WORKLOADS.into_iter().find(|workload| workload.name.eq_ignore_ascii_case(name))
    }

    /// The model.
    pub fn config(&self) -> LlamaConfig {
        let longest = self.lengths().into_iter().max().unwrap_or(1);
        let shape = herd_model::Settings {
            layers: self.layers,
            model_dimension: self.model_dimension,
            ffn_dimension: self.ffn_dimension,
            attention_heads: self.heads,
            key_value_heads: self.kv_heads,
            max_context: longest,
            tie_embeddings: self.tied,
            ..herd_model::Settings::default()
        };
        shape.config(self.vocabulary, 0, Vec::new())
    }

    /// Tokens of each sequence or document. A document has `50 + number(1, i) % (longest - 49)`; what would leave fewer than 50
    /// for the next is cut to half of what is left, the last takes the rest.
    pub fn lengths(&self) -> Vec<usize> {
        if self.sequence > 0 {
            return vec![self.sequence; self.tokens / self.sequence];
        }
        let (mut lengths, mut left) = (Vec::new(), self.tokens);
        while left > 0 {
            let wanted = 50 + number(1, lengths.len() as u32) as usize % (self.longest - 49);
            let length = match wanted {
                _ if left <= 100 => left,
                wanted if wanted + 50 > left => left / 2,
                wanted => wanted,
            };
            lengths.push(length);
            left -= length;
        }
        lengths
    }

    /// The rows of a step, counted from 0 if every step has other tokens. The stream of tokens, `number(0, i) %
    /// vocabulary` from `i = 100,000 step`, is cut into stretches of one token more than there are rows, as each row's
    /// target is the next token.
    pub fn micro_batch(&self, step: usize) -> MicroBatch {
        let mut packer = Packer::default();
        let mut next = 100_000 * step as u32;
        for (document, length) in self.lengths().into_iter().enumerate() {
            let stretch = next..next + length as u32 + 1;
            next = stretch.end;
            let tokens: Vec<u32> = stretch.map(|i| number(0, i) % self.vocabulary as u32).collect();
            packer.push(None, document as u64, 0, &tokens);
        }
        packer.finish()
    }

    /// A trainer before its first step, with the given optimizer.
    pub fn trainer(&self, optimizer: AdamWSettings) -> Trainer {
        let llama = Llama::new(self.config());
        let mut params = llama.params();
        initialize(&mut params);
        let mut trainer = Trainer::new(llama, params, optimizer);
        trainer.recompute = self.recompute;
        trainer
    }
}

/// Sets the norms to 1 and every matrix to evenly distributed numbers of the standard deviation that its [`Init`]
/// names: `(number(2 + p, i) >> 8) 2^-23 - 1`, times the deviation and the root of 3.
pub fn initialize(params: &mut Params) {
    let ids: Vec<_> = params.ids().collect();
    for id in ids {
        let stream = 2 + id.index() as u32;
        match params.spec(id).init {
            Init::Ones => params.value_mut(id).fill(1.0),
            Init::Zeros => params.value_mut(id).fill(0.0),
            Init::Normal { std } => {
                let scale = std * 3f32.sqrt();
                params.value_mut(id).par_chunks_mut(4096).enumerate().for_each(|(chunk, values)| {
                    for (i, value) in values.iter_mut().enumerate() {
                        let bits = number(stream, (chunk * 4096 + i) as u32) >> 8;
                        *value = (bits as f32 / (1 << 23) as f32 - 1.0) * scale;
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_covers_its_tokens_with_whole_sequences() {
        for workload in WORKLOADS {
            let lengths = workload.lengths();
            assert_eq!(lengths.iter().sum::<usize>(), workload.tokens, "{}", workload.name);
            let micro = workload.micro_batch(0);
            assert_eq!(micro.targets.len(), workload.tokens);
            assert_eq!(micro.pieces.len(), lengths.len());
            assert_eq!(Workload::find(&workload.name.to_lowercase()), Some(workload));
            // As the titles say.
            let parameters = workload.config().parameters() as f64 / 1e6;
            let said: f64 = workload.title.split(['M', ' ']).find_map(|word| word.parse().ok()).unwrap();
            assert!((parameters - said).abs() < 0.5, "{}: {parameters}", workload.name);
        }
        for (name, longest, mean) in [("W2", 1500, 500..=900), ("G1P64", 1950, 950..=1050)] {
            let documents = Workload::find(name).unwrap().lengths();
            assert!(documents.iter().all(|n| (50..=longest).contains(n)), "{documents:?}");
            assert!(mean.contains(&(documents.iter().sum::<usize>() / documents.len())), "{documents:?}");
        }
    }

    #[test]
    fn tokens_and_weights_are_those_of_the_formula() {
        // Computed by bench/train/workloads.py.
        assert_eq!([0, 1, 2].map(|i| number(0, i)), [0, 33_350_994, 83_415_710]);
        let trainer = Workload::find("W0").unwrap().trainer(AdamWSettings::default());
        let embed = trainer.params.value(trainer.llama.embed);
        assert_eq!(&embed[..3], &[-0.019934868, 0.025947073, 0.020199638]);
    }
}
