//! The tensors of a Llama under both names.

use herd_model::LlamaConfig;

/// One tensor.
pub(crate) struct Part {
    /// Hugging Face's name.
    pub hf: String,
    /// llama.cpp's name.
    pub gguf: String,
    /// Rows first; vectors have one size.
    pub shape: Vec<usize>,
    /// Set for queries and keys: GGUF has the rows of their heads in another order.
    pub heads: Option<usize>,
    /// What it is, for the choice of a number type.
    pub role: Role,
}

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Looks tokens up, and if tied gives the logits.
    Embedding,
    /// Gives the logits.
    Output,
    /// Values of layer i, which errors reach the result through most directly.
    Values(usize),
    /// The last matrix of layer i.
    Down(usize),
    /// Any other matrix.
    Matrix,
    /// A norm or a bias; always kept as f32.
    Vector,
}

impl Part {
    pub(crate) fn rows(&self) -> usize {
        if self.shape.len() == 2 { self.shape[0] } else { 1 }
    }

    pub(crate) fn columns(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// For a vector of queries or keys a row is one number.
    fn head_rows(&self) -> Option<usize> {
        self.heads.map(|heads| self.shape[0] / heads)
    }

    /// The row in Hugging Face's order that is row `row` of GGUF's: neighbours there are half a head apart here.
    pub(crate) fn hf_row(&self, row: usize) -> usize {
        let Some(head) = self.head_rows() else { return row };
        let within = row % head;
        row - within + within % 2 * (head / 2) + within / 2
    }

    /// The other direction.
    pub(crate) fn gguf_row(&self, row: usize) -> usize {
        let Some(head) = self.head_rows() else { return row };
        let within = row % head;
        row - within + within % (head / 2) * 2 + within / (head / 2)
    }
}

/// Every tensor in the order in which files have them.
pub(crate) fn parts(c: &LlamaConfig) -> Vec<Part> {
    let (hidden, ffn) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let part =
        |hf: String, gguf: String, shape: Vec<usize>, role: Role| Part { hf, gguf, shape, heads: None, role };
    let mut all = vec![part(
        "model.embed_tokens.weight".into(),
        "token_embd.weight".into(),
        vec![c.vocab_size, hidden],
        Role::Embedding,
    )];
    for i in 0..c.num_hidden_layers {
        let mut add = |hf: &str, gguf: &str, shape: Vec<usize>, role: Role, heads: Option<usize>| {
            let (hf, gguf) = (format!("model.layers.{i}.{hf}"), format!("blk.{i}.{gguf}"));
            all.push(Part { heads, ..part(hf, gguf, shape, role) });
        };
        let (heads, kv_heads) = (Some(c.num_attention_heads), Some(c.num_key_value_heads));
        add("input_layernorm.weight", "attn_norm.weight", vec![hidden], Role::Vector, None);
        add("self_attn.q_proj.weight", "attn_q.weight", vec![q, hidden], Role::Matrix, heads);
        add("self_attn.k_proj.weight", "attn_k.weight", vec![kv, hidden], Role::Matrix, kv_heads);
        add("self_attn.v_proj.weight", "attn_v.weight", vec![kv, hidden], Role::Values(i), None);
        add("self_attn.o_proj.weight", "attn_output.weight", vec![hidden, q], Role::Matrix, None);
        if c.attention_bias {
            add("self_attn.q_proj.bias", "attn_q.bias", vec![q], Role::Vector, heads);
            add("self_attn.k_proj.bias", "attn_k.bias", vec![kv], Role::Vector, kv_heads);
            add("self_attn.v_proj.bias", "attn_v.bias", vec![kv], Role::Vector, None);
            add("self_attn.o_proj.bias", "attn_output.bias", vec![hidden], Role::Vector, None);
        }
        add("post_attention_layernorm.weight", "ffn_norm.weight", vec![hidden], Role::Vector, None);
        add("mlp.gate_proj.weight", "ffn_gate.weight", vec![ffn, hidden], Role::Matrix, None);
        add("mlp.up_proj.weight", "ffn_up.weight", vec![ffn, hidden], Role::Matrix, None);
        add("mlp.down_proj.weight", "ffn_down.weight", vec![hidden, ffn], Role::Down(i), None);
    }
    all.push(part("model.norm.weight".into(), "output_norm.weight".into(), vec![hidden], Role::Vector));
    if !c.tie_word_embeddings {
        all.push(part(
            "lm_head.weight".into(),
            "output.weight".into(),
            vec![c.vocab_size, hidden],
            Role::Output,
        ));
    }
    all
}
