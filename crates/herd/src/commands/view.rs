//! The terminal view of `herd data inspect`: tabs, a list on the left, what is chosen on the right.

use console::{Key, Term, measure_text_width, style, truncate_str};
use herd_data::inspect::View;
use std::fmt::Write as _;
use std::io;

/// Columns of the list.
const LIST: usize = 34;

/// One thing to look at.
pub struct Item {
    /// Its line in the list.
    pub title: String,
    /// What is shown of it, any number of lines.
    pub body: String,
}

/// A tab.
pub struct Tab {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub items: Vec<Item>,
}

/// Where one looks.
#[derive(Default)]
pub struct Place {
    tab: usize,
    item: usize,
    scroll: usize,
}

/// What a key does.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stay,
    Quit,
}

/// All that can be looked at.
pub fn tabs(view: &View) -> Vec<Tab> {
    let funnel = view.funnel.steps.iter().map(|step| {
        let removed = step.documents_in - step.documents_out;
        let mut body = format!(
            "documents in   {}\ndocuments out  {}\nremoved        {removed}\nbytes in       {}\nbytes out      {}\n",
            step.documents_in, step.documents_out, step.bytes_in, step.bytes_out
        );
        if let Some(tokens) = view.tokens(&step.step, step.bytes_out) {
            let _ = writeln!(body, "tokens out     {tokens} (from bytes)");
        }
        for (rule, count) in &step.dropped {
            let _ = write!(body, "\n{count:>10}  {rule}");
        }
        Item { title: format!("{:<18} {:>9}", step.step, step.documents_out), body }
    });
    let rules = view.rules.iter().map(|rule| {
        let mut body = format!("{} documents, dropped by {}\n", rule.dropped, rule.step);
        for reject in &rule.examples {
            let reason = &reject.reason;
            let _ = write!(
                body,
                "\n{}\n{} against {}: {}\n{}\n",
                reject.url, reason.value, reason.threshold, reason.excerpt, reason.text
            );
        }
        Item { title: format!("{:<24} {:>6}", rule.rule, rule.dropped), body }
    });
    let clusters = view.clusters.iter().map(|cluster| {
        let mut body = format!(
            "STAYS {}\n\n{}\n",
            cluster.url,
            cluster.text.as_deref().unwrap_or("(dropped by a later step)")
        );
        for other in &cluster.dropped {
            let _ = write!(
                body,
                "\nGOES {} (similarity {:.2})\n\n{}\n",
                other.url, other.reason.value, other.reason.text
            );
        }
        Item { title: format!("{} more like {}", cluster.dropped.len(), cluster.url), body }
    });
    let documents = view.documents.iter().map(|document| {
        let mut body = format!(
            "{}\n{}, {} {:.2}, {}\n",
            document.url,
            document.domain.name(),
            document.language,
            document.language_score,
            document.page_type.name()
        );
        for (name, value) in document.values.iter().filter(|(_, v)| !v.is_nan()) {
            let _ = writeln!(body, "{name} {value:.3}");
        }
        let _ = write!(body, "\n{}", document.text);
        let title = if document.title.is_empty() { &document.url } else { &document.title };
        Item { title: title.clone(), body }
    });
    let tab = |name: &str, items: Vec<Item>| Tab { name: name.into(), items };
    vec![
        tab("funnel", funnel.collect()),
        tab("rejects", rules.collect()),
        tab("near-duplicates", clusters.collect()),
        tab("documents", documents.collect()),
    ]
}

/// A text in lines of at most `width` columns, safe for a terminal.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut out = String::new();
        let mut columns = 0;
        for c in line.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            let wide = measure_text_width(c.encode_utf8(&mut [0; 4]));
            if columns + wide > width {
                lines.push(std::mem::take(&mut out));
                columns = 0;
            }
            out.push(c);
            columns += wide;
        }
        lines.push(out);
    }
    lines
}

/// A text cut or filled to `width` columns.
fn fit(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = truncate_str(&text, width, "…").into_owned();
    let missing = width.saturating_sub(measure_text_width(&text));
    text + &" ".repeat(missing)
}

impl Place {
    /// The screen, line by line.
    fn frame(&mut self, tabs: &[Tab], rows: usize, columns: usize) -> Vec<String> {
        let tab = &tabs[self.tab];
        self.item = self.item.min(tab.items.len().saturating_sub(1));
        let right = columns.saturating_sub(LIST + 3).max(10);
        let height = rows.saturating_sub(3).max(1);
        let body = tab.items.get(self.item).map_or(Vec::new(), |item| wrap(&item.body, right));
        self.scroll = self.scroll.min(body.len().saturating_sub(height));
        let mut head = String::new();
        for (n, tab) in tabs.iter().enumerate() {
            let name = format!(" {} {} ({}) ", n + 1, tab.name, tab.items.len());
            let name = if n == self.tab { style(name).reverse().to_string() } else { name };
            head.push_str(&name);
        }
        let mut out = vec![head, "─".repeat(columns)];
        // The list moves so that the chosen item stays in sight.
        let first = self.item.saturating_sub(height - 1);
        for row in 0..height {
            let title = tab.items.get(first + row).map_or("", |item| &item.title);
            let left = fit(title, LIST);
            let left = if first + row == self.item && !tab.items.is_empty() {
                style(left).reverse().to_string()
            } else {
                left
            };
            let line = body.get(self.scroll + row).map_or("", String::as_str);
            out.push(format!("{left} │ {line}"));
        }
        let help = "1-4 or Tab: page   arrows: choose   Space, b: scroll   q: end";
        out.push(style(fit(help, columns)).dim().to_string());
        out
    }

    fn press(&mut self, key: &Key, tabs: &[Tab], rows: usize) -> Step {
        let last = tabs[self.tab].items.len().saturating_sub(1);
        let page = rows.saturating_sub(4).max(1);
        match key {
            Key::Char('q') | Key::Escape | Key::CtrlC => return Step::Quit,
            Key::Char(c @ '1'..='9') if (*c as usize - '1' as usize) < tabs.len() => {
                *self = Self { tab: *c as usize - '1' as usize, ..Self::default() };
            }
            Key::Tab | Key::ArrowRight => {
                *self = Self { tab: (self.tab + 1) % tabs.len(), ..Self::default() }
            }
            Key::BackTab | Key::ArrowLeft => {
                *self = Self { tab: (self.tab + tabs.len() - 1) % tabs.len(), ..Self::default() };
            }
            Key::ArrowDown | Key::Char('j') => (self.item, self.scroll) = ((self.item + 1).min(last), 0),
            Key::ArrowUp | Key::Char('k') => (self.item, self.scroll) = (self.item.saturating_sub(1), 0),
            Key::Char(' ') | Key::PageDown => self.scroll += page,
            Key::Char('b') | Key::PageUp => self.scroll = self.scroll.saturating_sub(page),
            _ => {}
        }
        Step::Stay
    }
}

/// Shows the view until the user ends it.
pub fn show(view: &View, term: &Term) -> io::Result<()> {
    let tabs = tabs(view);
    let mut place = Place::default();
    term.hide_cursor()?;
    let shown = (|| {
        loop {
            let (rows, columns) = term.size();
            let frame = place.frame(&tabs, rows as usize, columns as usize);
            term.clear_screen()?;
            term.write_str(&frame.join("\n"))?;
            if place.press(&term.read_key()?, &tabs, rows as usize) == Step::Quit {
                return term.clear_screen();
            }
        }
    })();
    term.show_cursor()?;
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Tab> {
        let item = |n: usize| Item {
            title: format!("title {n} that is longer than the list is wide, 東京 and all"),
            body: (0..50).map(|k| format!("line {k} of {n}\u{1b}[31m\n")).collect(),
        };
        ["one", "two"].map(|name| Tab { name: name.into(), items: (0..30).map(item).collect() }).into()
    }

    #[test]
    fn keys_move_and_every_line_fits_the_screen() {
        let (tabs, mut place) = (example(), Place::default());
        let shown = |place: &mut Place| place.frame(&tabs, 20, 80);
        let first = shown(&mut place);
        assert_eq!(first.len(), 20);
        assert!(first.iter().all(|line| measure_text_width(line) <= 80), "{first:?}");
        assert!(first[2].contains("title 0") && first[2].contains("line 0 of 0"));
        assert!(
            !first[2].contains('\u{1b}') || console::strip_ansi_codes(&first[2]).contains("[31m"),
            "no codes of a page"
        );
        place.press(&Key::Char(' '), &tabs, 20);
        assert!(shown(&mut place)[2].contains("line 16 of 0"));
        for _ in 0..40 {
            place.press(&Key::ArrowDown, &tabs, 20);
        }
        let last = shown(&mut place);
        assert!(last.iter().any(|line| line.contains("title 29")) && last[2].contains("line 0 of 29"));
        for _ in 0..9 {
            place.press(&Key::PageDown, &tabs, 20);
        }
        assert!(shown(&mut place)[18].contains("line 49 of 29"), "scrolling ends at the end");
        place.press(&Key::Char('2'), &tabs, 20);
        assert!(shown(&mut place)[2].contains("title 0") && place.tab == 1);
        assert_eq!(place.press(&Key::Char('q'), &tabs, 20), Step::Quit);
    }
}
