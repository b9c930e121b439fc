//! Small pieces inside a text that are not part of it, told by what they say: captions, credits, requests to subscribe.

use super::blocks::{Block, Kind};
use super::prune::Marks;
use super::statements::Statements;
use crate::html::{Attr, Dom, NodeId, Tag};
use std::collections::HashSet;

/// Letters from which a caption counts as said twice.
const MIN_CAPTION: usize = 24;
/// Letters from which a block that repeats one of the three before it is dropped.
const MIN_REPEATED: usize = 100;
/// Longest block in which phrases are looked for, in characters.
const MAX_PHRASE_BLOCK: u32 = 260;

/// Letters and digits of a text, in lower case.
pub fn letters(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_ascii() {
            if c.is_ascii_alphanumeric() {
                out.push(c.to_ascii_lowercase());
            }
        } else if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
        }
    }
}

/// The text of a block, without what was removed.
pub fn block_text(dom: &Dom, marks: &Marks, block: &Block, out: &mut String) {
    let mut id = block.first;
    while id < block.end {
        if marks.removed[id as usize] {
            id = dom.node(id).end;
            continue;
        }
        out.push_str(dom.text(id));
        id += 1;
    }
}

/// Clears `keep` for the blocks that are chaff.
pub fn drop_chaff(dom: &Dom, marks: &Marks, blocks: &[Block], stated: &Statements, keep: &mut [bool]) {
    let captions = captions(dom, stated);
    let mut recent = [const { String::new() }; 3];
    let mut turn = 0;
    let (mut text, mut plain) = (String::new(), String::new());
    for (block, keep) in blocks.iter().zip(keep.iter_mut()).filter(|(_, keep)| **keep) {
        if matches!(block.kind, Kind::Pre | Kind::Cell) {
            continue;
        }
        text.clear();
        plain.clear();
        block_text(dom, marks, block, &mut text);
        letters(&text, &mut plain);
        let text = text.trim();
        let caption = block.kind == Kind::Text && plain.len() >= MIN_CAPTION && captions.contains(&plain);
        let repeated = plain.len() >= MIN_REPEATED && recent.contains(&plain);
        recent[turn % 3].clone_from(&plain);
        turn += 1;
        *keep = !(caption || repeated || (block.chars <= MAX_PHRASE_BLOCK && is_chaff(text, block)));
    }
}

/// What images are said to show, in `alt` and in JSON-LD.
fn captions(dom: &Dom, stated: &Statements) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut add = |text: &str| {
        if (MIN_CAPTION..2000).contains(&text.len()) {
            let mut plain = String::new();
            letters(text, &mut plain);
            found.insert(plain);
        }
    };
    for id in 0..dom.nodes.len() as NodeId {
        if dom.tag(id) == Tag::Img
            && let Some(alt) = dom.attr(id, Attr::Alt)
        {
            add(alt);
        }
    }
    stated.captions.iter().for_each(|caption| add(caption));
    found
}

fn is_chaff(text: &str, block: &Block) -> bool {
    let lower = text.to_lowercase();
    let short = block.chars <= 120;
    STARTS.iter().any(|phrase| lower.starts_with(phrase))
        || INSIDE.iter().any(|phrase| lower.contains(phrase))
        || (short && SHORT_STARTS.iter().any(|phrase| lower.starts_with(phrase)))
        || (short && SHORT_INSIDE.iter().any(|phrase| lower.contains(phrase)))
}

/// Beginnings of blocks that lead elsewhere or ask for something.
const STARTS: &[&str] = &[
    "read more:",
    "read more about",
    "read also",
    "also read",
    "read next",
    "related:",
    "related article",
    "related stor",
    "more from",
    "recommended for you",
    "you may also like",
    "you might also like",
    "click here to subscribe",
    "subscribe to",
    "subscribe now",
    "subscribe today",
    "sign up for",
    "sign up to",
    "follow us",
    "like us on",
    "join our",
    "lesen sie auch",
    "lesen sie mehr",
    "lesen sie hier",
    "lies auch",
    "lies mehr",
    "mehr zum thema",
    "auch interessant",
    "das könnte sie",
    "das könnte dich",
    "folgen sie uns",
    "folge uns",
    "jetzt abonnieren",
    "jetzt newsletter",
    "abonnez-vous",
    "inscrivez-vous",
    "lire aussi",
    "à lire aussi",
    "à lire également",
    "suivez-nous",
    "lee también",
    "lea también",
    "lea además",
    "te puede interesar",
    "suscríbete",
    "síguenos",
    "leia também",
    "leia mais",
    "siga-nos",
    "inscreva-se",
    "leggi anche",
    "seguici",
    "iscriviti",
    "lees ook",
    "czytaj też",
    "czytaj także",
    "zobacz też",
    "zobacz także",
    "читайте также",
];

/// What only a request or a legal note says.
const INSIDE: &[&str] = &[
    "all rights reserved",
    "alle rechte vorbehalten",
    "tous droits réservés",
    "todos los derechos reservados",
    "subscribe to our",
    "sign up for our",
    "sign up to our",
    "follow us on",
    "follow him on twitter",
    "follow her on twitter",
    "follow them on twitter",
    "like us on facebook",
    "join us on facebook",
    "uses cookies",
    "use cookies to",
    "use of cookies",
    "may not be published, broadcast",
    "our newsletter",
    "unseren newsletter",
    "nuestro canal de",
    "this story continues below",
    "story continues below",
    "article continues below",
    "javascript is disabled",
    "enable javascript",
    "please log in",
    "already a subscriber",
];

/// Beginnings of short blocks: credits of pictures, marks of advertisements.
const SHORT_STARTS: &[&str] = &[
    "advertisement",
    "anzeige",
    "publicidad",
    "publicidade",
    "publicité",
    "photo:",
    "photo by",
    "photo credit",
    "photos:",
    "photograph:",
    "photograph by",
    "image:",
    "image credit",
    "image source",
    "picture:",
    "foto:",
    "fotos:",
    "bild:",
    "bildquelle",
    "bilder:",
    "crédit",
    "credit:",
    "credits:",
    "crédits photo",
    "© ",
    "(c) ",
    "copyright ",
    "scroll to continue",
    "continue reading",
    "share this",
    "add your comment",
    "leave a comment",
    "leave a reply",
    "teilen",
    "tags:",
    "tagged:",
    "filed under",
    "posted in",
    "last updated",
];

/// What only the credit of a picture says.
const SHORT_INSIDE: &[&str] = &[
    "/getty images",
    "/ getty images",
    "getty images)",
    "| getty images",
    "via getty images",
    "(ap photo",
    "(photo by",
    "(photo:",
    "(foto:",
    "shutterstock.com",
    "(credit:",
    "(image:",
    "picture alliance",
];
