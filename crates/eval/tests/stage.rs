//! The whole stage on a small run folder, its resumption, its determinism, and wrong input.

mod small_run;

use herd_eval::bits_per_byte::DocumentRecord;
use herd_eval::choices::{self, QuestionRecord};
use herd_eval::instructions::AnswerRecord;
use herd_eval::{Error, Settings, Summary, run};
use herd_run::Context;
use small_run::{SmallRun, file, make};
use std::fs;
use std::path::Path;

/// Settings that touch every task.
fn settings(run: &SmallRun) -> Settings {
    let dialogs = file(
        run.folder.path(),
        "dialogs.jsonl",
        &[
            r#"{"task": "numbers/sum", "messages": [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]}"#,
            r#"{"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}], "source": "x"}"#,
        ],
    );
    let items = file(
        run.folder.path(),
        "facts.jsonl",
        &[
            r#"{"context": "The kernel loads", "choices": [" a module", " the moon"], "answer": 0}"#,
            r#"{"task": "letters", "context": "Which is a number?", "choices": ["seven", "disk", "file"], "answer": 0, "style": "letters"}"#,
        ],
    );
    let mut settings = Settings::default();
    settings.bits_per_byte.context = 64;
    settings.needle.lengths = vec![96, 160, 4096];
    (settings.needle.depths, settings.needle.cases) = (3, 2);
    settings.choices.files = vec![items];
    (settings.choices.examples, settings.choices.passage, settings.choices.continuation) = (12, 20, 8);
    settings.instructions.file = Some(dialogs);
    settings.instructions.max_tokens = 6;
    settings
}

fn evaluate(run_folder: &SmallRun, settings: &Settings) -> Result<Summary, Error> {
    run(settings, &run_folder.model(), &run_folder.shards(), &run_folder.out(), &Context::quiet())
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Content of every result file, by name.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_model_that_knows_nothing_gets_exactly_what_that_is_worth() {
    // All weights 0: each of V tokens has probability 1 / V, so the bits can be computed by hand.
    let small = make(0);
    let settings = settings(&small);
    let summary = evaluate(&small, &settings).unwrap();
    let bits = (small.tokenizer.vocab_size() as f64).log2();
    let records: Vec<DocumentRecord> = lines(&small.out().join("bits_per_byte.jsonl"));
    assert_eq!(records.len(), 24, "all held-out documents of both domains");
    for record in &records {
        assert!((record.transformer - bits * record.tokens as f64).abs() < 1e-3 * record.transformer);
        assert!(record.trigram < record.bigram && record.bigram < record.unigram, "{record:?}");
    }
    let all = summary.bits_per_byte.all.unwrap();
    let expected = bits * all.tokens as f64 / all.bytes as f64;
    assert!((all.transformer.score - expected).abs() < 1e-3 && all.transformer.n == 24);
    assert_eq!(summary.bits_per_byte.domains.len(), 2);
    // It is worse than every n-gram model, and the paired test says so.
    for against in &summary.bits_per_byte.against {
        assert!(against.test.difference > 0.0 && against.test.p_value == 1.0 && against.test.wins == 0);
    }
    // All choices of equal length are equally likely: the first is taken.
    let questions: Vec<QuestionRecord> = lines(&small.out().join("choices.jsonl"));
    assert!(questions.iter().filter(|q| q.task == "continuation").all(|q| q.acc == (q.answer == 0)));
    let needle = summary.needle.unwrap();
    assert_eq!((needle.cells.len(), needle.left_out), (6, vec![4096]));
    assert_eq!(needle.total.n, 12);
}

#[test]
fn every_example_is_on_record_and_adds_up_to_the_scores() {
    let small = make(3);
    let settings = settings(&small);
    let summary = evaluate(&small, &settings).unwrap();
    let questions: Vec<QuestionRecord> = lines(&small.out().join("choices.jsonl"));
    let tasks: Vec<_> = summary.choices.iter().map(|t| (t.task.as_str(), t.acc.n)).collect();
    assert_eq!(tasks, [("continuation", 12), ("kind_of_text", 12), ("facts", 1), ("letters", 1)]);
    for task in &summary.choices {
        let right = questions.iter().filter(|q| q.task == task.task && q.acc_norm).count();
        assert_eq!(task.acc_norm.right, right);
    }
    assert_eq!(summary.choices[0].chance, 0.25);
    assert!((summary.choices[3].chance - 1.0 / 3.0).abs() < 1e-12);
    let answers: Vec<AnswerRecord> = lines(&small.out().join("instructions.jsonl"));
    let instructions = summary.instructions.unwrap();
    assert_eq!((answers.len(), instructions.exact.n), (2, 2));
    assert_eq!(
        (answers[0].id, answers[0].prompt.as_str(), answers[0].expected.as_str()),
        (1, "Add 1 and 2.", "3")
    );
    assert_eq!(answers[1].messages.len(), 2);
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(small.out().join("summary.json")).unwrap()).unwrap();
    assert!(saved["methods"]["ratio"].as_str().unwrap().contains("bootstrap"));
}

#[test]
fn a_finished_task_is_kept_and_a_lost_one_is_made_again_with_the_same_bits() {
    let small = make(3);
    let settings = settings(&small);
    evaluate(&small, &settings).unwrap();
    let before = files(&small.out());
    // As after a kill in the middle: one result and the summary are missing, one file of records is half written.
    for name in ["needle.json", "summary.json"] {
        fs::remove_file(small.out().join(name)).unwrap();
    }
    fs::write(small.out().join("needle.jsonl"), "{\"half").unwrap();
    let stamp = |name: &str| fs::metadata(small.out().join(name)).unwrap().modified().unwrap();
    let kept = stamp("bits_per_byte.json");
    evaluate(&small, &settings).unwrap();
    for (before, after) in before.iter().zip(files(&small.out())) {
        assert_eq!(*before, after);
    }
    assert_eq!(kept, stamp("bits_per_byte.json"), "a finished task is not measured again");
    // Another seed is another measurement.
    let other = Settings { seed: 2, ..settings };
    evaluate(&small, &other).unwrap();
    assert_ne!(before, files(&small.out()));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let small = make(3);
    let settings = settings(&small);
    let results = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let _ = fs::remove_dir_all(small.out());
        pool.install(|| evaluate(&small, &settings).unwrap());
        files(&small.out())
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn a_stop_ends_it_and_nothing_half_done_remains() {
    let small = make(0);
    let ctx = Context::quiet();
    ctx.stop.request();
    let error = run(&settings(&small), &small.model(), &small.shards(), &small.out(), &ctx).unwrap_err();
    assert!(matches!(error, Error::Interrupted(_)));
    assert!(!small.out().join("summary.json").exists());
}

#[test]
fn questions_from_held_out_documents_are_true_to_them() {
    let small = make(0);
    let settings = settings(&small);
    let shards = herd_eval::held_out::Shards::open(&small.shards(), &small.tokenizer).unwrap();
    let questions = choices::from_held_out(&settings, &small.tokenizer, &shards);
    assert_eq!(questions.len(), 24);
    let documents: Vec<(usize, Vec<u32>)> = shards
        .held_out
        .iter()
        .enumerate()
        .flat_map(|(domain, shard)| (0..shard.documents()).map(move |i| (domain, shard.document(i).ids)))
        .collect();
    let holders = |tokens: &[u32]| -> Vec<usize> {
        let holds = |ids: &Vec<u32>| ids.windows(tokens.len()).any(|window| window == tokens);
        documents.iter().filter(|(_, ids)| holds(ids)).map(|(domain, _)| *domain).collect()
    };
    for question in &questions {
        assert_eq!(question.choices.len(), 4);
        let request = &question.request;
        let truth = [&request.prefix[1..], &request.continuations[question.answer]].concat();
        let domains = holders(&truth);
        assert!(!domains.is_empty(), "the true passage follows in a document");
        for (i, choice) in request.continuations.iter().enumerate().filter(|(i, _)| *i != question.answer) {
            let same = holders(choice).contains(&domains[0]);
            assert!(question.task == "kind_of_text" || same, "choice {i} comes from the same domain");
        }
    }
    let at = |place| questions.iter().filter(|q| q.answer == place).count();
    assert!((0..4).all(|place| at(place) > 0), "the true passage stands everywhere");
}

#[test]
fn the_shipped_examples_are_sound() {
    let small = make(0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart/eval");
    let questions = choices::read(&folder, &small.tokenizer).unwrap();
    assert_eq!(questions.len(), 264);
    for question in &questions {
        // What is scored is the text of the question, nothing lost and nothing added between its parts.
        for (choice, tokens) in question.choices.iter().zip(&question.request.continuations) {
            let ids = [&question.request.prefix[1..], tokens].concat();
            assert_eq!(small.tokenizer.decode(&ids), format!("{}{choice}", question.context));
        }
    }
    let letters = questions.iter().find(|q| q.task == "facts_letters").unwrap();
    assert!(letters.context.contains("\nD. ") && letters.context.ends_with("\nAnswer: "));
    assert_eq!(letters.choices, ["A", "B", "C", "D"]);
    // No place is favoured: a model that always says the first is at chance.
    let first = questions.iter().filter(|q| q.choices.len() == 4 && q.answer == 0).count() as f64;
    assert!((0.15..0.35).contains(&(first / 196.0)), "{first}");
}

#[test]
fn wrong_input_is_named_with_its_place() {
    let small = make(0);
    let good = settings(&small);
    let message = |settings: &Settings| evaluate(&small, settings).unwrap_err().to_string();
    let broken = |line: &str| {
        let first = r#"{"context": "a", "choices": ["b", "c"], "answer": 0}"#;
        let mut settings = good.clone();
        settings.choices.files = vec![file(small.folder.path(), "broken.jsonl", &[first, line])];
        message(&settings)
    };
    for (line, part) in [
        ("{\"context\": ", "line 2"),
        (r#"{"context": "a", "choices": ["b"], "answer": 0}"#, "1 choices"),
        (r#"{"context": "a", "choices": ["b", "c"], "answer": 2}"#, "numbered 0 to 1"),
        (r#"{"context": "a", "choices": ["b", "b"], "answer": 0}"#, "repeats"),
        (r#"{"context": " ", "choices": ["b", "c"], "answer": 0}"#, "context is empty"),
        (r#"{"context": "a", "choices": ["b", "c"], "answer": 0, "style": "essay"}"#, "cloze"),
        (r#"{"context": "a", "choises": ["b", "c"], "answer": 0}"#, "choises"),
    ] {
        let error = broken(line);
        assert!(error.contains("broken.jsonl, line 2") && error.contains(part), "{error}");
    }
    let mut settings = good.clone();
    settings.instructions.file = Some(file(
        small.folder.path(),
        "broken.jsonl",
        &[r#"{"messages": [{"role": "user", "content": "x"}]}"#],
    ));
    assert!(message(&settings).contains("line 1: a dialog needs"), "{}", message(&settings));
    settings.instructions.file = Some("no/such/file.jsonl".into());
    assert!(message(&settings).contains("no/such/file.jsonl"));

    let error =
        run(&good, Path::new("no/such/model"), &small.shards(), &small.out(), &Context::quiet()).unwrap_err();
    assert!(error.to_string().contains("no/such/model"), "{error}");
    let other = Settings { batch_rows: 2, ..good.clone() };
    assert!(message(&other).contains("`batch_rows`"));

    // Shards of another vocabulary.
    let mut index = herd_tokenizer::shard::ShardIndex::load(&small.shards()).unwrap();
    index.vocab_size += 1;
    index.save(&small.shards()).unwrap();
    assert!(message(&good).contains("the same tokenizer"));
}

#[test]
fn unknown_settings_are_refused_with_the_valid_ones() {
    let error = serde_json::from_str::<Settings>(r#"{"needle": {"depth": 3}}"#).unwrap_err().to_string();
    assert!(error.contains("unknown field `depth`") && error.contains("`depths`"), "{error}");
    for (settings, key) in [
        (r#"{"needle": {"depths": 0}}"#, "needle.depths"),
        (r#"{"needle": {"lengths": [3]}}"#, "needle.lengths"),
        (r#"{"choices": {"choices": 1}}"#, "choices.choices"),
        (r#"{"choices": {"choices": 27}}"#, "choices.choices"),
        (r#"{"bits_per_byte": {"context": 1}}"#, "bits_per_byte.context"),
        (r#"{"instructions": {"max_tokens": 0}}"#, "instructions.max_tokens"),
    ] {
        let settings: Settings = serde_json::from_str(settings).unwrap();
        assert_eq!(settings.validate().unwrap_err().key, key);
    }
    Settings::default().validate().unwrap();
}
