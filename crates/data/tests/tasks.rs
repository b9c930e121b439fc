//! The stage as tasks: the same bits however the work is cut, repeated, lost or bounded; and near-duplicates against an
//! exhaustive search.

use herd_data::documents::{self, Document};
use herd_data::near_duplicates::{jaccard, shingles};
use herd_data::rejects;
use herd_data::settings::{NearDuplicates, Tasks};
use herd_data::{Error, Job, Resources, Settings, Step, run};
use herd_run::{Context, hash};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart")
}

fn settings(tasks: Tasks) -> Settings {
    Settings {
        input: vec![quickstart().join("crawl/*.warc.gz").display().to_string()],
        blocked_domains: vec![quickstart().join("blocked-domains.txt")],
        tasks,
        ..Settings::default()
    }
}

/// Hashes of the files of the result.
fn result(out: &Path) -> Vec<String> {
    let files = ["documents.parquet", "rejects.parquet", "funnel.json", "summary.json"];
    files.map(|file| hash::of_path(&out.join(file)).unwrap()).to_vec()
}

/// The result of the whole stage in one process.
fn at_once() -> &'static [String] {
    static DONE: OnceLock<Vec<String>> = OnceLock::new();
    DONE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        run(&settings(Tasks::default()), dir.path(), &Resources::default(), &Context::quiet()).unwrap();
        result(dir.path())
    })
}

#[test]
fn cuts_and_memory_do_not_change_a_bit() {
    let little = Resources { memory: 1 << 20, tasks: 3 };
    for (split_bytes, partitions, resources) in
        [(300_000, 7, Resources::default()), (1 << 20, 1, little), (70_000, 3, Resources::default())]
    {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(Tasks { split_bytes, partitions, one_file: true });
        let job = Job::open(&settings, dir.path(), &resources, false, &Context::quiet())
            .map(|job| job.plan().clone());
        let splits = job.unwrap().splits.len();
        assert!(splits > 4, "archives are cut: {splits}");
        run(&settings, dir.path(), &resources, &Context::quiet()).unwrap();
        assert_eq!(result(dir.path()), at_once(), "{splits} splits, {partitions} parts");
    }
}

#[test]
fn tasks_may_be_lost_repeated_and_done_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(Tasks { split_bytes: 1 << 20, partitions: 3, one_file: true });
    let context = Context::quiet();
    let open = || Job::open(&settings, dir.path(), &Resources::default(), false, &context).unwrap();
    let account = |step: Step, k: usize| dir.path().join(format!("work/{step}-{k:05}.json"));
    let mut lost = HashSet::new();
    while let Some(round) = open().next().unwrap() {
        let mut order = round.missing.clone();
        order.reverse();
        for k in order {
            // Each task is a process of its own.
            assert!(open().task(round.step, k).unwrap());
            assert!(!open().task(round.step, k).unwrap(), "done before");
        }
        // The first task of each step dies before it has said that it is done, and leaves half a file.
        if lost.insert(round.step.to_string()) && round.step != Step::Publish {
            std::fs::remove_file(account(round.step, 0)).unwrap();
            std::fs::write(
                dir.path().join(format!("work/.{}-00000.lines.parquet.1.tmp", round.step)),
                "half",
            )
            .unwrap();
        }
    }
    assert!(lost.len() > 18, "{lost:?}");
    assert_eq!(result(dir.path()), at_once());
    // A straggler that comes after the end changes nothing.
    assert!(!open().task(Step::Pages, 0).unwrap());
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("work")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn files_of_splits_hold_what_one_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::quiet();
    let (one, parts) = (dir.path().join("one"), dir.path().join("parts"));
    let tasks = Tasks { split_bytes: 1 << 20, partitions: 2, one_file: true };
    run(&settings(tasks.clone()), &one, &Resources::default(), &context).unwrap();
    let settings = settings(Tasks { one_file: false, ..tasks });
    let job = Job::open(&settings, &parts, &Resources::default(), false, &context).unwrap();
    while let Some(round) = job.next().unwrap() {
        for k in round.missing {
            if round.step == Step::Publish {
                // A publication that died after some files had been moved.
                let folder = parts.join("documents.parquet");
                std::fs::create_dir(&folder).unwrap();
                // And a part of an earlier run with more splits.
                std::fs::copy(one.join("documents.parquet"), folder.join("part-00099.parquet")).unwrap();
                std::fs::write(parts.join("rejects.parquet"), "a file of an earlier run").unwrap();
                let moved = parts.join("work/documents-00001.documents.parquet");
                std::fs::rename(moved, folder.join("part-00001.parquet")).unwrap();
            }
            job.task(round.step, k).unwrap();
        }
    }
    let documents = |out: &Path| -> Vec<Document> {
        documents::read(&out.join("documents.parquet")).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert!(parts.join("documents.parquet").is_dir() && parts.join("rejects.parquet").is_dir());
    assert_eq!(documents(&parts), documents(&one));
    let rejects = |out: &Path| -> BTreeSet<String> {
        let read = rejects::read(&out.join("rejects.parquet")).unwrap();
        read.map(|reject| format!("{:?}", reject.unwrap())).collect()
    };
    assert_eq!(rejects(&parts), rejects(&one));
    for file in ["funnel.json", "summary.json"] {
        assert_eq!(std::fs::read(parts.join(file)).unwrap(), std::fs::read(one.join(file)).unwrap());
    }
    let left = std::fs::read_dir(parts.join("work")).unwrap().count();
    assert_eq!(left, 2, "what is published is gone from the work");
    // One file takes the place of the folders.
    let settings = Settings { tasks: Tasks { one_file: true, ..settings.tasks.clone() }, ..settings };
    run(&settings, &parts, &Resources::default(), &context).unwrap();
    assert_eq!(result(&parts), result(&one));
}

#[test]
fn a_task_out_of_turn_and_other_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::quiet();
    let first = settings(Tasks::default());
    let job = Job::open(&first, dir.path(), &Resources::default(), false, &context).unwrap();
    let message = job.task(Step::Clean, 0).unwrap_err().to_string();
    assert!(message.contains("`clean` comes after `pages`"), "{message}");
    let message = job.task(Step::Pages, 99).unwrap_err().to_string();
    assert!(message.contains("tasks 1 to"), "{message}");
    let other = Settings { min_chars: 300, ..first.clone() };
    let error = Job::open(&other, dir.path(), &Resources::default(), false, &context).err().unwrap();
    assert!(matches!(&error, Error::OtherPlan { .. }) && error.to_string().contains("plan.json"), "{error}");
    // The stage in one process begins afresh.
    run(&other, dir.path(), &Resources::default(), &context).unwrap();
}

#[test]
fn documents_of_others_are_curated_too() {
    let dir = tempfile::tempdir().unwrap();
    let crawl = dir.path().join("crawl");
    run(&settings(Tasks::default()), &crawl, &Resources::default(), &Context::quiet()).unwrap();
    let documents: Vec<Document> =
        documents::read(&crawl.join("documents.parquet")).unwrap().collect::<Result<_, _>>().unwrap();
    let lines: String = documents
        .iter()
        .map(|d| {
            serde_json::json!({"url": d.url, "date": d.date, "text": d.text, "other": [1, 2]}).to_string()
                + "\n"
        })
        .collect();
    let zstd = dir.path().join("documents.jsonl.zst");
    std::fs::write(&zstd, zstd::encode_all(lines.as_bytes(), 3).unwrap()).unwrap();
    let plain = dir.path().join("documents.jsonl");
    std::fs::write(&plain, &lines).unwrap();
    let of = |file: &Path, name: &str| {
        let settings = Settings {
            input: vec![file.display().to_string()],
            tasks: Tasks { split_bytes: 1 << 20, partitions: 2, one_file: true },
            ..Settings::default()
        };
        let out = dir.path().join(name);
        let summary = run(&settings, &out, &Resources::default(), &Context::quiet()).unwrap();
        let read = documents::read(&out.join("documents.parquet")).unwrap();
        let rows: Vec<(String, String)> = read.map(|d| d.unwrap()).map(|d| (d.url, d.text)).collect();
        (summary.responses, rows)
    };
    let expected = of(&plain, "plain");
    assert_eq!(expected.0, documents.len() as u64);
    assert!(expected.1.len() * 10 > documents.len() * 9, "{} of {}", expected.1.len(), documents.len());
    assert_eq!(of(&zstd, "zstd"), expected);
    let parquet = dir.path().join("theirs.parquet");
    std::fs::copy(crawl.join("documents.parquet"), &parquet).unwrap();
    assert_eq!(of(&parquet, "parquet"), expected);

    let bad = dir.path().join("bad.jsonl");
    let mut file = std::fs::File::create(&bad).unwrap();
    writeln!(file, "{{\"text\":\"one\"}}\n{{\"content\":\"two\"}}").unwrap();
    let bad = Settings { input: vec![bad.display().to_string()], ..Settings::default() };
    let message =
        run(&bad, &dir.path().join("bad"), &Resources::default(), &Context::quiet()).unwrap_err().to_string();
    assert!(
        message.contains("`text`") && message.contains("row 2") && message.contains("content"),
        "{message}"
    );
}

/// A text of English words drawn by a counter.
fn words(seed: u64, count: usize) -> Vec<String> {
    static WORDS: OnceLock<Vec<&str>> = OnceLock::new();
    let vocabulary = WORDS.get_or_init(|| {
        let all: BTreeSet<&str> = include_str!("prose.txt").split_whitespace().collect();
        all.into_iter().filter(|word| word.chars().all(char::is_alphabetic)).collect()
    });
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            vocabulary[(state >> 11) as usize % vocabulary.len()].to_string()
        })
        .collect()
}

/// 20,000 documents: singles, groups with some words changed, exact copies, and chains whose ends are not alike.
fn planted() -> Vec<String> {
    let mut texts = Vec::new();
    let mut seed = 0;
    while texts.len() < 20_000 {
        seed += 1;
        let base = words(seed, 120);
        match seed % 8 {
            0 => {
                for copy in 0..6 {
                    let mut changed = base.clone();
                    for k in 0..copy {
                        changed[(k * 17 + seed as usize) % 120] = format!("changed{copy}");
                    }
                    texts.push(changed.join(" "));
                }
            }
            1 => {
                let mut link = base.clone();
                for step in 0..10 {
                    texts.push(link.join(" "));
                    for k in 0..2 {
                        link[(step * 12 + k * 6) % 120] = format!("step{step}");
                    }
                }
            }
            2 => (0..3).for_each(|_| texts.push(base.join(" "))),
            3 if seed == 3 => (0..200).for_each(|_| texts.push(base.join(" "))),
            _ => texts.push(base.join(" ")),
        }
    }
    texts.truncate(20_000);
    texts
}

/// The component of each text under all pairs that are alike, found by every shingle that two texts share.
fn truth(texts: &[String], settings: &NearDuplicates, without: &HashSet<usize>) -> Vec<usize> {
    let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text, "en", settings.shingle)).collect();
    let mut holders: HashMap<u64, Vec<usize>> = HashMap::new();
    for (n, set) in sets.iter().enumerate().filter(|(n, _)| !without.contains(n)) {
        set.iter().for_each(|shingle| holders.entry(*shingle).or_default().push(n));
    }
    let mut pairs: HashSet<(usize, usize)> = HashSet::new();
    for holders in holders.values() {
        for (n, a) in holders.iter().enumerate() {
            pairs.extend(holders[n + 1..].iter().map(|b| (*a, *b)));
        }
    }
    let mut root: Vec<usize> = (0..texts.len()).collect();
    fn find(root: &[usize], mut n: usize) -> usize {
        while root[n] != n {
            n = root[n];
        }
        n
    }
    for (a, b) in pairs {
        if jaccard(&sets[a], &sets[b]) >= settings.similarity {
            let (a, b) = (find(&root, a), find(&root, b));
            root[a.max(b)] = a.min(b);
        }
    }
    (0..texts.len()).map(|n| find(&root, n)).collect()
}

#[test]
fn near_duplicates_are_those_of_an_exhaustive_search() {
    let dir = tempfile::tempdir().unwrap();
    let texts = planted();
    let input = dir.path().join("planted.jsonl");
    let lines: String = texts
        .iter()
        .enumerate()
        .map(|(n, text)| {
            serde_json::json!({"url": format!("https://a.example/{n}"), "text": text}).to_string() + "\n"
        })
        .collect();
    std::fs::write(&input, lines).unwrap();
    let settings = Settings {
        input: vec![input.display().to_string()],
        min_language_score: 0.0,
        languages: vec!["en".into()],
        tasks: Tasks { partitions: 5, ..Tasks::default() },
        ..Settings::default()
    };
    let out = dir.path().join("out");
    let summary = run(&settings, &out, &Resources::default(), &Context::quiet()).unwrap();
    let number = |url: &str| url.rsplit('/').next().unwrap().parse::<usize>().unwrap();
    let mut cluster: BTreeMap<usize, String> = BTreeMap::new();
    let mut foreign = HashSet::new();
    let mut sizes: HashMap<String, (usize, usize)> = HashMap::new();
    for document in documents::read(&out.join("documents.parquet")).unwrap() {
        let document = document.unwrap();
        if let Some(name) = document.cluster {
            assert_eq!(name, document.id, "the cluster is named by the document that stays");
            sizes.entry(name.clone()).or_default().0 = document.values["cluster_size"] as usize;
            cluster.insert(number(&document.url), name);
        } else {
            assert_eq!(document.values["cluster_size"], 1.0);
        }
    }
    for reject in herd_data::rejects::read(&out.join("rejects.parquet")).unwrap() {
        let reject = reject.unwrap();
        // Words in no order are sometimes taken for another language.
        if reject.reason.rule == "other language" {
            foreign.insert(number(&reject.url));
        }
        if let Some(name) = reject.cluster {
            assert_eq!(reject.reason.rule, "near duplicate");
            cluster.insert(number(&reject.url), name.into_string());
        }
    }
    cluster.values().for_each(|name| sizes.entry(name.clone()).or_default().1 += 1);
    assert!(foreign.len() < 1000, "{} are not English", foreign.len());
    let expected = truth(&texts, &settings.near_duplicates, &foreign);
    let same = |a: usize, b: usize| cluster.get(&a).is_some_and(|name| cluster.get(&b) == Some(name));
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    expected.iter().enumerate().for_each(|(n, root)| groups.entry(*root).or_default().push(n));
    let (mut found, mut all) = (0usize, 0usize);
    for group in groups.values().filter(|group| group.len() > 1) {
        for pair in group.windows(2) {
            all += 1;
            found += usize::from(same(pair[0], pair[1]));
        }
    }
    let mut ours: HashMap<&str, Vec<usize>> = HashMap::new();
    cluster.iter().for_each(|(n, name)| ours.entry(name).or_default().push(*n));
    let joined: usize = ours.values().map(|members| members.len() - 1).sum();
    let right: usize = ours
        .values()
        .map(|members| members.windows(2).filter(|pair| expected[pair[0]] == expected[pair[1]]).count())
        .sum();
    let (recall, precision) = (found as f64 / all as f64, right as f64 / joined as f64);
    println!(
        "{all} links planted, recall {recall:.4}, precision {precision:.4}, {} clusters",
        summary.clusters
    );
    assert!(all > 8000 && recall > 0.98, "recall {recall} of {all}");
    assert!(precision == 1.0, "precision {precision} of {joined}");
    let chain = groups.values().filter(|group| group.len() == 10).count();
    assert!(chain > 300, "chains are one component: {chain}");
    let largest = ours.values().map(Vec::len).max().unwrap();
    assert!(largest >= 200, "all copies are in one cluster: {largest}");
    assert!(sizes.values().filter(|(said, _)| *said > 0).all(|(said, counted)| said == counted));
}
