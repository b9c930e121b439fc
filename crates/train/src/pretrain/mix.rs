//! What a run will read: tokens and passes by phase and domain (SPEC DATA-8), computed from the recipe and the sizes of
//! the shards before anything is trained.

use super::phases::legs;
use super::settings::Settings;
use serde::Serialize;

/// Parts that a phase is cut into; the mix and the caps are constant within one.
const SLICES: u64 = 2000;

/// What a phase reads of a domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixRow {
    /// The phase.
    pub phase: String,
    /// The domain; `needles` for documents made to train recall.
    pub domain: String,
    /// Tokens read.
    pub tokens: u64,
    /// Share of the phase's tokens.
    pub share: f64,
    /// Passes over the domain up to the end of the phase; absent if its size is not known.
    pub epochs: Option<f64>,
}

/// The plan of a run over `domains`: names with the tokens that they have to train on, if known. A phase of long context is
/// counted with all its steps; it ends earlier if its gates hold.
pub fn plan(settings: &Settings, domains: &[(String, Option<u64>)]) -> Vec<MixRow> {
    let names: Vec<String> = domains.iter().map(|(name, _)| name.clone()).collect();
    let mut read = vec![0.0; domains.len()];
    let mut rows = Vec::new();
    for leg in legs(settings) {
        let total = leg.tokens() as f64;
        let mut of_leg = vec![0.0; domains.len()];
        for slice in 0..SLICES {
            let progress = (slice as f64 + 0.5) / SLICES as f64;
            let tokens = total / SLICES as f64 * (1.0 - leg.needle_share);
            let open: Vec<bool> = read
                .iter()
                .zip(domains)
                .map(|(read, (_, size))| match (settings.max_epochs, size) {
                    (Some(most), Some(size)) => *read < most * *size as f64,
                    _ => true,
                })
                .collect();
            let weights = capped(&leg.mix.weights(progress, &names), &open);
            for ((weight, of_leg), read) in weights.iter().zip(&mut of_leg).zip(&mut read) {
                *of_leg += weight * tokens;
                *read += weight * tokens;
            }
        }
        for (n, (domain, size)) in domains.iter().enumerate() {
            rows.push(MixRow {
                phase: leg.name.clone(),
                domain: domain.clone(),
                tokens: of_leg[n].round() as u64,
                share: of_leg[n] / total.max(1.0),
                epochs: size.filter(|size| *size > 0).map(|size| read[n] / size as f64),
            });
        }
        if leg.needle_share > 0.0 {
            let tokens = (total * leg.needle_share).round() as u64;
            rows.push(MixRow {
                phase: leg.name.clone(),
                domain: "needles".into(),
                tokens,
                share: leg.needle_share,
                epochs: None,
            });
        }
    }
    rows
}

/// Weights without the domains that are read up; what they had goes to the others. If all are read up, none is left out.
pub(crate) fn capped(weights: &[f64], open: &[bool]) -> Vec<f64> {
    let left: f64 = weights.iter().zip(open).filter(|(_, open)| **open).map(|(w, _)| w).sum();
    if left <= 0.0 {
        return weights.to_vec();
    }
    weights.iter().zip(open).map(|(w, open)| if *open { w / left } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{BatchGrowth, Mix, MixStage};
    use std::collections::BTreeMap;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.initial.steps = 1000;
        settings.initial.batch = BatchGrowth::fixed(1000, 100);
        settings.initial.needle_share = 0.1;
        let weights = |general: f64, code: f64| {
            BTreeMap::from([("general".to_string(), general), ("code".to_string(), code)])
        };
        settings.initial.mix = Mix(vec![
            MixStage { from: 0.0, weights: weights(3.0, 1.0) },
            MixStage { from: 0.5, weights: weights(1.0, 1.0) },
        ]);
        settings.long_context.contexts = Vec::new();
        settings.annealing.steps = 0;
        settings
    }

    fn domains() -> Vec<(String, Option<u64>)> {
        vec![("general".into(), Some(1_000_000)), ("code".into(), Some(100_000))]
    }

    #[test]
    fn the_plan_follows_the_mix_over_training() {
        let plan = plan(&settings(), &domains());
        let of = |domain: &str| plan.iter().find(|row| row.domain == domain).unwrap();
        assert_eq!(of("needles").tokens, 100_000);
        assert_eq!(of("general").tokens, 562_500, "(0.75 + 0.5) / 2 of 900,000");
        assert_eq!(of("code").tokens, 337_500);
        assert!((of("code").epochs.unwrap() - 3.375).abs() < 1e-9);
        assert!((plan.iter().map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_cap_gives_what_is_too_much_to_the_others() {
        let settings = Settings { max_epochs: Some(2.0), ..settings() };
        let plan = plan(&settings, &domains());
        let code = plan.iter().find(|row| row.domain == "code").unwrap();
        assert!((code.epochs.unwrap() - 2.0).abs() < 0.01, "{code:?}");
        assert_eq!(plan.iter().map(|row| row.tokens).sum::<u64>(), 1_000_000);
    }
}
