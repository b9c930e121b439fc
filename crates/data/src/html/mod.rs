//! A forgiving HTML parser in one pass, made for extraction: it never fails, never recurses, keeps only the attributes
//! that extraction reads, and bounds depth and node count. It follows the HTML standard where that changes the text
//! (implied end tags, raw text, character references, scopes of tables), and does not re-order misnested markup.
//! Its text is compared with html5ever's in the tests.

mod dom;
mod entity;
mod parser;
mod tag;

pub use dom::{Attr, Dom, NONE, Node, NodeId};
pub use parser::parse;
pub use tag::Tag;
