use super::python_json;
use crate::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

/// What a chat template is given.
#[derive(Debug, Clone, Default)]
pub struct Dialog {
    /// Messages with `role` and `content`, perhaps `tool_calls`, in the format of OpenAI and Transformers.
    pub messages: Vec<Json>,
    /// Descriptions of tools that the model may call.
    pub tools: Option<Vec<Json>>,
    /// Whether to end with the header of the next answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `date_string`, `builtin_tools` or `tools_in_user_message`.
    pub variables: Map<String, Json>,
}

/// A compiled chat template, rendered with the conventions of Transformers: `trim_blocks`, `lstrip_blocks`,
/// `raise_exception`, `strftime_now`, and JSON as Python writes it.
pub struct ChatTemplate(Environment<'static>);

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: &str) -> Result<Self, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(wrong)?);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", |format: String| strftime_now(&format));
        env.add_filter("tojson", tojson);
        // Python's `str.strip` takes four separators that Unicode does not call white space.
        env.add_filter("trim", |text: String| {
            let blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
            text.trim_matches(blank).to_string()
        });
        env.set_unknown_method_callback(python_method);
        env.add_template_owned(NAME, source.to_string()).map_err(wrong)?;
        Ok(Self(env))
    }

    /// The text of a dialog.
    ///
    /// # Errors
    /// The template refuses the dialog (`raise_exception`) or uses something unknown.
    pub fn render(&self, dialog: &Dialog) -> Result<String, Error> {
        let mut context = dialog.variables.clone();
        context.insert("messages".into(), Json::Array(dialog.messages.clone()));
        context.insert("tools".into(), dialog.tools.clone().map_or(Json::Null, Json::Array));
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), dialog.add_generation_prompt.into());
        context.entry("bos_token").or_insert_with(|| "<|begin_of_text|>".into());
        context.entry("eos_token").or_insert_with(|| "<|eot_id|>".into());
        let template = self.0.get_template(NAME).map_err(wrong)?;
        template.render(Value::from(Serde(context))).map_err(wrong)
    }
}

fn wrong(error: minijinja::Error) -> Error {
    let place = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    Error::Template(format!("{place}{what}"))
}

fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates may pass the other arguments of `json.dumps`; these are the values used anyway.
    let _: (Option<Value>, Option<Value>) = (options.get("ensure_ascii")?, options.get("separators")?);
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(e)
    })?;
    Ok(python_json::dumps(&json, indent))
}

/// Methods of Python strings and dictionaries that chat templates in the wild call.
fn python_method(
    _: &mut minijinja::State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let argument = args.first().and_then(Value::as_str);
    if let Some(text) = value.as_str() {
        return Ok(match (method, argument) {
            ("strip", None) => text.trim().into(),
            ("lstrip", None) => text.trim_start().into(),
            ("rstrip", None) => text.trim_end().into(),
            ("strip", Some(set)) => text.trim_matches(|c| set.contains(c)).into(),
            ("lstrip", Some(set)) => text.trim_start_matches(|c| set.contains(c)).into(),
            ("rstrip", Some(set)) => text.trim_end_matches(|c| set.contains(c)).into(),
            ("upper", None) => text.to_uppercase().into(),
            ("lower", None) => text.to_lowercase().into(),
            ("startswith", Some(prefix)) => text.starts_with(prefix).into(),
            ("endswith", Some(suffix)) => text.ends_with(suffix).into(),
            ("split", Some(separator)) => text.split(separator).map(Value::from).collect(),
            ("split", None) => text.split_whitespace().map(Value::from).collect(),
            ("replace", Some(from)) => {
                let to = args.get(1).and_then(Value::as_str).unwrap_or_default();
                text.replace(from, to).into()
            }
            _ => return Err(ErrorKind::UnknownMethod.into()),
        });
    }
    match (method, args) {
        ("get", [key]) | ("get", [key, _]) => {
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { args.get(1).cloned().unwrap_or(Value::from(())) } else { found })
        }
        ("keys", []) => Ok(value.try_iter()?.collect()),
        ("items", []) => {
            let pairs: Result<Value, minijinja::Error> = value
                .try_iter()?
                .map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?])))
                .collect();
            pairs
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// The date of today (UTC) in the few formats that templates use.
fn strftime_now(format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil_date((since_epoch.as_secs() / 86_400) as i64);
    let name = MONTHS[month as usize - 1];
    format
        .replace("%d", &format!("{day:02}"))
        .replace("%b", &name[..3])
        .replace("%B", name)
        .replace("%m", &format!("{month:02}"))
        .replace("%Y", &year.to_string())
}

/// Year, month and day of the n-th day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil_date(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(19_782), (2024, 2, 29));
        assert_eq!(civil_date(20_778), (2026, 11, 21));
    }
}
