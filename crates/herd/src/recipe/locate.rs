//! Where in a TOML text a dotted key stands.

use toml::de::{DeTable, DeValue};

/// The line (from 1) of the longest part of the dotted `key` that the text holds; `None` if not even its table is
/// there. A number in the key is the place in a list, from 0.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut parts = key.split('.');
    let first = parts.next()?;
    let entry = |table: &'_ DeTable<'_>, name: &str| {
        table.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span().start)
    };
    let mut found = entry(root.get_ref(), first);
    let mut value = root.get_ref().get(first).map(|v| v.get_ref());
    for part in parts {
        value = match value {
            Some(DeValue::Table(table)) => {
                found = entry(table, part).or(found);
                table.get(part).map(|v| v.get_ref())
            }
            Some(DeValue::Array(items)) => {
                let item = part.parse().ok().and_then(|n: usize| items.get(n));
                found = item.map(|item| item.span().start).or(found);
                item.map(|item| item.get_ref())
            }
            _ => break,
        };
    }
    found.map(|byte| 1 + text[..byte].matches('\n').count())
}

/// Whether the top-level `table` of the text sets `key`.
pub fn has_key(text: &str, table: &str, key: &str) -> bool {
    let Ok(root) = DeTable::parse(text) else { return false };
    let value =
        root.get_ref().iter().find(|(name, _)| name.get_ref() == table).map(|(_, value)| value.get_ref());
    matches!(value, Some(DeValue::Table(inner)) if inner.iter().any(|(name, _)| name.get_ref() == key))
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn finds_the_key_or_its_nearest_table() {
        let text = "name = 'a'\n\n[model]\nlayers = 2\nheads = 3\n";
        assert_eq!(line_of(text, "model.heads"), Some(5));
        assert_eq!(line_of(text, "model.absent"), Some(3));
        assert_eq!(line_of(text, "name"), Some(1));
        assert_eq!(line_of(text, "pretrain.warmup"), None);
        let text = "[data]\ninput = []\n[[data.models]]\nname = 'a'\n[[data.models]]\nname = 'b'\n";
        assert_eq!(line_of(text, "data.models.1.name"), Some(6));
        assert_eq!(line_of(text, "data.models.1.label"), Some(5));
    }
}
