//! Personal data found in a labelled file: precision and recall, in all and by kind. The file and where its checksums come
//! from: `golden/make_personal_data.py`.

use herd_data::filters::personal_data::{find, mask};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Default)]
struct Counts {
    right: usize,
    found: usize,
    there: usize,
}

#[test]
fn precision_and_recall_on_the_labelled_file() {
    let rows = include_str!("golden/personal_data.jsonl").lines();
    let mut kinds: BTreeMap<String, Counts> = BTreeMap::new();
    let mut all = Counts::default();
    for line in rows {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = row["text"].as_str().unwrap();
        let found: Vec<(String, String)> = find(text)
            .iter()
            .map(|f| {
                (f.kind.placeholder().trim_matches(['<', '>']).to_string(), text[f.start..f.end].to_string())
            })
            .collect();
        let there: Vec<(String, String)> = row["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (s[0].as_str().unwrap().to_string(), s[1].as_str().unwrap().to_string()))
            .collect();
        for part in &found {
            let right = there.contains(part);
            let of_kind = kinds.entry(part.0.clone()).or_default();
            of_kind.found += 1;
            of_kind.right += right as usize;
            all.found += 1;
            all.right += right as usize;
            if !right {
                println!("found {part:?} in {text}");
            }
        }
        for part in &there {
            kinds.entry(part.0.clone()).or_default().there += 1;
            all.there += 1;
            if !found.contains(part) {
                println!("missed {part:?} in {text}");
            }
        }
        let masked = mask(text, &find(text));
        assert!(there.iter().all(|part| !found.contains(part) || !masked.contains(&part.1)), "{masked}");
    }
    for (kind, counts) in &kinds {
        let Counts { right, found, there } = counts;
        println!("{kind}: precision {right}/{found}, recall {right}/{there}");
    }
    let precision = all.right as f64 / all.found as f64;
    let recall = all.right as f64 / all.there as f64;
    println!("all: precision {precision:.3}, recall {recall:.3}");
    assert!(all.there > 100, "{}", all.there);
    assert!(precision >= 0.97, "{precision}");
    assert!(recall >= 0.95, "{recall}");
    let identifiers = &kinds["ID"];
    assert_eq!(identifiers.right, identifiers.there, "all identifiers");
}
