//! Reading a JSON request field by field, so that every complaint names the field.

use crate::reply::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The object of a request body.
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The body's object.
    pub(crate) fn of(body: &'a Value) -> Result<Self, ApiError> {
        match body.as_object() {
            Some(map) => Ok(Self(map)),
            None => Err(ApiError::invalid(None, "the request body must be a JSON object")),
        }
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    /// A field that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&'a Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::invalid(Some(name), format!("`{name}` is required")))
    }

    /// A number within a range.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => {
                let (low, high) = (range.start(), range.end());
                Err(wrong(name, value, &format!("a number between {low} and {high}")))
            }
        }
    }

    /// A whole number within a range.
    pub(crate) fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => {
                let (low, high) = (range.start(), range.end());
                Err(wrong(name, value, &format!("a whole number between {low} and {high}")))
            }
        }
    }

    /// True or false; false if absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        self.get(name).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| wrong(name, v, "true or false")))
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| wrong(name, v, "a string"))).transpose()
    }

    /// A text or a list of texts.
    pub(crate) fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let expected = format!("a string or a list of at most {most} strings");
        match value {
            Value::String(text) => Ok(vec![text.clone()]),
            Value::Array(list) if list.len() <= most => {
                let text =
                    |v: &Value| v.as_str().map(String::from).ok_or_else(|| wrong(name, value, &expected));
                list.iter().map(text).collect()
            }
            _ => Err(wrong(name, value, &expected)),
        }
    }

    /// A list of token ids; empty if absent.
    pub(crate) fn tokens(&self, name: &str, most: usize) -> Result<Vec<u32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let list = value.as_array().filter(|list| list.len() <= most);
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        list.and_then(|list| list.iter().map(id).collect())
            .ok_or_else(|| wrong(name, value, &format!("a list of at most {most} token ids")))
    }

    /// Refuses a field that would change the answer but is not supported.
    pub(crate) fn unsupported(&self, name: &str, harmless: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.get(name) {
            Some(value) if !harmless(value) => {
                Err(ApiError::invalid(Some(name), format!("`{name}` is not supported by this server")))
            }
            _ => Ok(()),
        }
    }
}

/// A field of the wrong type or range. Shows the value if it is short.
pub(crate) fn wrong(name: &str, value: &Value, expected: &str) -> ApiError {
    let shown = match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_string(),
        other => {
            let text = other.to_string();
            if text.len() <= 60 { text } else { format!("{} bytes", text.len()) }
        }
    };
    ApiError::invalid(Some(name), format!("`{name}` must be {expected}, not {shown}"))
}
