//! Writes a safetensors file tensor by tensor.

use crate::Error;
use herd_infer::gguf::BlockType;
use serde_json::{Map, Value, json};
use std::io::Write;

/// A tensor that will follow.
pub(crate) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: BlockType,
}

/// Writes the header; the numbers follow in the order of `tensors` without a gap.
pub(crate) fn write_head(out: &mut impl Write, tensors: &[Entry]) -> Result<(), Error> {
    let mut header = Map::new();
    // Transformers looks for this key to know how the file was made.
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for entry in tensors {
        let (name, size) = match entry.kind {
            BlockType::F16 => ("F16", 2),
            BlockType::Bf16 => ("BF16", 2),
            _ => ("F32", 4),
        };
        let end = offset + entry.shape.iter().product::<usize>() * size;
        let place = json!({ "dtype": name, "shape": entry.shape, "data_offsets": [offset, end] });
        header.insert(entry.name.clone(), place);
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // So that the numbers begin at an address that suits them.
    text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    Ok(out.write_all(&text)?)
}
