//! From a web crawl to clean documents and token shards (SPEC DATA-1 to DATA-8).
//!
//! [`run`] is the stage: WARC files in, `documents.parquet` out, with a reject and a reason for everything that was
//! dropped. Its pieces stand alone: [`archive`] reads WARC, [`response`] makes text of bytes, [`extract`] finds the main
//! text of a page, [`filters`] keep or drop.

pub mod address;
pub mod archive;
mod batches;
pub mod classifier;
pub mod contamination;
pub mod documents;
pub mod domain;
mod error;
mod exchange;
pub mod extract;
pub mod filters;
pub mod funnel;
mod hash;
pub mod html;
mod input;
pub mod inspect;
pub mod label;
pub mod language;
pub mod lines;
pub mod near_duplicates;
pub mod page_file;
pub mod rejects;
pub mod response;
pub mod sample;
pub mod settings;
pub mod shards;
mod stage;
pub mod stats;
pub mod storage;
pub mod table;
mod texts;
pub mod tokenizer_stage;

pub use error::Error;
pub use settings::Settings;
pub use stage::{Amount, Job, Plan, Resources, Round, Step, Summary, run};
