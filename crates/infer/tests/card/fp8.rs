//! Feed-forward weights in FP8, on the card made of the processor.

use crate::fake_card;
use crate::models::{Shape, changed_folder, folder};
use crate::tiny::prompt;
use half::bf16;
use herd_infer::{ActivationType, Error, Generator, Sampling, Settings, WeightType};
use herd_tensor::cuda::Card;
use std::path::Path;

const SHAPE: Shape = Shape {
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    layers: 4,
    tied: false,
    scaling: false,
    float: false,
    vocab: 0,
};

fn settings(weights: WeightType, batch_tokens: usize) -> Settings {
    Settings { weights, batch_tokens, cache_tokens: 4096, ..Settings::default() }
}

fn open(card: &Card, folder: &Path, weights: WeightType, batch_tokens: usize) -> Generator {
    Generator::open_on_card(card, folder, settings(weights, batch_tokens)).unwrap()
}

/// Root of the mean square of the difference, as a share of that of `exact`.
fn off(found: &[f32], exact: &[f32]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = square(&mut found.iter().zip(exact).map(|(a, b)| a - b));
    (off / square(&mut exact.iter().copied())).sqrt()
}

/// The nearest number of e4m3.
fn e4m3(x: f32) -> f32 {
    let exponent = (x.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
    let step = 2f32.powi(exponent.max(-6) - 3);
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

/// The weights that a card has in FP8, as they are there, in a file in f32.
fn rounded_folder() -> tempfile::TempDir {
    changed_folder(&Shape { float: true, ..SHAPE }, |llama, params| {
        for values in params.ids().collect::<Vec<_>>() {
            params.value_mut(values).iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        for layer in &llama.layers[1..3] {
            for (id, columns) in [(layer.w_gate_up, 96), (layer.w_down, 144)] {
                for row in params.value_mut(id).chunks_exact_mut(columns) {
                    let scale = row.iter().fold(0f32, |most, x| most.max(x.abs())) / 448.0;
                    row.iter_mut().for_each(|x| *x = e4m3(*x / scale) * scale);
                }
            }
        }
    })
}

/// In steps of few rows, whose activations stay in bf16: as near to f32 with the same weights as bf16 is. In one pass and in chunks,
/// whose activations are rounded too: a little further off.
#[test]
fn logits_in_fp8_are_those_of_rounded_weights() {
    let (folder, rounded, tokens) = (folder(&SHAPE), rounded_folder(), prompt(100, 5));
    let exact = Settings { activations: ActivationType::F32, ..Settings::default() };
    let exact = [&rounded, &folder]
        .map(|f| Generator::open(f.path(), exact.clone()).unwrap().logits(&tokens).unwrap());
    let [with_rounded, with_all] = &exact;
    for batch_tokens in [100, 66, 4] {
        let card = fake_card::open();
        let [fp8, bf16] = [WeightType::Fp8, WeightType::Auto]
            .map(|weights| open(&card, folder.path(), weights, batch_tokens).logits(&tokens).unwrap());
        let [near, usual, apart] = [off(&fp8, with_rounded), off(&bf16, with_all), off(&fp8, &bf16)];
        let text = format!("{batch_tokens} at once: {near:.4} and {usual:.4} off, {apart:.4} from bf16");
        println!("{text}");
        let factor = if batch_tokens == 4 { 1.2 } else { 2.0 };
        assert!(near < factor * usual && near < apart && apart < 0.1, "{text}");
    }
}

/// With cards and libraries that scale and add, only scale, or neither, the numbers are the same but for bf16's rounding.
#[test]
fn every_way_to_scale_gives_the_same() {
    if fake_card::is_real() {
        return;
    }
    let (folder, tokens) = (folder(&SHAPE), prompt(100, 5));
    let logits = |capability, bf16_only| {
        fake_card::be(capability, 130_400, bf16_only);
        let card = fake_card::open();
        let found = open(&card, folder.path(), WeightType::Fp8, 100).logits(&tokens).unwrap();
        fake_card::be(90, 130_400, false);
        found
    };
    let usual = logits(90, false);
    for (capability, bf16_only) in [(90, true), (89, false), (100, false)] {
        let off = off(&logits(capability, bf16_only), &usual);
        println!("{capability}: {off:.4}");
        assert!(off > 0.0 && off < 0.05, "{capability}: {off}");
    }
}

/// The first and the last layer are left alone: of two layers, and of one, all bits are those without FP8.
#[test]
fn the_first_and_last_layer_stay_as_they_are() {
    let card = fake_card::open();
    for layers in [1, 2] {
        let folder = folder(&Shape { layers, ..SHAPE });
        for batch_tokens in [100, 4] {
            let tokens = prompt(30, 3);
            let [fp8, bf16] = [WeightType::Fp8, WeightType::Auto]
                .map(|weights| open(&card, folder.path(), weights, batch_tokens));
            assert!(
                fp8.logits(&tokens).unwrap() == bf16.logits(&tokens).unwrap(),
                "{layers}, {batch_tokens}"
            );
            let text = fp8.device().unwrap();
            assert!(text.contains("none in fp8"), "{text}");
        }
    }
}

/// Prompts in chunks beside answers, steps of 11 rows and of 2; every run has the same bits. What is drawn is nearly always the
/// likeliest token of one pass over prompt and answer.
#[test]
fn answers_in_fp8() {
    let (card, folder) = (fake_card::open(), folder(&SHAPE));
    let prompts: Vec<Vec<u32>> = (0..11).map(|i| prompt(9 + 31 * i % 70, i as u32)).collect();
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(12) };
    let answers = |prompts: &[Vec<u32>]| {
        let generator = open(&card, folder.path(), WeightType::Fp8, 64);
        let found = generator.generate(prompts, 1, &sampling).unwrap();
        assert!(generator.graphs() > 0, "steps are captured");
        (generator, found.into_iter().map(|mut samples| samples.remove(0).tokens).collect::<Vec<_>>())
    };
    for prompts in [&prompts[..], &prompts[..2]] {
        let (generator, found) = answers(prompts);
        assert_eq!(found, answers(prompts).1);
        let text = generator.device().unwrap();
        assert!(text.contains("in fp8") && !text.contains("none in fp8"), "{text}");
        let (mut likeliest, mut all) = (0, 0);
        for (prompt, answer) in prompts.iter().zip(&found) {
            let tokens = [&prompt[..], answer].concat();
            let logits = generator.logits(&tokens).unwrap();
            let vocab = logits.len() / tokens.len();
            for (row, token) in logits.chunks_exact(vocab).skip(prompt.len() - 1).zip(answer) {
                let above = row.iter().filter(|x| **x > row[*token as usize]).count();
                likeliest += usize::from(above == 0);
                all += 1;
            }
        }
        println!("{likeliest} of {all} are the likeliest");
        assert!(all == 12 * prompts.len() && likeliest * 10 >= all * 9, "{likeliest} of {all}");
    }
}

#[test]
fn weights_in_fp8_take_the_memory_that_they_should() {
    let folder = folder(&Shape { layers: 5, ..SHAPE });
    let live = |weights| {
        let card = fake_card::open();
        let generator = open(&card, folder.path(), weights, 64);
        println!("{}", generator.device().unwrap());
        // Before the first pass there are weights alone, besides what cuBLASLt works with.
        card.usage().live
    };
    let (hidden, ffn) = (96, 144);
    let saved = 3 * (3 * hidden * ffn - 4 * (2 * ffn + hidden));
    let workspace = 32 << 20;
    let difference =
        (live(WeightType::Auto) + workspace) as i64 - live(WeightType::Fp8) as i64 - saved as i64;
    // Six more buffers, whose sizes are rounded up.
    assert!(difference.abs() <= 6 * 512, "{difference}");
    // And what is planned with, told where a cache does not fit.
    let planned = |weights| {
        let settings = Settings { cache_tokens: 100 << 20, ..settings(weights, 64) };
        match Generator::open_on_card(&fake_card::open(), folder.path(), settings).err().unwrap() {
            Error::CardMemory { weights, .. } => weights,
            other => panic!("{other}"),
        }
    };
    assert_eq!(planned(WeightType::Auto) - planned(WeightType::Fp8), saved);
}

#[test]
fn what_is_against_fp8_is_said_with_a_remedy() {
    let folder = folder(&SHAPE);
    let fp8 = settings(WeightType::Fp8, 64);
    let says = |error: Error, parts: &[&str]| {
        let text = error.to_string();
        assert!(text.contains("weights") && parts.iter().all(|part| text.contains(part)), "{text}");
    };
    // On the processor, before anything is read.
    let error = Generator::open(Path::new("no such model"), fp8.clone()).err().unwrap();
    says(error, &["fp8 is for a card (`--device cuda`)", "herd convert"]);
    let card = fake_card::open();
    let exact = Settings { activations: ActivationType::F32, ..fp8.clone() };
    says(
        Generator::open_on_card(&card, folder.path(), exact).err().unwrap(),
        &["leave `activations` at auto"],
    );
    // Sizes that are no multiples of 16: 54.
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    let here = std::env::var_os("HERD_ROOT").map_or(here, |root| Path::new(&root).join("crates/infer"));
    let odd = here.join("tests/golden/checkpoints/odd_heads");
    says(Generator::open_on_card(&card, &odd, fp8.clone()).err().unwrap(), &["hidden size", "not 54"]);
    if fake_card::is_real() {
        return;
    }
    for (capability, version, parts) in [
        (80, 130_400, ["compute capability 8.9 or later", "leave `weights` at auto"]),
        (90, 110_000, ["pip install -U nvidia-cublas", "leave `weights` at auto"]),
    ] {
        fake_card::be(capability, version, false);
        let card = fake_card::open();
        let error = Generator::open_on_card(&card, Path::new("no such model"), fp8.clone()).err().unwrap();
        fake_card::be(90, 130_400, false);
        says(error, &parts);
    }
}
