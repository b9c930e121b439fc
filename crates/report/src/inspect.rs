//! The page of `herd data inspect`: what a crawl became, looked at closely.

use crate::chart::{Funnel, FunnelStep};
use crate::html::{escape, fold, shorten, table};
use crate::number;
use herd_data::inspect::{ClusterView, RuleView, View};
use herd_data::rejects::Reject;
use std::fmt::Write;

/// Characters of a document that are shown at once.
const SHOWN: usize = 600;
/// Characters that are shown of an address.
const LINK: usize = 120;

/// The whole page, self-contained. `name` is what it is a page of.
pub fn inspection(view: &View, name: &str) -> String {
    let sections = [
        ("funnel", "Funnel", "Documents, bytes and tokens after each step.", funnel(view)),
        (
            "rejects",
            "Rejects by rule",
            "A sample of what each rule dropped: the value, the threshold it passed, and the text that triggered it.",
            view.rules.iter().map(rule).collect(),
        ),
        (
            "clusters",
            "Near-duplicates",
            "The document that stays on the left, one that went for it on the right; words that only one of them has are marked.",
            clusters(view),
        ),
        (
            "documents",
            "Documents",
            "A sample of what stayed, with everything that was measured.",
            documents(view),
        ),
    ];
    let links: String =
        sections.iter().map(|(id, title, ..)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let bodies: String = sections
        .iter()
        .map(|(id, title, intro, body)| {
            format!("<section id=\"{id}\"><h2>{title}</h2><p class=\"intro\">{intro}</p>{body}</section>")
        })
        .collect();
    let first = view.funnel.steps.first().map_or(0, |s| s.documents_in);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
         <title>{name} · data · Herd</title><style>{style}</style></head>\n<body>\
         <header class=\"top\"><div class=\"eyebrow\">Herd · curated crawl</div><h1>{name}</h1>\
         <p class=\"lead\"><b>{kept}</b> documents of <b>{first}</b> captured pages.</p>\
         <nav aria-label=\"Sections\">{links}</nav></header><main>{bodies}</main>\
         <footer>Made by Herd {version} from the files of this folder alone.</footer></body></html>\n",
        name = escape(name),
        style = include_str!("style.css"),
        kept = number::whole(view.total as f64),
        first = number::whole(first as f64),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn funnel(view: &View) -> String {
    let step = |step: &herd_data::funnel::Step| {
        let dropped = step.documents_in - step.documents_out;
        let words: Vec<_> = step.dropped.iter().map(|(rule, n)| format!("{rule}: {n}")).collect();
        FunnelStep {
            name: step.step.clone(),
            kept: step.documents_out as f64,
            dropped: dropped as f64,
            text: number::whole(step.documents_out as f64),
            reasons: words.join("\n"),
        }
    };
    let chart = Funnel {
        title: "What remains after each step".into(),
        note: "documents kept (dark) and removed by the step (light)".into(),
        steps: view.funnel.steps.iter().map(step).collect(),
    };
    let rows: Vec<Vec<String>> = view
        .funnel
        .steps
        .iter()
        .map(|step| {
            let dropped = step.documents_in - step.documents_out;
            let tokens = view.tokens(&step.step, step.bytes_out);
            vec![
                step.step.clone(),
                number::whole(step.documents_out as f64),
                if dropped > 0 { number::whole(dropped as f64) } else { String::new() },
                number::bytes(step.bytes_out as f64),
                tokens.map_or(String::new(), |t| number::compact(t as f64)),
            ]
        })
        .collect();
    let heads = ["Step", "Documents after it", "Removed", "Bytes", "Tokens (from bytes)"];
    let mut html = chart.figure().unwrap_or_default();
    let _ = write!(html, "<div class=\"card\">{}</div>", table(&heads, &rows));
    html
}

fn rule(rule: &RuleView) -> String {
    let examples: String = rule.examples.iter().map(reject).collect();
    let step = if rule.step.is_empty() { String::new() } else { format!(" · {}", rule.step) };
    format!(
        "<div class=\"card\"><h3>{} <span class=\"count\">{}{}</span></h3>{examples}</div>",
        escape(&rule.rule),
        number::whole(rule.dropped as f64),
        escape(&step)
    )
}

fn reject(reject: &Reject) -> String {
    let reason = &reject.reason;
    let mut html = format!(
        "<p class=\"reject\"><span>{}</span> · {} against {}</p><pre>{}</pre>",
        escape(&shorten(&reject.url, LINK)),
        number::significant(reason.value.into()),
        number::significant(reason.threshold.into()),
        escape(&reason.excerpt)
    );
    if !reason.text.is_empty() {
        html.push_str(&fold(
            "the beginning of the document",
            &format!("<pre>{}</pre>", escape(&reason.text)),
        ));
    }
    html
}

fn clusters(view: &View) -> String {
    if view.clusters.is_empty() {
        return "<p class=\"note\">No near-duplicates were found.</p>".into();
    }
    let shown = view.clusters.len();
    let mut html =
        format!("<p class=\"note\">{shown} of {} clusters, the largest first.</p>", view.clusters_total);
    view.clusters.iter().for_each(|c| html.push_str(&cluster(c)));
    html
}

fn cluster(cluster: &ClusterView) -> String {
    let kept = cluster.text.as_deref();
    let mut html = String::new();
    for (n, other) in cluster.dropped.iter().enumerate() {
        let text = &other.reason.text;
        let (left, right) = match kept {
            Some(kept) => (marked(kept, text), marked(text, kept)),
            None => ("<i>dropped by a later step</i>".to_string(), escape(text)),
        };
        let pair = format!(
            "<div class=\"chat\"><div class=\"answers\"><div><small>stays · {}</small>{left}</div>\
             <div><small>goes · similarity {} · {}</small>{right}</div></div></div>",
            escape(&shorten(&cluster.url, LINK)),
            number::significant(other.reason.value.into()),
            escape(&shorten(&other.url, LINK)),
        );
        match n {
            0 => html.push_str(&pair),
            _ => html.push_str(&fold(
                &format!("another of the same cluster: {}", shorten(&other.url, LINK)),
                &pair,
            )),
        }
    }
    html
}

/// The text with the words marked that the other does not have.
fn marked(text: &str, other: &str) -> String {
    let known: std::collections::BTreeSet<&str> = other.split_whitespace().collect();
    let mut html = String::new();
    for word in shorten(text, SHOWN * 2).split_inclusive(char::is_whitespace) {
        match known.contains(word.trim()) || word.trim().is_empty() || known.is_empty() {
            true => html.push_str(&escape(word)),
            false => {
                let _ = write!(html, "<mark>{}</mark>", escape(word));
            }
        }
    }
    html
}

fn documents(view: &View) -> String {
    let mut html = String::new();
    for document in &view.documents {
        let values: Vec<String> = document
            .values
            .iter()
            .filter(|(_, v)| !v.is_nan())
            .map(|(name, value)| format!("{name} {}", number::significant((*value).into())))
            .collect();
        let title = if document.title.is_empty() { &document.url } else { &document.title };
        let _ = write!(
            html,
            "<div class=\"card\"><h3>{}</h3><p class=\"reject\"><span>{}</span><br>{} · {} {} · {} · {} · {}</p><pre>{}</pre>",
            escape(&shorten(title, LINK)),
            escape(&shorten(&document.url, LINK)),
            document.domain.name(),
            escape(&document.language),
            number::significant(document.language_score.into()),
            document.page_type.name(),
            number::bytes(document.text.len() as f64),
            escape(&values.join(" · ")),
            escape(&shorten(&document.text, SHOWN)),
        );
        if document.text.chars().count() > SHOWN {
            let whole = escape(&shorten(&document.text, 20 * SHOWN));
            html.push_str(&fold("more of it", &format!("<pre>{whole}</pre>")));
        }
        html.push_str("</div>");
    }
    html
}
