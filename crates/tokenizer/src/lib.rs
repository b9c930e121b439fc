//! Byte-level BPE: train, encode, decode, chat format, token shards.
