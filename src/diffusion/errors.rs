//! How much a model errs at each noise level: measured once, known ever after.

use crate::error::{Error, FieldError, Result};
use serde::{Deserialize, Serialize};

/// The mean of `|x0 - D(x, sigma)|^2` per element over data, at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LevelError {
    /// The noise level.
    pub sigma: f64,
    /// The mean squared error, in units of the model's space.
    pub squared_error: f64,
}

/// The same at all noise levels: what remains unknown of a clean picture, on average, when a noisy one is seen. It is all
/// that the best variance of a reverse step needs (Bao et al., arXiv:2201.06503, theorem 1, in the form of eq. 9 that sums
/// over dimensions).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct SquaredErrors {
    /// Rising in sigma, at least two.
    levels: Vec<LevelError>,
}

/// As it stands in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    levels: Vec<LevelError>,
}

impl SquaredErrors {
    /// From measurements at two levels or more, in any order; all numbers have to be above 0.
    pub fn new(mut levels: Vec<LevelError>) -> Result<Self> {
        levels.sort_by(|a, b| a.sigma.total_cmp(&b.sigma));
        let positive = |level: &LevelError| {
            [level.sigma, level.squared_error].iter().all(|number| *number > 0.0 && number.is_finite())
        };
        let rising = levels.windows(2).all(|pair| pair[0].sigma < pair[1].sigma);
        if levels.len() < 2 || !rising || !levels.iter().all(positive) {
            let message = "have to be two or more noise levels above 0, each once, with an error above 0";
            return Err(Error::invalid(FieldError::new("squared_errors", "out_of_range", message)));
        }
        Ok(Self { levels })
    }

    /// What was measured, rising in sigma.
    pub fn levels(&self) -> &[LevelError] {
        &self.levels
    }

    /// The error at `sigma`: a power law between the levels that were measured, and the nearest one's outside of them.
    pub fn at(&self, sigma: f64) -> f64 {
        let above = self.levels.iter().position(|level| level.sigma >= sigma).unwrap_or(self.levels.len() - 1).max(1);
        let (low, high) = (self.levels[above - 1], self.levels[above]);
        let share = ((sigma / low.sigma).ln() / (high.sigma / low.sigma).ln()).clamp(0.0, 1.0);
        low.squared_error * (high.squared_error / low.squared_error).powf(share)
    }
}

impl TryFrom<Table> for SquaredErrors {
    type Error = Error;

    fn try_from(Table { levels }: Table) -> Result<Self> {
        Self::new(levels)
    }
}

impl From<SquaredErrors> for Table {
    fn from(errors: SquaredErrors) -> Self {
        Self { levels: errors.levels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(levels: &[(f64, f64)]) -> Result<SquaredErrors> {
        let level = |(sigma, squared_error): &(f64, f64)| LevelError { sigma: *sigma, squared_error: *squared_error };
        SquaredErrors::new(levels.iter().map(level).collect())
    }

    #[test]
    fn a_power_law_comes_back_between_levels_and_ends_with_them() {
        let errors = errors(&[(8.0, 0.8), (0.1, 0.01), (1.0, 0.1)]).unwrap();
        for sigma in [0.1, 0.3, 1.0, 2.5, 8.0] {
            assert!((errors.at(sigma) - 0.1 * sigma).abs() < 1e-12, "{sigma}");
        }
        assert!((errors.at(0.01) - 0.01).abs() < 1e-12 && (errors.at(100.0) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn a_file_holds_it() {
        let errors = errors(&[(1.0, 0.1), (2.0, 0.2)]).unwrap();
        let text = serde_json::to_string(&errors).unwrap();
        assert!(text.starts_with(r#"{"levels":[{"sigma":1.0,"#), "{text}");
        assert_eq!(serde_json::from_str::<SquaredErrors>(&text).unwrap(), errors);
        assert!(serde_json::from_str::<SquaredErrors>(r#"{"levels": []}"#).is_err());
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for wrong in
            [&[(1.0, 0.1)][..], &[(1.0, 0.1), (1.0, 0.2)], &[(0.0, 0.1), (1.0, 0.2)], &[(1.0, 0.0), (2.0, 0.2)]]
        {
            assert!(errors(wrong).is_err(), "{wrong:?}");
        }
    }
}
