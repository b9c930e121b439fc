//! The thread that answers requests as they come.

mod tiny;

use herd_infer::{Batcher, ChatOptions, Error, Event, FinishReason, Load, Request, Sampling, Settings, chat};
use herd_run::Context;
use std::sync::mpsc::Receiver;
use tiny::{generator, prompt};

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(max_tokens) };
    Request { prompt, samples: 1, sampling }
}

/// Text, number of tokens, cached prompt tokens and the reason of a single answer.
fn collect(events: &Receiver<Event>) -> (String, usize, usize, FinishReason) {
    let (mut said, mut tokens, mut cached) = (String::new(), 0, 0);
    for event in events {
        match event {
            Event::Started { cached_tokens } => cached = cached_tokens,
            Event::Token { text, .. } => {
                said.push_str(&text);
                tokens += 1;
            }
            Event::Finished { text, reason, .. } => return (said + &text, tokens, cached, reason),
        }
    }
    panic!("the answer broke off");
}

/// Waits until nothing runs. The batcher publishes its load after every step.
fn settle(batcher: &Batcher) {
    let busy = |load: Load| load.running > 0 || load.waiting > 0 || load.paused > 0;
    while busy(batcher.load()) {
        std::thread::yield_now();
    }
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_reuses_its_pages_and_says_the_same() {
    let generator = generator(Settings::default());
    let expected = generator.generate(&[prompt(70, 1)], 1, &request(vec![], 30).sampling).unwrap();
    let batcher = Batcher::new(&generator).unwrap();
    let (_first, events) = batcher.submit(request(prompt(70, 1), 30)).unwrap();
    let first = collect(&events);
    assert_eq!((first.1, first.2), (30, 0));
    let (_second, events) = batcher.submit(request(prompt(70, 1), 30)).unwrap();
    let second = collect(&events);
    assert_eq!(second.2, 64, "four full pages are found");
    assert_eq!((&first.0, &second.0), (&expected[0][0].text, &expected[0][0].text));
    settle(&batcher);
    let load = batcher.load();
    assert_eq!((load.pages_used, load.cached_tokens, load.answer_tokens), (0, 64, 60));
}

#[test]
fn a_dropped_request_gives_its_pages_back_and_the_others_go_on() {
    let batcher = Batcher::new(&generator(Settings::default())).unwrap();
    let (kept, events) = batcher.submit(request(prompt(20, 1), 200)).unwrap();
    let (dropped, others) = batcher.submit(request(prompt(50, 2), 200)).unwrap();
    // Running before it is dropped.
    while !matches!(others.recv().unwrap(), Event::Token { .. }) {}
    drop(dropped);
    assert!(others.iter().all(|e| !matches!(e, Event::Finished { .. })), "ends without a finish");
    let (_, tokens, _, reason) = collect(&events);
    assert_eq!((tokens, reason), (200, FinishReason::Length));
    drop(kept);
    settle(&batcher);
    assert_eq!(batcher.load().pages_used, 0);
}

#[test]
fn a_listener_that_hangs_up_cancels_too() {
    let batcher = Batcher::new(&generator(Settings::default())).unwrap();
    let submitted = batcher.submit_to(request(prompt(20, 1), 200), |_| false).unwrap();
    settle(&batcher);
    assert_eq!((batcher.load().pages_used, batcher.load().answer_tokens), (0, 1));
    drop(submitted);
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let settings = Settings { max_sequences: 1, max_waiting: 1, ..Settings::default() };
    let batcher = Batcher::new(&generator(settings)).unwrap();
    let (running, events) = batcher.submit(request(prompt(20, 1), 230)).unwrap();
    assert!(matches!(events.recv().unwrap(), Event::Started { .. }));
    // One runs; of those that come now, the queue takes what it may and refuses the rest.
    let accepted: Vec<_> = (0..4).map(|i| batcher.submit(request(prompt(20, i), 1))).collect();
    let refused = accepted.iter().filter(|r| matches!(r, Err(Error::Busy { .. }))).count();
    assert!(refused >= 2, "{refused} refused");
    drop(running);
    for (submitted, events) in accepted.into_iter().flatten() {
        assert_eq!(collect(&events).1, 1);
        drop(submitted);
    }
    settle(&batcher);
    let (_again, events) = batcher.submit(request(prompt(20, 9), 1)).unwrap();
    assert_eq!(collect(&events).1, 1);
}

#[test]
fn closing_finishes_what_was_accepted_and_refuses_the_rest() {
    let batcher = Batcher::new(&generator(Settings { max_sequences: 1, ..Settings::default() })).unwrap();
    let accepted: Vec<_> = (0..3).map(|i| batcher.submit(request(prompt(20, i), 40)).unwrap()).collect();
    batcher.close();
    assert!(matches!(batcher.submit(request(prompt(20, 9), 1)), Err(Error::Closed)));
    for (_submitted, events) in &accepted {
        assert_eq!(collect(events).1, 40);
    }
    drop(batcher);
}

fn converse(input: &str, system: Option<&str>, max_tokens: usize) -> String {
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(max_tokens) };
    talk(input, ChatOptions { system: system.map(String::from), sampling, interactive: false })
}

fn converse_with(input: &str, sampling: Sampling) -> String {
    talk(input, ChatOptions { system: None, sampling, interactive: false })
}

fn talk(input: &str, options: ChatOptions) -> String {
    let generator = generator(Settings::default());
    let mut output = Vec::new();
    chat(&generator, &options, input.as_bytes(), &mut output, &Context::quiet()).unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn a_piped_conversation_answers_each_line_and_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let script = format!("hello\nthe \\\ncat\n/save {}\n/reset\nhello\n/quit\nnever", file.display());
    let output = converse(&script, None, 6);
    let saved: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let roles: Vec<_> = saved.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(saved[2]["content"], "the \ncat");
    let first = saved[1]["content"].as_str().unwrap();
    assert!(output.starts_with(&format!("{first}\n")));
    assert!(output.ends_with(&format!("(a new conversation)\n{first}\n")), "the same answer after a reset");
}

#[test]
fn a_conversation_is_saved_in_a_folder_that_exists_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, taken) = (folder.path().join("missing"), folder.path().join("taken"));
    std::fs::write(&taken, "before").unwrap();
    let script = format!(
        "hello\n/save {0}/talk.json\n/save {1}/talk.json\n/save {1}\n",
        missing.display(),
        taken.display()
    );
    let output = converse(&script, None, 4);
    for folder in [&missing, &taken] {
        assert!(
            output.contains(&format!("(not saved: there is no folder {})\n", folder.display())),
            "{output}"
        );
    }
    assert!(!missing.exists());
    assert!(output.ends_with(&format!("(saved {})\n", taken.display())), "{output}");
    let saved: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&taken).unwrap()).unwrap();
    assert_eq!(saved.len(), 2);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["taken"], "no temporary file is left");
}

#[test]
fn several_lines_are_one_question_and_an_answer_can_be_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let script = format!("/retry\n\"\"\"the\n\n cat\n\"\"\"\n/retry\n/save\n/save {}\n", file.display());
    let output = converse_with(&script, Sampling { ignore_end: true, max_tokens: 8, ..Sampling::default() });
    let saved: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved.len(), 2);
    assert_eq!(saved[0]["content"], "the\n\n cat");
    assert!(output.starts_with("(there is no answer yet)\n"), "{output}");
    // The second answer took the place of the first, which was another.
    let second = saved[1]["content"].as_str().unwrap();
    assert!(output.contains(&format!("\n{second}\n(where to? /save FILE)\n")), "{output}");
    assert_eq!(output.matches(second).count(), 1, "{output}");
    assert!(converse("hi\n/retry\n", None, 4).contains("stays the same"));
}

#[test]
fn a_conversation_longer_than_the_context_forgets_its_beginning() {
    let output = converse(&"the cat sat on the mat and the dog\n".repeat(12), Some("be brief"), 16);
    assert!(output.contains("forgotten"), "{output}");
    let output = converse(&format!("{}\nhello\n", "x ".repeat(300)), None, 4);
    assert!(output.starts_with("(that is too long"), "{output}");
    assert_eq!(output.lines().count(), 2, "{output}");
}
