//! What a page says about itself: title, date, author, language, canonical URL, licence.

use super::dates::{day, day_of_address};
use super::render::one_line;
use super::statements::Statements;
use crate::html::{Attr, Dom, NodeId, Tag};

/// Longest name of an author, in bytes; more is a sentence about one.
const MAX_AUTHOR: usize = 100;

/// Longest statement that is kept, in characters.
const MAX_STATEMENT: usize = 2000;
/// First headings that are compared with the title.
const MAX_HEADINGS: usize = 8;

/// What a page's head and structure state. Empty strings and `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Title without the site's name.
    pub title: String,
    /// Day of publication, `YYYY-MM-DD`.
    pub date: Option<String>,
    /// Language of the document as it declares it, lower case, without region.
    pub language: Option<String>,
    /// The URL that it calls its own.
    pub canonical: Option<String>,
    /// Licence or its URL.
    pub license: Option<String>,
    /// Author, or several with commas between.
    pub author: Option<String>,
    /// What it says in a sentence or two that it is about.
    pub description: String,
}

/// What the head says about the kind of the page.
#[derive(Debug, Default)]
pub struct Head {
    /// `og:type`, lower case.
    pub kind: String,
    /// The program that made it.
    pub generator: String,
    /// Whether it states a day of publication as articles do.
    pub published: bool,
}

/// Reads a page's statements. `url` is its address, empty if it is not known.
pub fn metadata(dom: &Dom, stated: &Statements, url: &str) -> (Metadata, Head) {
    let mut found = Found::default();
    for id in 0..dom.nodes.len() as NodeId {
        match dom.tag(id) {
            Tag::Text | Tag::Br | Tag::Script => {}
            Tag::Meta => found.meta(dom, id),
            Tag::Link => found.link(dom, id),
            Tag::Title if found.title.is_none() && !inside_svg(dom, id) => {
                found.title = filled(&dom.text_content(id))
            }
            Tag::H1 if found.headings.len() < MAX_HEADINGS => found
                .headings
                .extend(filled(dom.text_content(id).trim().trim_end_matches(['¶', '#', '§', '🔗']))),
            tag => found.element(dom, id, tag),
        }
    }
    let language = dom.attr(0, Attr::Lang).and_then(filled).or(found.language).or(stated.language.clone());
    let published = found.date.is_some() || stated.published.is_some();
    let date = [&found.date, &stated.published, &found.published, &found.time]
        .into_iter()
        .flatten()
        .find_map(|text| day(text))
        .or_else(|| day_of_address(url))
        .or_else(|| found.canonical.as_deref().and_then(day_of_address))
        .or_else(|| found.dateline.as_deref().and_then(day));
    let head = Head {
        kind: found.kind.unwrap_or_default().to_ascii_lowercase(),
        generator: found.generator.unwrap_or_default(),
        published: published && found.published_as_article,
    };
    let metadata = Metadata {
        title: title(
            found.social_title,
            found.title,
            &found.headings,
            stated.headline.as_deref(),
            found.site.as_deref(),
        ),
        date,
        language: language.map(|l| l.split(['-', '_']).next().unwrap_or("").to_ascii_lowercase()),
        canonical: found.canonical.or(found.social_url),
        license: found.license,
        author: [found.author, stated.author.clone(), found.byline].into_iter().flatten().find_map(author),
        description: found.description.unwrap_or_default(),
    };
    (metadata, head)
}

#[derive(Default)]
struct Found {
    title: Option<String>,
    social_title: Option<String>,
    site: Option<String>,
    headings: Vec<String>,
    date: Option<String>,
    /// A `time` that says it is the day of publication.
    published: Option<String>,
    /// Any other `time`.
    time: Option<String>,
    /// Visible text that is named as a date.
    dateline: Option<String>,
    language: Option<String>,
    canonical: Option<String>,
    social_url: Option<String>,
    license: Option<String>,
    author: Option<String>,
    byline: Option<String>,
    description: Option<String>,
    kind: Option<String>,
    generator: Option<String>,
    published_as_article: bool,
}

impl Found {
    fn meta(&mut self, dom: &Dom, id: NodeId) {
        let Some(content) = dom.attr(id, Attr::Content).and_then(filled) else { return };
        let names = [Attr::Property, Attr::Name, Attr::Itemprop, Attr::HttpEquiv];
        let Some(name) = names.iter().find_map(|attr| dom.attr(id, *attr)) else { return };
        let name = name.trim().to_ascii_lowercase();
        self.published_as_article |= name == "article:published_time";
        let slot = match name.as_str() {
            "og:title" | "twitter:title" | "dc.title" | "headline" => &mut self.social_title,
            "og:site_name" | "application-name" => &mut self.site,
            "og:type" => &mut self.kind,
            "generator" => &mut self.generator,
            "article:published_time"
            | "datepublished"
            | "dc.date"
            | "dc.date.issued"
            | "dc.date.created"
            | "dcterms.date"
            | "dcterms.created"
            | "citation_publication_date"
            | "citation_date"
            | "date"
            | "pubdate"
            | "publishdate"
            | "publish-date"
            | "publication_date"
            | "sailthru.date"
            | "parsely-pub-date"
            | "og:published_time" => &mut self.date,
            "og:description" | "description" | "twitter:description" | "dc.description" => {
                &mut self.description
            }
            "content-language" | "dc.language" | "inlanguage" => &mut self.language,
            "og:url" => &mut self.social_url,
            "dc.rights" | "dcterms.license" | "license" | "dcterms.rights" => &mut self.license,
            "author" | "dc.creator" | "article:author" | "parsely-author" | "citation_author"
            | "sailthru.author" => &mut self.author,
            _ => return,
        };
        // Many pages give the address of a profile first and the name after it.
        if slot.as_ref().is_none_or(|known| known.starts_with("http") && !content.starts_with("http")) {
            *slot = Some(content);
        }
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

    fn element(&mut self, dom: &Dom, id: NodeId, tag: Tag) {
        if !dom.has_attrs(id) {
            return;
        }
        if tag == Tag::A && self.license.is_none() {
            self.license_link(dom, id);
        }
        let itemprop = dom.attr(id, Attr::Itemprop).unwrap_or("");
        let class = dom.attr(id, Attr::Class).unwrap_or("");
        if tag == Tag::Time {
            let time =
                dom.attr(id, Attr::Datetime).and_then(filled).or_else(|| filled(&dom.text_content(id)));
            let says = itemprop == "datePublished" || named(class, &["published", "pubdate", "entry-date"]);
            let slot = if says { &mut self.published } else { &mut self.time };
            if slot.is_none() {
                *slot = time;
            }
            return;
        }
        let small = || dom.node(id).end - id <= 24;
        if itemprop == "datePublished" && self.published.is_none() && small() {
            self.published =
                dom.attr(id, Attr::Content).and_then(filled).or_else(|| filled(&dom.text_content(id)));
        }
        if self.dateline.is_none()
            && named(
                class,
                &[
                    "date",
                    "datum",
                    "fecha",
                    "data",
                    "dateline",
                    "published",
                    "post-date",
                    "entry-date",
                    "pubdate",
                ],
            )
            && small()
        {
            self.dateline = filled(&dom.text_content(id)).filter(|text| day(text).is_some());
        }
        let rel = dom.attr(id, Attr::Rel).unwrap_or("");
        if self.byline.is_none()
            && (itemprop == "author"
                || rel.split_ascii_whitespace().any(|word| word == "author")
                || named(
                    class,
                    &["byline", "author", "author-name", "byline__name", "p-author", "autor", "auteur"],
                ))
            && small()
        {
            // The name is the link to the author, if there is one; around it stand dates and counts.
            let link = dom.descendants(id).find(|n| dom.tag(*n) == Tag::A);
            let name =
                link.and_then(|n| filled(&dom.text_content(n))).or_else(|| filled(&dom.text_content(id)));
            self.byline = name.filter(|name| name.len() <= MAX_AUTHOR);
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

fn named(class: &str, names: &[&str]) -> bool {
    class.split_ascii_whitespace().any(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
}

fn inside_svg(dom: &Dom, id: NodeId) -> bool {
    dom.ancestors(id).any(|n| dom.tag(n) == Tag::Svg)
}

/// A statement on one line, cut where it is longer than any title or description.
fn filled(text: &str) -> Option<String> {
    let end = text.char_indices().nth(MAX_STATEMENT).map_or(text.len(), |(at, _)| at);
    Some(one_line(&text[..end])).filter(|t| !t.is_empty())
}

/// A name without "By" before it and dates behind; `None` for addresses and sentences.
fn author(text: String) -> Option<String> {
    let mut name = text.as_str();
    for start in ["by ", "written by ", "posted by ", "von ", "par ", "por ", "di ", "autor:", "author:"] {
        if let Some(head) = name.get(..start.len())
            && head.eq_ignore_ascii_case(start)
        {
            name = name[start.len()..].trim();
        }
    }
    let name = name.split(['|', '»', '•', '·', '\n']).next().unwrap_or(name).trim();
    let good =
        !name.is_empty() && name.len() <= MAX_AUTHOR && !name.starts_with("http") && !name.starts_with('@');
    good.then(|| name.to_string())
}

/// The best title: what the page tells social networks, or `<title>` without the site's name, or the first heading.
fn title(
    social: Option<String>,
    title: Option<String>,
    headings: &[String],
    headline: Option<&str>,
    site: Option<&str>,
) -> String {
    if let Some(title) = &title {
        // The heading with which the title begins; a heading inside it may be the site's name.
        let starts = headings.iter().find(|h| h.len() > 3 && title.starts_with(h.as_str()));
        let inside = || {
            headings
                .first()
                .filter(|h| h.len() > 8 && title.contains(h.as_str()) && !title.ends_with(h.as_str()))
        };
        if let Some(heading) = starts.or_else(inside) {
            return heading.clone();
        }
    }
    let title =
        social.or(title).or(headings.first().cloned()).or(headline.map(str::to_string)).unwrap_or_default();
    for separator in [" | ", " — ", " – ", " « ", " » ", " · ", " :: ", " - "] {
        if let Some((head, tail)) = title.rsplit_once(separator) {
            let (head, tail) = (head.trim(), tail.trim());
            let is_site = site.is_some_and(|site| site.trim().eq_ignore_ascii_case(tail))
                || headings.iter().any(|heading| heading == tail);
            if is_site && !head.is_empty() {
                return head.to_string();
            }
            if head.len() >= 15 && tail.len() <= 40 && head.len() > tail.len() {
                return head.to_string();
            }
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::statements::statements;
    use crate::html::parse;

    fn of(html: &str, url: &str) -> Metadata {
        let dom = parse(html);
        metadata(&dom, &statements(&dom), url).0
    }

    #[test]
    fn a_page_says_who_wrote_what_and_when() {
        let page = of(
            "<html lang=pt-BR><title>Um título bem longo - Jornal</title><meta property=og:site_name content=Jornal>
             <link rel=canonical href=https://j.example/a><body><span class=byline>By Ana Lima</span>
             <span class=date>20 de novembro de 2019</span>",
            "",
        );
        assert_eq!(page.title, "Um título bem longo");
        assert_eq!(page.author.as_deref(), Some("Ana Lima"));
        assert_eq!(page.date.as_deref(), Some("2019-11-20"));
        assert_eq!(page.language.as_deref(), Some("pt"));
        assert_eq!(page.canonical.as_deref(), Some("https://j.example/a"));
        assert_eq!(of("<p>x", "https://a.b/2020/01/02/x").date.as_deref(), Some("2020-01-02"));
    }
}
