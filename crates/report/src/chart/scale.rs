//! From values to places on an axis, with ticks at round numbers.

use crate::number;

/// A linear or logarithmic axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// An axis over `low..high` drawn from `from` to `to` (in units of the drawing). Values that leave no range are
    /// widened; a logarithmic axis over values that are not above 0 becomes linear.
    pub fn new(low: f64, high: f64, from: f64, to: f64, log: bool) -> Self {
        let (low, high) = match (low.is_finite() && high.is_finite(), high > low) {
            (false, _) => (0.0, 1.0),
            (true, true) => (low, high),
            (true, false) => {
                let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
                (low - room, low + room)
            }
        };
        Self { low, high, from, to, log: log && low > 0.0 }
    }

    /// The same axis with its ends moved outward to ticks.
    pub fn rounded(self, ticks: usize) -> Self {
        if self.log {
            return self;
        }
        let step = round_step(self.high - self.low, ticks);
        Self { low: (self.low / step).floor() * step, high: (self.high / step).ceil() * step, ..self }
    }

    /// Place of a value, kept within the axis.
    pub fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// About `count` ticks with their labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        if self.log {
            return self.log_ticks();
        }
        let step = round_step(self.high - self.low, count);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).map(|value| (value, label(value, step))).collect()
    }

    fn log_ticks(&self) -> Vec<(f64, String)> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let steps: &[f64] = if self.high / self.low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        (first..=last)
            .step_by(((last - first) / 8).max(1) as usize)
            .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
            .filter(|value| (self.low * 0.999..=self.high * 1.001).contains(value))
            .map(|value| (value, number::compact(value)))
            .collect()
    }
}

/// The step among 1, 2, 2.5, 5 times a power of ten that cuts `range` into about `count` parts.
fn round_step(range: f64, count: usize) -> f64 {
    let rough = range / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let share = rough / power;
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|s| share <= s * 1.001).unwrap_or(10.0);
    step * power
}

fn label(value: f64, step: f64) -> String {
    if value.abs() < step * 1e-6 {
        return "0".into();
    }
    if step >= 1000.0 || value.abs() >= 1e5 {
        return number::compact(value);
    }
    if value.abs() < 1e-3 {
        return format!("{value:.0e}").replace("e-", "e−");
    }
    let decimals = (0..6).find(|&d| (step * 10f64.powi(d) - (step * 10f64.powi(d)).round()).abs() < 1e-6);
    format!("{value:.*}", decimals.unwrap_or(6) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, count: usize) -> Vec<String> {
        scale.ticks(count).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(labels(Scale::new(0.0, 10.0, 0.0, 100.0, false), 5), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(Scale::new(1.23, 2.1, 0.0, 1.0, false), 4), ["1.25", "1.50", "1.75", "2.00"]);
        assert_eq!(labels(Scale::new(0.0, 3e-4, 0.0, 1.0, false), 3), ["0", "1e−4", "2e−4", "3e−4"]);
        assert_eq!(labels(Scale::new(0.0, 40_000.0, 0.0, 1.0, false), 4), ["0", "10K", "20K", "30K", "40K"]);
        assert_eq!(labels(Scale::new(1.0, 10.0, 0.0, 1.0, true), 4), ["1", "2", "5", "10"]);
    }

    #[test]
    fn odd_ranges_still_place_values() {
        for (low, high) in
            [(1.0, 1.0), (0.0, 0.0), (f64::NAN, 1.0), (f64::INFINITY, f64::NEG_INFINITY), (-3.0, -3.0)]
        {
            for log in [false, true] {
                let scale = Scale::new(low, high, 0.0, 100.0, log).rounded(4);
                assert!((0.0..=100.0).contains(&scale.place(1.0)), "{low} {high} {log}");
                assert!(scale.ticks(5).len() < 20);
            }
        }
    }
}
