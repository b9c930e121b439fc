//! What kind of page it is: the way its text is chosen depends on it.

use super::metadata::Head;
use super::statements::Statements;
use crate::html::{Attr, Dom, NodeId, Tag};
use serde::{Deserialize, Serialize};

/// Points from which a kind is taken.
const ENOUGH: f32 = 2.0;

/// Kinds of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageType {
    /// One text by one author: news, blogs, encyclopedias, recipes.
    Article,
    /// Messages by several people: forums, questions with answers.
    Forum,
    /// Manuals and references.
    Documentation,
    /// One thing for sale.
    Product,
    /// Many things, each with a line or a summary: shops' categories, archives, search results.
    Listing,
    /// What somebody offers: home pages, services, prices.
    Service,
    /// None of these, or not told.
    #[default]
    Other,
}

impl PageType {
    /// All of them.
    pub const ALL: [PageType; 7] = [
        PageType::Article,
        PageType::Forum,
        PageType::Documentation,
        PageType::Product,
        PageType::Listing,
        PageType::Service,
        PageType::Other,
    ];

    /// The name in files, such as `article`.
    pub fn name(self) -> &'static str {
        match self {
            PageType::Article => "article",
            PageType::Forum => "forum",
            PageType::Documentation => "documentation",
            PageType::Product => "product",
            PageType::Listing => "listing",
            PageType::Service => "service",
            PageType::Other => "other",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Points for each kind but the last.
#[derive(Default)]
struct Points([f32; 6]);

impl Points {
    fn add(&mut self, kind: PageType, points: f32) {
        if let Some(slot) = self.0.get_mut(kind as usize) {
            *slot += points;
        }
    }
}

/// Tells the kind of a page from what it states, from its address and from its structure.
pub fn page_type(dom: &Dom, head: &Head, stated: &Statements, url: &str) -> PageType {
    let mut points = Points::default();
    of_statements(stated, &mut points);
    of_head(head, &mut points);
    of_address(url, &mut points);
    Counts::new(dom).rate(&mut points);
    let best = PageType::ALL[..6]
        .iter()
        .copied()
        .reduce(|best, kind| if points.0[kind as usize] > points.0[best as usize] { kind } else { best });
    best.filter(|kind| points.0[*kind as usize] >= ENOUGH).unwrap_or_default()
}

fn of_statements(stated: &Statements, points: &mut Points) {
    use PageType::*;
    for kind in &stated.kinds {
        let kind = kind.rsplit(['/', ':', '#']).next().unwrap_or("");
        match kind {
            "TechArticle" | "APIReference" => points.add(Documentation, 3.0),
            "Recipe" | "BlogPosting" | "Review" | "HowTo" | "MedicalWebPage" => points.add(Article, 3.0),
            "Product" | "ProductGroup" | "IndividualProduct" | "ProductModel" => points.add(Product, 4.0),
            "DiscussionForumPosting" | "QAPage" => points.add(Forum, 6.0),
            "CollectionPage" | "SearchResultsPage" | "OfferCatalog" => points.add(Listing, 3.0),
            "ItemList" => points.add(Listing, 1.5),
            "Service" | "ProfessionalService" | "AboutPage" | "ContactPage" => points.add(Service, 2.0),
            "LocalBusiness" | "SoftwareApplication" => points.add(Service, 1.0),
            _ if kind.ends_with("Article") => points.add(Article, 4.0),
            _ => {}
        }
    }
    points.0.iter_mut().for_each(|p| *p = p.min(6.0)); // the same statement many times says it once
}

fn of_head(head: &Head, points: &mut Points) {
    use PageType::*;
    match head.kind.as_str() {
        "article" | "blog" | "news" => points.add(Article, 2.0),
        "product" | "product.item" | "og:product" | "book" => points.add(Product, 3.0),
        "product.group" => points.add(Listing, 2.0),
        "website" | "company" => points.add(Service, 0.5),
        _ => {}
    }
    let made_by = head.generator.to_ascii_lowercase();
    let any = |names: &[&str]| names.iter().any(|name| made_by.contains(name));
    if any(&[
        "docusaurus",
        "sphinx",
        "mkdocs",
        "gitbook",
        "mdbook",
        "doxygen",
        "javadoc",
        "rustdoc",
        "docfx",
        "vuepress",
        "vitepress",
        "antora",
        "asciidoctor",
        "docbook",
        "publican",
        "yelp",
        "pdoc",
        "jsdoc",
        "typedoc",
        "starlight",
        "readme.io",
        "docutils",
        "ghc",
    ]) {
        points.add(Documentation, 4.0);
    }
    if any(&[
        "phpbb",
        "vbulletin",
        "xenforo",
        "discourse",
        "mybb",
        "smf",
        "simple machines",
        "invision",
        "flarum",
        "nodebb",
        "vanilla",
        "burning board",
        "fluxbb",
        "punbb",
        "woltlab",
    ]) {
        points.add(Forum, 4.0);
    }
    if head.published {
        points.add(Article, 1.5);
    }
}

fn of_address(url: &str, points: &mut Points) {
    use PageType::*;
    let lower = url.to_ascii_lowercase();
    let rest = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.split('#').next().unwrap_or("");
    if url.is_empty() {
        return;
    }
    if super::dates::day_of_address(url).is_some() {
        points.add(Article, 2.0);
    }
    for part in host.split('.') {
        match part {
            "forum" | "forums" | "discuss" | "community" | "answers" => points.add(Forum, 1.5),
            "docs" | "doc" | "documentation" | "developer" | "developers" | "readthedocs" | "wiki"
            | "help" => points.add(Documentation, 1.5),
            "blog" | "news" => points.add(Article, 1.0),
            "shop" | "store" => points.add(Product, 0.5),
            _ => {}
        }
    }
    let before = points.0;
    // Not at hyphens: the words of a title say nothing of the kind.
    for part in path.split(['/', '?', '&', '=', '.']) {
        match part {
            "forum" | "forums" | "thread" | "threads" | "topic" | "viewtopic" | "showthread"
            | "discussion" | "discussions" | "questions" | "comments" | "t" => points.add(Forum, 1.5),
            "docs" | "doc" | "documentation" | "manual" | "reference" | "api" | "javadoc" | "tutorial"
            | "man" | "guide" | "guides" | "library" | "handbook" => points.add(Documentation, 1.0),
            "product" | "products" | "produkt" | "produit" | "producto" | "dp" | "item" => {
                points.add(Product, 1.0)
            }
            "category" | "categories" | "tag" | "tags" | "collections" | "collection" | "search"
            | "browse" | "kategorie" | "categoria" | "archive" | "archives" => points.add(Listing, 1.5),
            "blog" | "news" | "article" | "articles" | "story" | "post" | "posts" | "artikel" | "recipe" => {
                points.add(Article, 1.0)
            }
            "service" | "services" | "solutions" | "pricing" | "features" | "about" | "contact"
            | "leistungen" => points.add(Service, 1.5),
            _ => {}
        }
    }
    // The address counts once for each kind.
    for (now, before) in points.0.iter_mut().zip(before) {
        *now = now.min(before + 1.5);
    }
    if path.is_empty() || path == "index.html" {
        points.add(Service, 1.5);
    }
}

/// What is counted in one walk over the page.
#[derive(Default)]
struct Counts {
    /// Names on `<body>`, by WordPress and its like.
    body: String,
    /// Elements with the class of a post's author or text.
    posters: usize,
    posts: usize,
    /// The same for classes that blogs use too.
    perhaps_posters: usize,
    perhaps_posts: usize,
    /// Controls that put a thing into a cart.
    carts: usize,
    /// Visible characters, and those in code, and in paragraphs that are long.
    chars: usize,
    code: usize,
    /// Nodes before this are in `pre` already counted.
    code_end: NodeId,
    prose: usize,
    long_paragraphs: usize,
    articles: usize,
    /// Whether a class is one of a documentation generator's.
    manual: bool,
    /// `itemtype`s.
    product: bool,
    post_kind: bool,
    article_kind: bool,
}

const CART: [&str; 14] = [
    "add to cart",
    "add to basket",
    "add to bag",
    "buy now",
    "in den warenkorb",
    "in den einkaufswagen",
    "ajouter au panier",
    "añadir al carrito",
    "agregar al carrito",
    "aggiungi al carrello",
    "adicionar ao carrinho",
    "in winkelwagen",
    "do koszyka",
    "в корзину",
];

impl Counts {
    fn new(dom: &Dom) -> Self {
        let mut counts = Self::default();
        let mut skip = 0;
        for id in 0..dom.nodes.len() as NodeId {
            if id < skip {
                continue;
            }
            match dom.tag(id) {
                Tag::Script | Tag::Style | Tag::Template | Tag::Svg | Tag::Head => skip = dom.node(id).end,
                Tag::Body => {
                    counts.body = dom.attr(id, Attr::Class).unwrap_or("").to_ascii_lowercase();
                }
                Tag::Text => counts.text(dom, id),
                tag => counts.element(dom, id, tag),
            }
        }
        counts
    }

    fn text(&mut self, dom: &Dom, id: NodeId) {
        let text = dom.text(id).trim();
        self.chars += text.len();
        if (7..=30).contains(&text.len()) {
            let lower = text.to_lowercase();
            self.carts += CART.iter().any(|words| lower.starts_with(words)) as usize;
        }
    }

    fn element(&mut self, dom: &Dom, id: NodeId, tag: Tag) {
        let size = || dom.descendants(id).map(|n| dom.text(n).len()).sum::<usize>();
        match tag {
            Tag::Pre if id >= self.code_end => {
                self.code += size();
                self.code_end = dom.node(id).end;
            }
            Tag::Article => self.articles += 1,
            Tag::P => {
                let size = size();
                if size >= 200 {
                    self.prose += size;
                    self.long_paragraphs += 1;
                }
            }
            _ => {}
        }
        if !dom.has_attrs(id) {
            return;
        }
        if let Some(kind) = dom.attr(id, Attr::Itemtype) {
            let kind = kind.trim().rsplit('/').next().unwrap_or("");
            self.product |= kind == "Product";
            self.post_kind |= matches!(kind, "DiscussionForumPosting" | "QAPage" | "Answer");
            self.article_kind |= kind.ends_with("Article") || matches!(kind, "BlogPosting" | "Recipe");
        }
        let Some(class) = dom.attr(id, Attr::Class) else { return };
        for name in class.split_ascii_whitespace() {
            match name.to_ascii_lowercase().as_str() {
                "sphinxsidebar"
                | "sphinxsidebarwrapper"
                | "rst-content"
                | "documentwrapper"
                | "theme-doc-markdown"
                | "docmaincontainer"
                | "rustdoc"
                | "mdbook-version"
                | "docstring"
                | "toctree-wrapper"
                | "mobile-nav-chapters"
                | "md-nav--primary"
                | "doc-content" => self.manual = true,
                "postprofile" | "userinfo" | "message-user" | "message-cell--user" | "cauthor"
                | "postbit" | "ipscomment_author" | "postuser" | "hnuser" | "topic-avatar" | "postauthor" => {
                    self.posters += 1
                }
                "postbody" | "bbwrapper" | "s-prose" | "topic-post" | "cpost" | "usertext-body"
                | "postcontent" | "postmessage" | "commtext" | "post_message" => self.posts += 1,
                "poster" | "post-author" | "post_author" | "user-info" | "author_info" | "username"
                | "user-name" | "avatar" | "user-avatar" => self.perhaps_posters += 1,
                "post" | "message" | "reply" | "answer" | "post-body" | "post_body" | "post-text"
                | "message-body" | "message-content" | "post-message" | "comment-body" => {
                    self.perhaps_posts += 1
                }
                _ => {}
            }
        }
    }

    fn rate(&self, points: &mut Points) {
        use PageType::*;
        let body = |word: &str| self.body.split_ascii_whitespace().any(|name| name == word);
        if body("single-post") || body("single") {
            points.add(Article, 2.0);
        }
        if body("single-product") {
            points.add(Product, 3.0);
        }
        if ["archive", "category", "search-results", "tag", "post-type-archive"].iter().any(|name| body(name))
        {
            points.add(Listing, 2.5);
        }
        if body("home") || body("front-page") {
            points.add(Service, 1.5);
        }
        if self.posters >= 2 && self.posts >= 2 {
            points.add(Forum, 3.0);
        } else if self.posters + self.perhaps_posters >= 3 && self.posts + self.perhaps_posts >= 3 {
            points.add(Forum, 1.0);
        }
        if self.manual {
            points.add(Documentation, 4.0);
        }
        if self.product {
            points.add(Product, 2.0);
        }
        if self.post_kind {
            points.add(Forum, 4.0);
        }
        if self.article_kind {
            points.add(Article, 3.0);
        }
        match self.carts {
            0 => {}
            1..=3 => points.add(Product, 2.0),
            _ => points.add(Listing, 2.0),
        }
        if self.code * 10 > self.chars && self.code > 400 {
            points.add(Documentation, 1.5);
        }
        if self.long_paragraphs >= 3 && self.prose * 3 > self.chars {
            points.add(Article, 2.0);
        } else if self.long_paragraphs >= 3 {
            points.add(Article, 1.0);
        }
        if self.articles >= 6 && self.prose * 4 < self.chars {
            points.add(Listing, 2.0);
        }
    }
}
