//! The optimizer inside the backward pass: what a recipe must say for it, and that it changes nothing else.

use super::settings::wrong;
use super::{NonFinitePolicy, Settings, phases};
use crate::device::Device;
use herd_run::SettingError;

impl Settings {
    /// The settings without what changes no bit of the outcome and may be changed in the middle of a run.
    pub fn of_outcome(&self) -> Self {
        let mut settings = self.clone();
        settings.optimizer.in_backward = false;
        settings
    }

    /// Checks that an update inside the backward pass can be all of a step.
    pub(super) fn validate_in_backward(&self) -> Result<(), SettingError> {
        let key = "optimizer.in_backward";
        if self.device == Device::Cuda {
            return wrong(
                key,
                "a card updates after the backward pass; set it to false, or device = \"cpu\"",
            );
        }
        if self.non_finite.policy == NonFinitePolicy::Skip {
            let problem = "a gradient that is not finite is met when parameters are updated already, so its batch cannot be \
                           skipped; set non_finite.policy = \"stop\", or in_backward = false";
            return wrong(key, problem);
        }
        let largest =
            phases::legs(self).iter().flat_map(|leg| &leg.growth.0).map(|stage| stage.batch_tokens).max();
        match largest {
            Some(largest) if largest > self.micro_batch_tokens => {
                let problem = format!(
                    "a step of {largest} tokens is several micro-batches of {} tokens, and only the last could be updated \
                     from; raise micro_batch_tokens to {largest}, or set in_backward = false",
                    self.micro_batch_tokens
                );
                wrong(key, problem)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Settings);

    #[test]
    fn an_update_inside_the_backward_pass_says_what_it_needs() {
        let settings = |change: Change| {
            let mut settings = Settings { micro_batch_tokens: 8192, ..Settings::default() };
            (settings.optimizer.in_backward, settings.optimizer.clip) = (true, 0.0);
            change(&mut settings);
            settings.validate()
        };
        settings(|_| ()).unwrap();
        let changes: [(Change, &str); 4] = [
            (|s| s.optimizer.clip = 1.0, "set clip = 0"),
            (|s| s.micro_batch_tokens = 8191, "raise micro_batch_tokens to 8192"),
            (|s| s.non_finite.policy = NonFinitePolicy::Skip, "non_finite.policy = \"stop\""),
            (|s| s.device = Device::Cuda, "device = \"cpu\""),
        ];
        for (change, remedy) in changes {
            let problem = settings(change).unwrap_err();
            assert_eq!(problem.key, "optimizer.in_backward");
            assert!(problem.to_string().contains(remedy), "{problem}");
        }
    }
}
