//! Element names that mean something to extraction; every other name is [`Tag::Other`].

macro_rules! tags {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// An element's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Tag {
            /// The root of a document.
            Document,
            /// Character data.
            Text,
            /// A name without meaning here, such as a custom element.
            Other,
            $(#[doc = concat!("`<", $name, ">`")] $variant,)*
        }

        impl Tag {
            /// The tag of a lower-case name.
            pub fn from_name(name: &[u8]) -> Tag {
                $(const $variant: &[u8] = $name.as_bytes();)*
                #[allow(non_upper_case_globals)]
                match name {
                    $($variant => Tag::$variant,)*
                    _ => Tag::Other,
                }
            }

            /// The name, `#text`, `#document`, or `?` for [`Tag::Other`].
            pub fn name(self) -> &'static str {
                match self {
                    Tag::Document => "#document",
                    Tag::Text => "#text",
                    Tag::Other => "?",
                    $(Tag::$variant => $name,)*
                }
            }
        }
    };
}

#[allow(non_upper_case_globals)]
mod all {
    tags! {
        A = "a", Abbr = "abbr", Address = "address", Annotation = "annotation", AnnotationXml = "annotation-xml",
        Area = "area", Article = "article", Aside = "aside", Audio = "audio", B = "b", Base = "base",
        Blockquote = "blockquote", Body = "body", Br = "br", Button = "button", Canvas = "canvas", Caption = "caption",
        Center = "center", Cite = "cite", Code = "code", Col = "col", Colgroup = "colgroup", Dd = "dd", Del = "del",
        Details = "details", Dialog = "dialog", Div = "div", Dl = "dl", Dt = "dt", Em = "em", Embed = "embed",
        Fieldset = "fieldset", Figcaption = "figcaption", Figure = "figure", Font = "font", Footer = "footer",
        Form = "form", Frame = "frame", Frameset = "frameset", H1 = "h1", H2 = "h2", H3 = "h3", H4 = "h4", H5 = "h5",
        H6 = "h6", Head = "head", Header = "header", Hgroup = "hgroup", Hr = "hr", Html = "html", I = "i",
        Iframe = "iframe", Img = "img", Input = "input", Ins = "ins", Kbd = "kbd", Label = "label", Legend = "legend",
        Li = "li", Link = "link", Main = "main", Map = "map", Mark = "mark", Math = "math", Menu = "menu",
        Meta = "meta", Mfrac = "mfrac", Mi = "mi", Mn = "mn", Mo = "mo", Mover = "mover", Mroot = "mroot",
        Mrow = "mrow", Ms = "ms", Mspace = "mspace", Msqrt = "msqrt", Mstyle = "mstyle", Msub = "msub",
        Msubsup = "msubsup", Msup = "msup", Mtable = "mtable", Mtd = "mtd", Mtext = "mtext", Mtr = "mtr",
        Munder = "munder", Munderover = "munderover", Nav = "nav", Noframes = "noframes", Noscript = "noscript",
        Object = "object", Ol = "ol", Optgroup = "optgroup", Option = "option", Output = "output", P = "p",
        Param = "param", Picture = "picture", Plaintext = "plaintext", Pre = "pre", Progress = "progress", Q = "q",
        Rp = "rp", Rt = "rt", Ruby = "ruby", S = "s", Samp = "samp", Script = "script", Search = "search",
        Section = "section", Select = "select", Semantics = "semantics", Small = "small", Source = "source",
        Span = "span", Strike = "strike", Strong = "strong", Style = "style", Sub = "sub", Summary = "summary",
        Sup = "sup", Svg = "svg", Table = "table", Tbody = "tbody", Td = "td", Template = "template",
        Textarea = "textarea", Tfoot = "tfoot", Th = "th", Thead = "thead", Time = "time", Title = "title", Tr = "tr",
        Track = "track", Tt = "tt", U = "u", Ul = "ul", Var = "var", Video = "video", Wbr = "wbr", Xmp = "xmp",
    }
}
pub use all::Tag;

use Tag::*;

impl Tag {
    /// Never has content or an end tag.
    pub fn is_void(self) -> bool {
        matches!(
            self,
            Area | Base
                | Br
                | Col
                | Embed
                | Frame
                | Hr
                | Img
                | Input
                | Link
                | Meta
                | Param
                | Source
                | Track
                | Wbr
        )
    }

    /// Its content is characters up to its own end tag.
    pub fn is_raw_text(self) -> bool {
        matches!(self, Script | Style | Textarea | Title | Iframe | Noframes | Xmp)
    }

    /// Stands in the flow of a line.
    pub fn is_inline(self) -> bool {
        matches!(
            self,
            A | Abbr
                | Annotation
                | B
                | Button
                | Cite
                | Code
                | Del
                | Em
                | Font
                | I
                | Img
                | Input
                | Ins
                | Kbd
                | Label
                | Mark
                | Math
                | Mfrac
                | Mi
                | Mn
                | Mo
                | Mover
                | Mroot
                | Mrow
                | Ms
                | Mspace
                | Msqrt
                | Mstyle
                | Msub
                | Msubsup
                | Msup
                | Mtext
                | Munder
                | Munderover
                | Other
                | Output
                | Picture
                | Q
                | Rp
                | Rt
                | Ruby
                | S
                | Samp
                | Script
                | Select
                | Semantics
                | Small
                | Source
                | Span
                | Strike
                | Strong
                | Style
                | Sub
                | Sup
                | Svg
                | Text
                | Time
                | Tt
                | U
                | Var
                | Wbr
                | Br
                | Audio
                | Video
                | Map
                | Area
                | Object
                | Iframe
                | Noscript
                | Textarea
                | Progress
                | Canvas
                | Template
                | Link
                | Meta
        )
    }

    /// `h1` to `h6`.
    pub fn is_heading(self) -> bool {
        matches!(self, H1 | H2 | H3 | H4 | H5 | H6)
    }

    /// Formatting that misnested markup may leave open across blocks.
    pub fn is_formatting(self) -> bool {
        matches!(
            self,
            A | B
                | Code
                | Em
                | Font
                | I
                | S
                | Small
                | Strike
                | Strong
                | Tt
                | U
                | Span
                | Sub
                | Sup
                | Mark
                | Abbr
                | Cite
        )
    }

    /// Its start ends an open paragraph.
    pub fn closes_paragraph(self) -> bool {
        matches!(
            self,
            Address
                | Article
                | Aside
                | Blockquote
                | Center
                | Details
                | Dialog
                | Div
                | Dl
                | Fieldset
                | Figcaption
                | Figure
                | Footer
                | Form
                | H1
                | H2
                | H3
                | H4
                | H5
                | H6
                | Header
                | Hgroup
                | Hr
                | Main
                | Menu
                | Nav
                | Ol
                | P
                | Pre
                | Search
                | Section
                | Summary
                | Table
                | Ul
                | Xmp
                | Dd
                | Dt
                | Li
                | Plaintext
        )
    }

    /// An end tag inside it cannot close an element outside of it.
    pub fn is_scope(self) -> bool {
        matches!(self, Td | Th | Caption | Table | Html | Body | Document | Template | Object | Svg | Math)
    }

    /// Belongs into `<head>`.
    pub fn is_metadata(self) -> bool {
        matches!(self, Base | Link | Meta | Noscript | Script | Style | Template | Title | Head | Html)
    }
}
