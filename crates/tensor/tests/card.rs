//! Every operator on a card, with the card made of the processor: the same cases as on the host. They need g++, so they
//! run where they are asked for: `cargo test --release -p herd-tensor --test card -- --ignored`.

#[path = "check/cases.rs"]
mod cases;
mod check;
mod fake_card;

/// Runs a case on a card of its own, whose memory begins as NaNs.
fn on_card(case: fn()) {
    check::CARD.set(Some(fake_card::open()));
    case();
    let card = check::CARD.take().unwrap();
    card.synchronize().unwrap();
    assert!(card.usage().peak_live > 0, "the case was on the card");
    // What products work with stays.
    assert!([0, 32 << 20].contains(&card.usage().live), "{card:?} gave everything back");
}

macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        #[ignore = "needs g++"]
        fn $name() {
            on_card(cases::$name);
        }
    )*};
}

cases! {
    embedding_and_selection
    linear
    rms_norm
    rope
    swiglu
    attention
    attention_across_blocks
    losses
    segment
}
