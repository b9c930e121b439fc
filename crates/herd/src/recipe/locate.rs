//! Where in a TOML text a dotted key stands.

use toml::de::{DeTable, DeValue};

/// The line (from 1) of the longest part of the dotted `key` that the text holds; `None` if not even its table is
/// there.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
        found = Some(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
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
    }
}
