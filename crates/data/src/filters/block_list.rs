use super::{Filter, Reason, Verdict};
use crate::address::registrable_domain;
use crate::documents::Document;
use herd_run::atomic::{self, FileError};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Drops documents of listed domains (SPEC DATA-1). The category is the list's file name.
pub struct BlockList {
    categories: BTreeMap<String, String>,
}

impl BlockList {
    /// Reads lists of one domain a line; `#` begins a comment, empty lines are skipped.
    pub fn load(files: &[PathBuf]) -> Result<Self, FileError> {
        let mut categories = BTreeMap::new();
        for file in files {
            let category = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = atomic::read(file)?;
            for line in String::from_utf8_lossy(&text).lines() {
                let domain = line.split('#').next().unwrap_or("").trim().to_ascii_lowercase();
                if !domain.is_empty() {
                    categories.entry(domain).or_insert(category.clone());
                }
            }
        }
        Ok(Self { categories })
    }

    /// The category of an address' domain, if it is listed.
    pub fn category(&self, url: &str) -> Option<(&str, String)> {
        let domain = registrable_domain(url)?;
        self.categories.get(&domain).map(|category| (category.as_str(), domain))
    }
}

impl Filter for BlockList {
    fn step(&self) -> &'static str {
        "block lists"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        match self.category(&document.url) {
            Some((category, domain)) => {
                let excerpt = format!("{domain} is in the list {category}");
                Verdict::Drop(Reason::new("blocked domain", 1.0, 0.0, &excerpt))
            }
            None => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn a_listed_domain_goes_with_all_its_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("adverts.txt");
        std::fs::write(&file, "# adverts\n\nSite.example  # all of it\n").unwrap();
        let filter = BlockList::load(&[file]).unwrap();
        let Verdict::Drop(reason) = filter.apply(&mut document("x")) else { panic!("kept") };
        assert!(
            reason.excerpt.contains("site.example") && reason.excerpt.contains("adverts"),
            "{}",
            reason.excerpt
        );
        let mut other = document("x");
        other.url = "https://notsite.example/".into();
        assert_eq!(filter.apply(&mut other), Verdict::Keep);
        assert!(BlockList::load(&["/none/list.txt".into()]).is_err());
    }
}
