//! Looking into JSON that another program version may have written: a missing or odd value is absent, not an error.

use serde_json::Value;

/// A place in a JSON document that may not be there.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(Option<&'a Value>);

impl<'a> Json<'a> {
    /// The whole document, if there is one.
    pub fn new(value: Option<&'a Value>) -> Self {
        Self(value)
    }

    /// The value at a path of keys joined by dots.
    pub fn at(self, path: &str) -> Self {
        Self(path.split('.').try_fold(self.0, |value, key| Some(value?.get(key))).flatten())
    }

    /// Whether there is a value other than null.
    pub fn exists(self) -> bool {
        self.0.is_some_and(|value| !value.is_null())
    }

    /// A number of a size that can be drawn; nothing that a run measures comes near the limit.
    pub fn number(self) -> Option<f64> {
        self.0.and_then(Value::as_f64).filter(|number| number.abs() < 1e30)
    }

    /// A text.
    pub fn text(self) -> Option<&'a str> {
        self.0.and_then(Value::as_str)
    }

    /// The elements of a list.
    pub fn items(self) -> impl Iterator<Item = Json<'a>> {
        self.0.and_then(Value::as_array).into_iter().flatten().map(|value| Json(Some(value)))
    }

    /// The entries of an object in their order.
    pub fn entries(self) -> impl Iterator<Item = (&'a str, Json<'a>)> {
        self.0
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), Json(Some(value))))
    }

    /// The two ends of an interval `{"low", "high"}`.
    pub fn interval(self) -> Option<(f64, f64)> {
        Some((self.at("low").number()?, self.at("high").number()?))
    }

    /// The value itself.
    pub fn value(self) -> Option<&'a Value> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_values_are_absent_at_any_depth() {
        let value = json!({"a": {"b": [1, "x", null]}, "n": null});
        let json = Json::new(Some(&value));
        assert_eq!(json.at("a.b").items().count(), 3);
        assert_eq!(json.at("a.b").items().next().unwrap().number(), Some(1.0));
        assert!(!json.at("a.x.y").exists() && !json.at("n").exists() && !Json::new(None).at("a").exists());
        assert_eq!(json.at("a").entries().count(), 1);
        assert_eq!(json.at("a").number(), None);
        assert_eq!(json.at("a.b").items().nth(1).unwrap().text(), Some("x"));
    }
}
