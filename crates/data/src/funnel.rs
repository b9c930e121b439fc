//! How many documents and bytes each step lets through: `funnel.json`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One step's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the step.
    pub step: String,
    /// Documents that reached it.
    pub documents_in: u64,
    /// Their bytes: of HTML before extraction, of text after.
    pub bytes_in: u64,
    /// Documents it let through.
    pub documents_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Dropped documents by rule.
    pub dropped: BTreeMap<String, u64>,
}

/// All steps in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funnel {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Funnel {
    fn step(&mut self, name: &str) -> &mut Step {
        let at = match self.steps.iter().position(|s| s.step == name) {
            Some(at) => at,
            None => {
                self.steps.push(Step { step: name.to_string(), ..Step::default() });
                self.steps.len() - 1
            }
        };
        &mut self.steps[at]
    }

    /// Counts a document that a step let through.
    pub fn pass(&mut self, name: &str, bytes_in: usize, bytes_out: usize) {
        let step = self.step(name);
        step.documents_in += 1;
        step.bytes_in += bytes_in as u64;
        step.documents_out += 1;
        step.bytes_out += bytes_out as u64;
    }

    /// Counts a document that a step dropped.
    pub fn drop(&mut self, name: &str, bytes_in: usize, rule: &str) {
        let step = self.step(name);
        step.documents_in += 1;
        step.bytes_in += bytes_in as u64;
        *step.dropped.entry(rule.to_string()).or_default() += 1;
    }

    /// Adds the account of another part of the same input; the first funnel's order of steps is kept.
    pub fn merge(&mut self, other: &Funnel) {
        for theirs in &other.steps {
            let ours = self.step(&theirs.step);
            ours.documents_in += theirs.documents_in;
            ours.bytes_in += theirs.bytes_in;
            ours.documents_out += theirs.documents_out;
            ours.bytes_out += theirs.bytes_out;
            for (rule, count) in &theirs.dropped {
                *ours.dropped.entry(rule.clone()).or_default() += count;
            }
        }
    }

    /// Puts the steps into the order of `names`; others follow.
    pub fn arrange(&mut self, names: &[&str]) {
        self.steps.sort_by_key(|s| names.iter().position(|n| *n == s.step).unwrap_or(names.len()));
    }

    /// How many documents a rule dropped.
    pub fn dropped_by(&self, rule: &str) -> u64 {
        self.steps.iter().filter_map(|s| s.dropped.get(rule)).sum()
    }

    /// Documents that came out of the last step.
    pub fn documents_out(&self) -> u64 {
        self.steps.last().map_or(0, |s| s.documents_out)
    }
}

impl fmt::Display for Funnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "\n  {:<16} {:>8} -> {:<8}", step.step, step.documents_in, step.documents_out)?;
            for (n, (rule, count)) in step.dropped.iter().enumerate() {
                write!(f, "{}{rule} {count}", if n == 0 { " " } else { ", " })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut one = Funnel::default();
        one.pass("extract", 100, 40);
        one.drop("extract", 10, "no text");
        let mut two = Funnel::default();
        two.drop("language", 5, "uncertain");
        two.drop("extract", 20, "no text");
        one.merge(&two);
        one.arrange(&["extract", "language"]);
        assert_eq!(one.steps[0].documents_in, 3);
        assert_eq!((one.steps[0].bytes_in, one.steps[0].bytes_out), (130, 40));
        assert_eq!((one.dropped_by("no text"), one.documents_out()), (2, 0));
    }
}
