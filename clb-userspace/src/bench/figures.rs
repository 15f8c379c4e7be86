//! Figures from noisy runs: the least, the middle, and how much there is to the least.
//!
//! What disturbs a run only ever adds, and on a shared machine it may meet most of the runs. So the least is the figure to trust, if
//! other runs came near to it.

use serde::{Deserialize, Serialize};

/// What several runs took, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The least.
    pub minimum: f64,
    /// The middle one.
    pub median: f64,
    /// How far the quickest quarter of the runs lies apart, as a part of the least.
    pub spread: f64,
}

impl Figures {
    /// Of at least one run.
    pub fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let [minimum, quarter, median] = [0, 1, 2].map(|quarters| quartile(&runs, quarters));
        let spread = if minimum > 0.0 { (quarter - minimum) / minimum } else { 0.0 };
        Self { minimum, median, spread }
    }

    /// Whether the least may be chance.
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
            ("in any order", &[60.0, 40.0, 50.0], 40.0, 50.0, 0.125, true),
            ("an even number", &[40.0, 42.0, 44.0, 46.0], 40.0, 43.0, 0.0375, false),
            ("one disturbed run of five", &[50.0, 51.0, 500.0, 50.0, 51.0], 50.0, 51.0, 0.0, false),
            ("one calm run of five", &[90.0, 91.0, 50.0, 90.0, 91.0], 50.0, 90.0, 0.8, true),
        ] {
            let figures = Figures::of(runs.to_vec());
            assert_eq!(figures, Figures { minimum, median, spread }, "{name}");
            assert_eq!(figures.is_noisy(), is_noisy, "{name}");
        }
    }
}
