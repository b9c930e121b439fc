//! What a page says about itself: title, date, language, canonical URL, licence.

use super::render::one_line;
use crate::html::{Attr, Dom, NodeId, Tag};

/// What a page's head and structure state. Empty strings and `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Title without the site's name.
    pub title: String,
    /// Date of publication, as stated, cut to `YYYY-MM-DD` where it begins so.
    pub date: Option<String>,
    /// Language of the document as it declares it, lower case, without region.
    pub language: Option<String>,
    /// The URL that it calls its own.
    pub canonical: Option<String>,
    /// Licence or its URL.
    pub license: Option<String>,
    /// Author.
    pub author: Option<String>,
}

/// Reads a page's statements.
pub fn metadata(dom: &Dom) -> Metadata {
    let mut found = Found::default();
    for id in 0..dom.nodes.len() as NodeId {
        match dom.tag(id) {
            Tag::Meta => found.meta(dom, id),
            Tag::Link => found.link(dom, id),
            Tag::Title if found.title.is_none() && !inside_svg(dom, id) => {
                found.title = filled(&dom.text_content(id))
            }
            Tag::H1 if found.heading.is_none() => found.heading = filled(&dom.text_content(id)),
            Tag::A if found.license.is_none() => found.license_link(dom, id),
            Tag::Time if found.time.is_none() => found.time = dom.attr(id, Attr::Datetime).and_then(filled),
            _ => {}
        }
    }
    let language = dom.attr(0, Attr::Lang).and_then(filled).or(found.language);
    Metadata {
        title: title(found.social_title, found.title, found.heading),
        date: found.date.or(found.time).map(day),
        language: language.map(|l| l.split(['-', '_']).next().unwrap_or("").to_ascii_lowercase()),
        canonical: found.canonical,
        license: found.license,
        author: found.author,
    }
}

#[derive(Default)]
struct Found {
    title: Option<String>,
    social_title: Option<String>,
    heading: Option<String>,
    date: Option<String>,
    time: Option<String>,
    language: Option<String>,
    canonical: Option<String>,
    license: Option<String>,
    author: Option<String>,
}

impl Found {
    fn meta(&mut self, dom: &Dom, id: NodeId) {
        let Some(content) = dom.attr(id, Attr::Content).and_then(filled) else { return };
        let names = [Attr::Property, Attr::Name, Attr::Itemprop, Attr::HttpEquiv];
        let Some(name) = names.iter().find_map(|attr| dom.attr(id, *attr)) else { return };
        let slot = match name.trim().to_ascii_lowercase().as_str() {
            "og:title" | "twitter:title" | "dc.title" | "headline" => &mut self.social_title,
            "article:published_time"
            | "datepublished"
            | "dc.date"
            | "dc.date.issued"
            | "date"
            | "pubdate"
            | "publishdate"
            | "sailthru.date"
            | "parsely-pub-date"
            | "og:published_time" => &mut self.date,
            "content-language" | "dc.language" | "inlanguage" => &mut self.language,
            "og:url" => &mut self.canonical,
            "dc.rights" | "dcterms.license" | "license" | "dcterms.rights" => &mut self.license,
            "author" | "dc.creator" | "article:author" | "parsely-author" => &mut self.author,
            _ => return,
        };
        slot.get_or_insert(content);
    }

    fn link(&mut self, dom: &Dom, id: NodeId) {
        let (Some(rel), Some(href)) = (dom.attr(id, Attr::Rel), dom.attr(id, Attr::Href).and_then(filled))
        else {
            return;
        };
        for word in rel.split_ascii_whitespace() {
            match word {
                "canonical" => self.canonical = Some(href.clone()),
                "license" => {
                    self.license.get_or_insert(href.clone());
                }
                _ => {}
            }
        }
    }

    fn license_link(&mut self, dom: &Dom, id: NodeId) {
        let Some(href) = dom.attr(id, Attr::Href) else { return };
        let says =
            dom.attr(id, Attr::Rel).is_some_and(|rel| rel.split_ascii_whitespace().any(|w| w == "license"));
        if says
            || href.contains("creativecommons.org/licenses/")
            || href.contains("creativecommons.org/publicdomain/")
        {
            self.license = filled(href);
        }
    }
}

fn inside_svg(dom: &Dom, id: NodeId) -> bool {
    dom.ancestors(id).any(|n| dom.tag(n) == Tag::Svg)
}

fn filled(text: &str) -> Option<String> {
    Some(one_line(text)).filter(|t| !t.is_empty())
}

fn day(date: String) -> String {
    let bytes = date.as_bytes();
    let iso = bytes.len() >= 10
        && bytes[..10]
            .iter()
            .enumerate()
            .all(|(n, b)| if n == 4 || n == 7 { *b == b'-' } else { b.is_ascii_digit() });
    if iso { date[..10].to_string() } else { date }
}

/// The best title: what the page tells social networks, or `<title>` without the site's name, or the first heading.
fn title(social: Option<String>, title: Option<String>, heading: Option<String>) -> String {
    if let (Some(title), Some(heading)) = (&title, &heading)
        && heading.len() > 8
        && title.contains(heading.as_str())
    {
        return heading.clone();
    }
    let title = social.or(title).or(heading).unwrap_or_default();
    for separator in [" | ", " — ", " – ", " « ", " » ", " - "] {
        if let Some((head, tail)) = title.rsplit_once(separator)
            && head.len() >= 15
            && tail.len() <= 40
            && head.len() > tail.len()
        {
            return head.trim().to_string();
        }
    }
    title
}
