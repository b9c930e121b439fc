//! From a web crawl to clean documents and token shards.

pub mod documents;
pub mod shards;
pub mod tokenizer_stage;
pub mod extract;
pub mod html;
