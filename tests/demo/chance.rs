//! Whether the shares that were measured are what chance makes of the weights: Pearson's chi-squared test.
//!
//! Every flow has an (address, port) of its own, and a keyed hash picks its backend: independent draws, as the test asks.

use statrs::distribution::{ChiSquared, ContinuousCDF as _};

/// Below this a listener fails. A correct one does, with flows picked at random, once in a thousand times; the demo's
/// flows and the load balancer's hash key are the same in every run, so one that has passed goes on to pass.
pub const SIGNIFICANCE: f64 = 0.001;

/// How often chance alone is at least so far from the weights; nothing if nothing was observed.
pub fn p_value(observed: &[u64], weights: &[u32]) -> Option<f64> {
    let total: u64 = observed.iter().sum();
    let total_weight: u64 = weights.iter().copied().map(u64::from).sum();
    let mut squared_distance = 0.0;
    let mut categories = 0_u32;
    for (&count, &weight) in observed.iter().zip(weights) {
        if weight == 0 {
            // Chance never sends anything to it.
            if count > 0 {
                return Some(0.0);
            }
            continue;
        }
        let expected = real(total) * f64::from(weight) / real(total_weight);
        squared_distance += (real(count) - expected).powi(2) / expected;
        categories += 1;
    }
    match (total, categories) {
        (0, _) => None,
        (_, 0 | 1) => Some(1.0),
        _ => ChiSquared::new(f64::from(categories - 1)).ok().map(|chance| chance.sf(squared_distance)),
    }
}

/// A count as a real number.
#[expect(clippy::cast_precision_loss, reason = "counts of flows are far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_the_chi_squared_distribution() {
        // The values come from a table of the distribution: 1.44, 3.841, 5.991 and 13.816.
        for (name, observed, weights, expected) in [
            ("exactly the weights", vec![1_000, 2_000, 4_000], vec![10, 20, 40], Some(1.0)),
            ("one degree of freedom", vec![44, 56], vec![1, 1], Some(0.2301)),
            ("one degree of freedom, at 5 %", vec![4_902, 5_098], vec![1, 1], Some(0.0500)),
            ("two degrees of freedom", vec![90, 110, 100], vec![7, 7, 7], Some(0.3679)),
            ("far off", vec![2_000, 1_000], vec![1, 1], Some(0.0)),
            ("one backend gets all", vec![100], vec![10], Some(1.0)),
            ("nothing for weight 0", vec![50, 50, 0], vec![10, 10, 0], Some(1.0)),
            ("something for weight 0", vec![50, 50, 1], vec![10, 10, 0], Some(0.0)),
            ("no answers at all", vec![0, 0], vec![10, 10], None),
        ] {
            let actual = p_value(&observed, &weights);
            let is_equal = match (actual, expected) {
                (Some(actual), Some(expected)) => (actual - expected).abs() < 0.001,
                (actual, expected) => actual == expected,
            };
            assert!(is_equal, "{name}: {actual:?}, not {expected:?}");
        }
    }
}
