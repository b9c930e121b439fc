//! A JSON object that arrives character by character and may be a call: `{"name": ..., "parameters": {...}}`.

/// What one more character made of the object.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// More is to come.
    More,
    /// It is complete.
    Done,
    /// It is no JSON object.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    BeforeKey,
    Key { escaped: bool },
    Colon,
    BeforeValue,
    Text { escaped: bool },
    Nested { depth: usize, text: bool, escaped: bool },
    Scalar,
    AfterValue,
}

/// Follows one object. `{` has been read already.
#[derive(Debug)]
pub(super) struct Object {
    /// All that was read.
    pub raw: String,
    /// The value of `name`, once it is complete.
    pub name: Option<String>,
    /// The value of `parameters` or `arguments` as it was written, as far as it has come.
    pub arguments: String,
    place: Place,
    key: String,
    value: usize,
}

impl Object {
    pub(super) fn new() -> Self {
        let (key, arguments) = (String::new(), String::new());
        Self { raw: "{".into(), name: None, arguments, place: Place::BeforeKey, key, value: 0 }
    }

    /// Reads one character.
    pub(super) fn push(&mut self, c: char) -> Step {
        let at = self.raw.len();
        self.raw.push(c);
        let white = matches!(c, ' ' | '\n' | '\r' | '\t');
        let in_arguments = matches!(self.key.as_str(), "parameters" | "arguments");
        match self.place {
            Place::BeforeKey | Place::Colon | Place::BeforeValue | Place::AfterValue if white => {}
            Place::BeforeKey => match c {
                '"' => {
                    self.value = at;
                    self.place = Place::Key { escaped: false };
                }
                '}' => return Step::Done,
                _ => return Step::Broken,
            },
            Place::Key { escaped } => {
                if c == '"' && !escaped {
                    self.key = serde_json::from_str(&self.raw[self.value..]).unwrap_or_default();
                    self.place = Place::Colon;
                } else {
                    self.place = Place::Key { escaped: c == '\\' && !escaped };
                }
            }
            Place::Colon if c == ':' => self.place = Place::BeforeValue,
            Place::BeforeValue => {
                self.value = at;
                self.place = match c {
                    '"' => Place::Text { escaped: false },
                    '{' | '[' => Place::Nested { depth: 1, text: false, escaped: false },
                    ',' | '}' | ']' | ':' => return Step::Broken,
                    _ => Place::Scalar,
                };
                if in_arguments {
                    self.arguments.push(c);
                }
            }
            Place::Text { escaped } => {
                if in_arguments {
                    self.arguments.push(c);
                }
                if c == '"' && !escaped {
                    self.end_value();
                } else {
                    self.place = Place::Text { escaped: c == '\\' && !escaped };
                }
            }
            Place::Nested { mut depth, mut text, mut escaped } => {
                if in_arguments {
                    self.arguments.push(c);
                }
                match c {
                    '"' if !escaped => text = !text,
                    '{' | '[' if !text => depth += 1,
                    '}' | ']' if !text => depth -= 1,
                    _ => {}
                }
                escaped = text && c == '\\' && !escaped;
                self.place = Place::Nested { depth, text, escaped };
                if depth == 0 {
                    self.end_value();
                }
            }
            Place::Scalar => match c {
                ',' => self.place = Place::BeforeKey,
                '}' => return Step::Done,
                _ if white => self.place = Place::AfterValue,
                _ if in_arguments => self.arguments.push(c),
                _ => {}
            },
            Place::AfterValue => match c {
                ',' => self.place = Place::BeforeKey,
                '}' => return Step::Done,
                _ => return Step::Broken,
            },
            Place::Colon => return Step::Broken,
        }
        Step::More
    }

    fn end_value(&mut self) {
        // Some models write {"function": "name", ...}.
        let is_name = self.key == "name" || self.key == "function" && self.name.is_none();
        if is_name && let Ok(name) = serde_json::from_str::<String>(&self.raw[self.value..]) {
            self.name = Some(name);
        }
        self.place = Place::AfterValue;
    }

    /// `{"type": "function", "function": {"name": ..., "arguments": ...}}`, read when it is complete.
    pub(super) fn nested(&self) -> Option<(String, String)> {
        let value: serde_json::Value = serde_json::from_str(&self.raw).ok()?;
        let function = value.get("function")?;
        let arguments = function.get("arguments").or_else(|| function.get("parameters"));
        Some((function["name"].as_str()?.to_string(), arguments.map_or("{}".into(), ToString::to_string)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Object, Step, usize) {
        let mut object = Object::new();
        for (i, c) in text.char_indices().skip(1) {
            let step = object.push(c);
            if step != Step::More {
                return (object, step, i + c.len_utf8());
            }
        }
        let end = text.len();
        (object, Step::More, end)
    }

    #[test]
    fn names_and_arguments_are_found_in_any_order() {
        for text in [
            r#"{"name": "f", "parameters": {"a": "}\"{", "b": [1, {"c": null}]}}"#,
            r#"{ "type":"function","parameters" :{"a": "}\"{", "b": [1, {"c": null}]} , "name":"f" }"#,
            r#"{"function": "f", "arguments": {"a": "}\"{", "b": [1, {"c": null}]}, "n": 1.5}"#,
        ] {
            let (object, step, end) = read(&format!("{text} more"));
            assert_eq!((step, end), (Step::Done, text.len()));
            assert_eq!(object.name.as_deref(), Some("f"));
            assert_eq!(object.arguments, r#"{"a": "}\"{", "b": [1, {"c": null}]}"#);
        }
        let (object, step, _) =
            read(r#"{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}"#);
        assert_eq!((step, object.nested()), (Step::Done, Some(("f".into(), r#"{"x":1}"#.into()))));
    }

    #[test]
    fn what_is_no_object_breaks() {
        for text in ["{a", "{\"a\" 1", "{\"a\": }", "{\"a\": 1 2", "{\"a\": {} {", "{,"] {
            assert_eq!(read(text).1, Step::Broken, "{text}");
        }
    }
}
