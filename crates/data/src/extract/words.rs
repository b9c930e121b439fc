//! What the words of `class` and `id` say about an element's role. The lists hold words that sites of all kinds use;
//! none was chosen for a single page.

/// Roles that class names suggest; an element may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u16);

impl Roles {
    /// Surely not content: menus, sharing, cookie notices, advertisements.
    pub const BOILERPLATE: Roles = Roles(1);
    /// Perhaps not content: captions, bylines, boxes.
    pub const DOUBTFUL: Roles = Roles(2);
    /// The body of an article or the main part of a page.
    pub const CONTENT: Roles = Roles(4);
    /// Readers' comments.
    pub const COMMENTS: Roles = Roles(8);
    /// The text of an article itself, named precisely (`entry-content`, `articleBody`).
    pub const BODY: Roles = Roles(16);
    /// Shown to no reader (`hidden`, `sr-only`).
    pub const HIDDEN: Roles = Roles(32);
    /// The lead of an article, or a summary of another.
    pub const LEAD: Roles = Roles(64);
    /// Most often a summary of another page.
    pub const TEASER: Roles = Roles(128);
    /// Shown beside a word while the pointer is over it.
    pub const CARD: Roles = Roles(256);
    /// Who wrote a message of a forum, and what stands below all of theirs.
    pub const POSTER: Roles = Roles(1024);
    /// Numbers beside lines of code.
    pub const LINE_NUMBERS: Roles = Roles(2048);
    /// Looks like a button.
    pub const BUTTON: Roles = Roles(4096);
    /// Below a picture.
    pub const CAPTION: Roles = Roles(512);

    /// Whether it has all of `other`'s roles.
    pub fn has(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, other: Roles) {
        self.0 |= other.0;
    }
}

/// Words of one attribute value: split at what is no letter or digit and at changes to upper case, in lower case.
fn words(value: &str, mut each: impl FnMut(&str)) {
    let mut word = [0u8; 24];
    let mut length = 0;
    let mut after_lower = false;
    let mut flush = |word: &[u8]| {
        if let Ok(word) = std::str::from_utf8(word)
            && word.len() > 1
        {
            each(word);
        }
    };
    for &byte in value.as_bytes() {
        let splits = byte.is_ascii_uppercase() && after_lower;
        if !byte.is_ascii_alphanumeric() || splits {
            flush(&word[..length]);
            length = 0;
        }
        if byte.is_ascii_alphanumeric() && length < word.len() {
            word[length] = byte.to_ascii_lowercase();
            length += 1;
        }
        after_lower = byte.is_ascii_lowercase();
    }
    flush(&word[..length]);
}

/// The roles that the class and the id of an element suggest.
pub fn roles(class: &str, id: &str) -> Roles {
    let mut roles = Roles::default();
    for value in [class, id] {
        for name in value.split_ascii_whitespace() {
            roles.add(of_name(name));
        }
    }
    roles
}

/// The roles of a single class name, such as `article-share-buttons`.
fn of_name(name: &str) -> Roles {
    let mut roles = Roles::default();
    let (mut first, mut body_of, mut is_state, mut embedded) = (true, false, false, false);
    let (mut user_of, mut author_of, mut about) = (false, false, false);
    words(name, |word| {
        if first && STATE_WORDS.contains(&word) {
            is_state = true; // `has-sidebar`, `with-ads`, `no-comments` describe a page, not the element
        }
        if BOILERPLATE_WORDS.binary_search(&word).is_ok()
            || BOILERPLATE_STEMS.iter().any(|s| word.starts_with(s))
        {
            roles.add(Roles::BOILERPLATE);
        }
        if DOUBTFUL_WORDS.binary_search(&word).is_ok() {
            roles.add(Roles::DOUBTFUL);
        }
        if LEAD_WORDS.contains(&word) {
            roles.add(Roles::LEAD);
        }
        if word == "teaser" {
            roles.add(Roles::TEASER);
        }
        if matches!(word, "caption" | "captions" | "figcaption") {
            roles.add(Roles::CAPTION);
        }
        if POSTER_WORDS.contains(&word) {
            roles.add(Roles::POSTER);
        }
        if LINE_NUMBER_WORDS.contains(&word) {
            roles.add(Roles::LINE_NUMBERS);
        }
        if CARD_WORDS.contains(&word) {
            roles.add(Roles::CARD);
        }
        if COMMENT_WORDS.contains(&word) {
            roles.add(Roles::COMMENTS);
        }
        if HIDDEN_WORDS.contains(&word) {
            roles.add(Roles::HIDDEN);
        }
        if CONTENT_WORDS.contains(&word) {
            roles.add(Roles::CONTENT);
        }
        let part = matches!(word, "body" | "content" | "text" | "articlebody" | "maincontent");
        if (body_of && part) || WHOLE_BODY_WORDS.contains(&word) {
            roles.add(Roles::BODY);
        }
        embedded |= matches!(word, "embed" | "embedded" | "tweet");
        if user_of
            && matches!(word, "info" | "details" | "card" | "name" | "meta" | "profile" | "stats" | "action")
        {
            roles.add(Roles::POSTER);
        }
        if matches!(word, "btn" | "button" | "cta") {
            roles.add(Roles::BUTTON);
        }
        // The box about the author below an article.
        if author_of
            && matches!(word, "about" | "bio" | "biography" | "box" | "card" | "description" | "profile")
            || about && word == "author"
        {
            roles.add(Roles::BOILERPLATE);
        }
        author_of |= word == "author";
        about |= word == "about";
        user_of |= matches!(word, "user" | "member" | "author" | "poster");
        body_of |= matches!(word, "article" | "post" | "entry" | "story" | "blog" | "news");
        first = false;
    });
    // What another site says, shown inside an article, is quoted.
    if is_state || (embedded && !roles.has(Roles::DOUBTFUL)) { Roles::default() } else { roles }
}

const STATE_WORDS: &[&str] =
    &["has", "with", "no", "not", "is", "hide", "show", "single", "layout", "template", "page", "wp", "js"];

const COMMENT_WORDS: &[&str] = &[
    "comment",
    "comments",
    "commentlist",
    "disqus",
    "kommentare",
    "kommentar",
    "comentarios",
    "commentaires",
    "replies",
    "reply",
    "respond",
    "talkback",
];

const LEAD_WORDS: &[&str] = &[
    "abstract",
    "articleintro",
    "bajada",
    "chapeau",
    "chapo",
    "deck",
    "dek",
    "description",
    "entradilla",
    "excerpt",
    "ingress",
    "intro",
    "introduction",
    "lead",
    "lede",
    "sottotitolo",
    "standfirst",
    "subheader",
    "subheading",
    "subheadline",
    "subtitle",
    "subtitulo",
    "summary",
    "synopsis",
    "teaser",
    "vorspann",
];

const POSTER_WORDS: &[&str] =
    &["avatar", "postprofile", "poster", "postuser", "signature", "userinfo", "userdetails", "username"];

/// Also `line-numbers`, read as two words.
const LINE_NUMBER_WORDS: &[&str] = &[
    "gutter",
    "line",
    "lineno",
    "linenos",
    "linenum",
    "linenumber",
    "linenumbers",
    "lines",
    "ln",
    "lnt",
    "num",
    "nums",
];

const CARD_WORDS: &[&str] = &["hovercard", "popover", "rollover", "tooltip", "tooltiptext"];

const HIDDEN_WORDS: &[&str] = &["hidden", "invisible", "offscreen", "noprint", "noshow"];

const CONTENT_WORDS: &[&str] = &[
    "article",
    "articlebody",
    "body",
    "content",
    "contents",
    "contenu",
    "description",
    "entry",
    "hentry",
    "inhalt",
    "main",
    "maincontent",
    "post",
    "story",
    "text",
    "thread",
    "topic",
];

const WHOLE_BODY_WORDS: &[&str] = &[
    "articlebody",
    "articletext",
    "storybody",
    "postbody",
    "entrycontent",
    "storytext",
    "articlecontent",
    "artikeltext",
];

const BOILERPLATE_STEMS: &[&str] = &[
    "advert",
    "breadcrumb",
    "newsletter",
    "sponsor",
    "subscri",
    "recommend",
    "navig",
    "cookie",
    "werbung",
    "taboola",
    "outbrain",
    "paginat",
];

/// Sorted, for the binary search.
const BOILERPLATE_WORDS: &[&str] = &[
    "ad",
    "addthis",
    "ads",
    "adsense",
    "adslot",
    "banner",
    "bannerad",
    "blogroll",
    "bookmark",
    "bottombar",
    "carousel",
    "consent",
    "contentinfo",
    "crosslinks",
    "datenschutz",
    "dfp",
    "disclaimer",
    "dropdown",
    "facebook",
    "feedback",
    "flyout",
    "followus",
    "foot",
    "footer",
    "gdpr",
    "getsocial",
    "linkedin",
    "linklist",
    "links",
    "login",
    "masthead",
    "menu",
    "menubar",
    "modal",
    "mostread",
    "nav",
    "navbar",
    "navi",
    "offcanvas",
    "overlay",
    "pager",
    "paywall",
    "pinterest",
    "popular",
    "popup",
    "print",
    "promo",
    "promotion",
    "promotions",
    "rail",
    "related",
    "relateds",
    "rss",
    "search",
    "searchbox",
    "searchform",
    "share",
    "sharebar",
    "sharedaddy",
    "sharing",
    "shop",
    "shopping",
    "sidebar",
    "sidebars",
    "signup",
    "sitemap",
    "skip",
    "skyscraper",
    "social",
    "socialmedia",
    "speechkit",
    "sticky",
    "suggestions",
    "tagcloud",
    "taglist",
    "tags",
    "teasers",
    "ticker",
    "toc",
    "toolbar",
    "tools",
    "topbar",
    "trending",
    "twitter",
    "upsell",
    "voting",
    "whatsapp",
];

/// Sorted, for the binary search.
const DOUBTFUL_WORDS: &[&str] = &[
    "author",
    "authors",
    "bio",
    "byline",
    "caption",
    "captions",
    "category",
    "copyright",
    "credit",
    "credits",
    "dateline",
    "editsection",
    "factbox",
    "figcaption",
    "gallery",
    "infobox",
    "legend",
    "metadata",
    "noprint",
    "pubdate",
    "published",
    "rating",
    "readmore",
    "slideshow",
    "timestamp",
    "widget",
    "widgets",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_word_by_word() {
        assert!(roles("article-share-buttons", "").has(Roles::BOILERPLATE));
        assert!(roles("", "mainNavigation").has(Roles::BOILERPLATE));
        assert!(roles("entry-content clearfix", "").has(Roles::BODY));
        assert!(roles("articleBody", "").has(Roles::BODY));
        assert!(!roles("has-sidebar", "").has(Roles::BOILERPLATE), "a state of the page");
        assert!(!roles("shadow header-download", "").has(Roles::BOILERPLATE), "parts of words do not count");
    }

    #[test]
    fn the_lists_are_sorted() {
        assert!(BOILERPLATE_WORDS.is_sorted() && DOUBTFUL_WORDS.is_sorted());
    }
}
