//! What chat templates expect of Python: how values print, methods of strings, lists and dictionaries, and `tojson`.

use super::python_json::{Style, dumps};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use std::fmt::Write;

/// Prints a value as Python's `str` does.
pub(super) fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            repr(value, &mut text);
            Ok(out.write_str(&text)?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `repr(value)`.
fn repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.push_str("None"),
        ValueKind::String => string(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (at, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&item, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (at, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(&key, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

/// In single quotes, unless there are some inside and no double ones.
fn string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The filter `tojson` of Transformers: `json.dumps` with `ensure_ascii=False`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    // Never escapes: the value used anyway.
    let _: Option<Value> = options.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = separators.and_then(|list| Some((list.first()?.clone(), list.get(1)?.clone())));
    let style = Style {
        indent: options.get("indent")?,
        separators,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(e))?;
    Ok(dumps(&json, &style))
}

/// Methods of Python strings, lists and dictionaries that chat templates in the wild call.
pub(super) fn method(_: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return string_method(text, method, args);
    }
    match (value.kind(), method, args) {
        (ValueKind::Map, "get", [key]) | (ValueKind::Map, "get", [key, _]) => {
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { args.get(1).cloned().unwrap_or(Value::from(())) } else { found })
        }
        (ValueKind::Map, "keys", []) => Ok(value.try_iter()?.collect()),
        (ValueKind::Map, "values", []) => value.try_iter()?.map(|key| value.get_item(&key)).collect(),
        (ValueKind::Map, "items", []) => {
            value.try_iter()?.map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]))).collect()
        }
        (_, "count", [wanted]) => Ok(value.try_iter()?.filter(|item| item == wanted).count().into()),
        (_, "index", [wanted]) => match value.try_iter()?.position(|item| item == *wanted) {
            Some(at) => Ok(at.into()),
            None => Err(Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in the list"))),
        },
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// What Python's `str.strip` takes away: four separators more than Unicode's white space.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let first = args.first().and_then(Value::as_str);
    let limit = args.get(1).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok());
    let characters = |at: usize| text[..at].chars().count();
    Ok(match (method, first) {
        ("strip", None) => text.trim_matches(is_blank).into(),
        ("lstrip", None) => text.trim_start_matches(is_blank).into(),
        ("rstrip", None) => text.trim_end_matches(is_blank).into(),
        ("strip", Some(set)) => text.trim_matches(|c| set.contains(c)).into(),
        ("lstrip", Some(set)) => text.trim_start_matches(|c| set.contains(c)).into(),
        ("rstrip", Some(set)) => text.trim_end_matches(|c| set.contains(c)).into(),
        ("upper", None) => text.to_uppercase().into(),
        ("lower", None) => text.to_lowercase().into(),
        ("capitalize", None) => capitalized(text).into(),
        ("title", None) => titled(text).into(),
        ("isdigit", None) => (!text.is_empty() && text.chars().all(char::is_numeric)).into(),
        ("isalpha", None) => (!text.is_empty() && text.chars().all(char::is_alphabetic)).into(),
        ("isupper", None) => (text.to_uppercase() == text && text.to_lowercase() != text).into(),
        ("islower", None) => (text.to_lowercase() == text && text.to_uppercase() != text).into(),
        ("startswith", Some(prefix)) => text.starts_with(prefix).into(),
        ("endswith", Some(suffix)) => text.ends_with(suffix).into(),
        ("startswith", None) => any_of(args, |prefix| text.starts_with(prefix))?.into(),
        ("endswith", None) => any_of(args, |suffix| text.ends_with(suffix))?.into(),
        ("removeprefix", Some(prefix)) => text.strip_prefix(prefix).unwrap_or(text).into(),
        ("removesuffix", Some(suffix)) => text.strip_suffix(suffix).unwrap_or(text).into(),
        ("split" | "rsplit" | "partition", Some("")) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
        }
        ("split", Some(separator)) => match limit {
            Some(most) => text.splitn(most.saturating_add(1), separator).map(Value::from).collect(),
            None => text.split(separator).map(Value::from).collect(),
        },
        ("rsplit", Some(separator)) => {
            let most = limit.map_or(usize::MAX, |most| most.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        ("split", None) => text.split_whitespace().map(Value::from).collect(),
        ("splitlines", None) => text.lines().map(Value::from).collect(),
        ("partition", Some(separator)) => {
            let (before, middle, after) = match text.split_once(separator) {
                Some((before, after)) => (before, separator, after),
                None => (text, "", ""),
            };
            [before, middle, after].into_iter().map(Value::from).collect()
        }
        ("replace", Some(from)) => {
            let to = args.get(1).and_then(Value::as_str).unwrap_or_default();
            match args.get(2).and_then(Value::as_usize) {
                Some(most) => text.replacen(from, to, most).into(),
                None => text.replace(from, to).into(),
            }
        }
        ("count", Some(part)) if !part.is_empty() => text.matches(part).count().into(),
        ("find", Some(part)) => text.find(part).map_or(-1, |at| characters(at) as i64).into(),
        ("rfind", Some(part)) => text.rfind(part).map_or(-1, |at| characters(at) as i64).into(),
        ("join", None) => {
            let parts = args.first().ok_or_else(unknown)?.try_iter()?;
            let parts: Vec<String> = parts.map(|part| part.to_string()).collect();
            parts.join(text).into()
        }
        _ => return Err(unknown()),
    })
}

/// `startswith` and `endswith` take several texts also.
fn any_of(args: &[Value], is: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let list = args.first().ok_or(ErrorKind::MissingArgument)?;
    Ok(list.try_iter()?.any(|item| item.as_str().is_some_and(&is)))
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// A capital after everything that is no letter.
fn titled(text: &str) -> String {
    let mut after_letter = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match after_letter {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        after_letter = c.is_alphabetic();
    }
    out
}
