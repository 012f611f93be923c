//! Typed text to numbers in a range. Every refusal names what was given and what is accepted.

use super::quoted;
use crate::error::FieldError;
use std::ops::RangeInclusive;

/// A whole number in `range`. Only ASCII digits, with an optional minus: no `+7`, `07`, `1e3` or full-width digits.
pub(super) fn whole(field: &str, typed: &str, range: RangeInclusive<u64>) -> Result<u64, FieldError> {
    let text = typed.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !is_decimal(digits) {
        let message =
            format!("must be a whole number between {} and {}, was {}", range.start(), range.end(), quoted(typed));
        return Err(
            FieldError::new(field, "not_a_whole_number", message).range(*range.start() as f64, *range.end() as f64)
        );
    }
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
        let message = format!("must be between {} and {}, was {}", range.start(), range.end(), shorten(text));
        FieldError::new(field, "out_of_range", message).range(*range.start() as f64, *range.end() as f64)
    })
}

/// A finite number in `range`.
pub(super) fn real(field: &str, typed: &str, range: RangeInclusive<f64>) -> Result<f64, FieldError> {
    let (low, high) = (*range.start(), *range.end());
    let text = typed.trim();
    let refuse = |code, message: String| Err(FieldError::new(field, code, message).range(low, high));
    match text.parse::<f64>() {
        Ok(_) if text.starts_with('+') => {
            refuse("not_a_number", format!("must be a number between {low} and {high}, was {}", quoted(typed)))
        }
        Ok(x) if !x.is_finite() => {
            refuse("not_finite", format!("must be a finite number between {low} and {high}, was {}", shorten(text)))
        }
        Ok(x) if !range.contains(&x) => {
            refuse("out_of_range", format!("must be between {low} and {high}, was {}", shorten(text)))
        }
        Ok(x) => Ok(x),
        Err(_) => refuse("not_a_number", format!("must be a number between {low} and {high}, was {}", quoted(typed))),
    }
}

fn is_decimal(digits: &str) -> bool {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all && (digits == "0" || !digits.starts_with('0'))
}

/// A number's text, cut where nobody would read on.
fn shorten(text: &str) -> String {
    if text.len() <= 40 { text.to_owned() } else { format!("{}...", text.chars().take(40).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers() {
        for (typed, expected) in [("1", 1), (" 20 ", 20), ("1000", 1000)] {
            assert_eq!(whole("steps", typed, 1..=1000), Ok(expected));
        }
        for (typed, code) in [
            ("0", "out_of_range"),
            ("-1", "out_of_range"),
            ("1001", "out_of_range"),
            ("99999999999999999999999999", "out_of_range"),
            ("7,5", "not_a_whole_number"),
            ("1.5", "not_a_whole_number"),
            ("７", "not_a_whole_number"),
            ("+7", "not_a_whole_number"),
            ("07", "not_a_whole_number"),
            ("0x10", "not_a_whole_number"),
            ("", "not_a_whole_number"),
        ] {
            let error = whole("steps", typed, 1..=1000).unwrap_err();
            assert_eq!((error.code, error.minimum, error.maximum), (code, Some(1.0), Some(1000.0)), "{typed}");
            assert!(error.message.contains(typed), "{}", error.message);
        }
        assert_eq!(whole("seed", "18446744073709551615", 0..=u64::MAX), Ok(u64::MAX));
        assert!(whole("seed", "18446744073709551616", 0..=u64::MAX).is_err());
    }

    #[test]
    fn real_numbers() {
        assert_eq!(real("guidance", " 7.5", 0.0..=50.0), Ok(7.5));
        assert_eq!(real("guidance", "1e1", 0.0..=50.0), Ok(10.0));
        for (typed, code) in [
            ("NaN", "not_finite"),
            ("1e999", "not_finite"),
            ("-Infinity", "not_finite"),
            ("50.1", "out_of_range"),
            ("-0.1", "out_of_range"),
            ("7,5", "not_a_number"),
            ("+7", "not_a_number"),
            ("seven", "not_a_number"),
        ] {
            assert_eq!(real("guidance", typed, 0.0..=50.0).unwrap_err().code, code, "{typed}");
        }
    }
}
