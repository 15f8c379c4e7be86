//! Figures from noisy runs: the least, the middle, and how far from each other they lie.

use serde::{Deserialize, Serialize};

/// What several runs took, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The least: what disturbs a run only ever adds.
    pub minimum: f64,
    /// The middle one.
    pub median: f64,
    /// The middle half's width, as a part of the median.
    pub spread: f64,
}

impl Figures {
    /// Of at least one run.
    pub fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let median = quartile(&runs, 2);
        let width = quartile(&runs, 3) - quartile(&runs, 1);
        let spread = if median > 0.0 { width / median } else { 0.0 };
        Self { minimum: runs.first().copied().unwrap_or_default(), median, spread }
    }

    /// Whether the runs differ too much to be taken for one figure.
    pub fn is_noisy(&self) -> bool {
        self.spread > MOST_SPREAD
    }
}

/// The value below which so many quarters of the sorted ones lie, between two of them if need be.
fn quartile(sorted: &[f64], quarters: usize) -> f64 {
    let place = sorted.len().saturating_sub(1) * quarters;
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    let (below, above) = (at(place / 4), at(place.div_ceil(4)));
    below + (above - below) * (place % 4) as f64 / 4.0
}

/// A tenth: of a packet of 60 ns, with the wrapper, that is 6 ns.
const MOST_SPREAD: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_all_runs() {
        for (name, runs, minimum, median, spread, is_noisy) in [
            ("one", &[50.0][..], 50.0, 50.0, 0.0, false),
            ("equal", &[50.0, 50.0, 50.0], 50.0, 50.0, 0.0, false),
            ("in any order", &[60.0, 40.0, 50.0], 40.0, 50.0, 0.2, true),
            ("an even number", &[40.0, 42.0, 44.0, 46.0], 40.0, 43.0, 3.0 / 43.0, false),
            ("one disturbed run of five", &[50.0, 51.0, 500.0, 50.0, 51.0], 50.0, 51.0, 1.0 / 51.0, false),
        ] {
            let figures = Figures::of(runs.to_vec());
            assert_eq!(figures, Figures { minimum, median, spread }, "{name}");
            assert_eq!(figures.is_noisy(), is_noisy, "{name}");
        }
    }
}
