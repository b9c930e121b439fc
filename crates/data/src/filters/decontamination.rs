use super::{Filter, Reason, Verdict};
use crate::contamination::Benchmarks;
use crate::documents::Document;
use crate::error::Error;
use crate::settings::Decontamination;

/// Drops documents that hold much of an example of a benchmark (SPEC EVAL-4).
pub struct DecontaminationFilter {
    /// The examples.
    pub benchmarks: Benchmarks,
    max_share: f32,
}

impl DecontaminationFilter {
    /// Reads the benchmarks. `None` if the recipe names none.
    pub fn load(settings: &Decontamination) -> Result<Option<Self>, Error> {
        let benchmarks = Benchmarks::load(settings)?;
        Ok(benchmarks.map(|benchmarks| Self { benchmarks, max_share: settings.max_share }))
    }
}

impl Filter for DecontaminationFilter {
    fn step(&self) -> &'static str {
        "decontamination"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let overlap = self.benchmarks.overlap(&document.text);
        let share = overlap.map_or(0.0, |o| o.share);
        document.values.insert("contamination".into(), share);
        match overlap {
            Some(overlap) if share > self.max_share => {
                let rule = format!("holds an example of {}", overlap.benchmark);
                Verdict::Drop(Reason::new(&rule, share, self.max_share, overlap.example))
            }
            _ => Verdict::Keep,
        }
    }
}
