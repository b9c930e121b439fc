use super::{Filter, Reason, Verdict};
use crate::classifier::Model;
use crate::documents::{Document, Domain};
use crate::error::Error;
use crate::settings::ClassifierSettings;
use herd_run::SettingError;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Scores documents by trained models (SPEC DATA-5, DATA-6) and drops those beyond a bound. Each score is a column.
pub struct Classifiers(Vec<Scorer>);

struct Scorer {
    settings: ClassifierSettings,
    model: Arc<Model>,
    /// Place of the label among the model's.
    label: usize,
}

impl Classifiers {
    /// Reads the models, each once. `None` if there are none.
    ///
    /// # Errors
    ///
    /// A file that is no model, or a label that a model does not have.
    pub fn load(settings: &[ClassifierSettings]) -> Result<Option<Self>, Error> {
        let mut models: BTreeMap<&Path, Arc<Model>> = BTreeMap::new();
        let mut scorers = Vec::new();
        for settings in settings {
            let model = match models.get(settings.model.as_path()) {
                Some(model) => model.clone(),
                None => {
                    let model = Arc::new(Model::load(&settings.model)?);
                    models.insert(&settings.model, model.clone());
                    model
                }
            };
            let labels = model.labels();
            let label = labels.iter().position(|label| *label == settings.label).ok_or_else(|| {
                let problem = format!(
                    "'{}' is no label of {}; there are {}",
                    settings.label,
                    settings.model.display(),
                    labels.join(", ")
                );
                SettingError::new("classifiers.label", problem)
            })?;
            scorers.push(Scorer { settings: settings.clone(), label, model });
        }
        Ok((!scorers.is_empty()).then_some(Self(scorers)))
    }

    /// The score of a document by the classifier of that name; `None` if there is none, or it does not know the language.
    pub fn score(&self, name: &str, document: &Document) -> Option<f32> {
        let Scorer { settings, model, label } = self.0.iter().find(|scorer| scorer.settings.name == name)?;
        let applies = settings.languages.is_empty() || settings.languages.contains(&document.language);
        applies.then(|| model.probabilities(&document.text)[*label])
    }
}

impl Filter for Classifiers {
    fn step(&self) -> &'static str {
        "classifiers"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let mut verdict = Verdict::Keep;
        let mut last: Option<(&Arc<Model>, Vec<f32>)> = None;
        for Scorer { settings, model, label } in &self.0 {
            let applies = settings.languages.is_empty() || settings.languages.contains(&document.language);
            if !applies {
                document.values.insert(settings.name.clone(), f32::NAN);
                continue;
            }
            // Several labels of one model are one look at the text.
            if last.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, model)) {
                last = Some((model, model.probabilities(&document.text)));
            }
            let score = last.as_ref().map_or(f32::NAN, |(_, scores)| scores[*label]);
            document.values.insert(settings.name.clone(), score);
            let bound = match (settings.min_score, settings.max_score) {
                (Some(least), _) if score < least => least,
                (_, Some(most)) if score > most => most,
                _ => continue,
            };
            if verdict == Verdict::Keep {
                verdict = Verdict::Drop(Reason::new(&settings.name, score, bound, &document.text));
            }
        }
        verdict
    }
}

/// The domain that the first classifier with a `domain` and a sufficient score says; that which the document has if
/// none does.
pub fn domain_by_score(document: &Document, classifiers: &[ClassifierSettings]) -> Domain {
    let found = classifiers.iter().find_map(|c| {
        let score = document.values.get(&c.name)?;
        c.domain.filter(|_| *score >= c.domain_score)
    });
    found.unwrap_or(document.domain)
}
