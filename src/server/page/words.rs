//! Small wordings that several pages share.

/// "1st", "2nd", "3rd", "11th".
pub(super) fn ordinal(number: usize) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// A time to come, as roughly as it is known.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 1.5 => "about a second".to_owned(),
        s if s < 90.0 => format!("about {s:.0} s"),
        s if s < 5_400.0 => format!("about {:.0} min", s / 60.0),
        s => format!("about {:.1} h", s / 3600.0),
    }
}

/// A prompt as a file name: letters and digits of any script, at most 40 of them.
pub(super) fn slug(prompt: &str) -> String {
    let name: String = prompt.chars().take(40).map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    match name.trim_matches('-') {
        "" => "limner".to_owned(),
        name => name.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain() {
        for (prompt, expected) in
            [("Red apple!", "red-apple"), ("../../etc/passwd", "etc-passwd"), ("", "limner"), ("🍎", "limner")]
        {
            assert_eq!(slug(prompt), expected);
        }
    }

    #[test]
    fn numbers_and_times_read_well() {
        let places: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].into_iter().map(ordinal).collect();
        assert_eq!(places.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th");
        let times: Vec<String> = [0.2, 42.4, 200.0, 9000.0].into_iter().map(about).collect();
        assert_eq!(times.join(", "), "about a second, about 42 s, about 3 min, about 2.5 h");
    }
}
