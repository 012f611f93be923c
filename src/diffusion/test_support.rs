//! What the unit tests of this module share.

/// Fails unless every pair differs by at most `tolerance`, absolutely or relative to the expected value.
#[track_caller]
pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        // Written so that NaN fails.
        let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(close, "element {i}: found {a}, expected {b} within {tolerance}");
    }
}
