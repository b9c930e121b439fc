//! Averages of models (SPEC TRAIN-3, POST-7): the mean of each weight over several folders.

use herd_model::{Llama, weights};
use herd_tensor::Params;
use std::path::PathBuf;

/// Why models cannot be averaged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model was given.
    #[error("there is no model to average; give at least one folder")]
    Nothing,
    /// A model cannot be read.
    #[error(transparent)]
    Weights(#[from] weights::WeightsError),
    /// Two models differ in shape.
    #[error("{} and {} are models of different shape and cannot be averaged", first.display(), other.display())]
    Shape {
        /// The first model.
        first: PathBuf,
        /// One that differs.
        other: PathBuf,
    },
}

/// The mean of the models in `folders` (Hugging Face form), each weight summed in f64 in the order given. Two models
/// are in memory at a time, plus the sum.
pub fn average(folders: &[PathBuf]) -> Result<(Llama, Params), Error> {
    let [first, rest @ ..] = folders else { return Err(Error::Nothing) };
    let (llama, mut params) = weights::load(first)?;
    if rest.is_empty() {
        return Ok((llama, params));
    }
    let mut sum: Vec<f64> = params.flat().iter().map(|&x| f64::from(x)).collect();
    for folder in rest {
        let (_, other) = weights::load(folder)?;
        if other.specs() != params.specs() {
            return Err(Error::Shape { first: first.clone(), other: folder.clone() });
        }
        sum.iter_mut().zip(other.flat()).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = folders.len() as f64;
    params.flat_mut().iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum / count) as f32);
    Ok((llama, params))
}
