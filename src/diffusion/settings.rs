//! Choices with settings as text: `name(key=value, key=value)`, or the name alone.

/// What was written, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written<'a> {
    /// What is chosen.
    pub(crate) name: &'a str,
    /// Keys and values, in the order in which they stand.
    pub(crate) settings: Vec<(&'a str, &'a str)>,
}

impl<'a> Written<'a> {
    /// Takes the text apart. What is wrong with it is a sentence without a subject.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let text = text.trim();
        let Some((name, rest)) = text.split_once('(') else { return Ok(Self { name: text, settings: Vec::new() }) };
        let inside = rest.strip_suffix(')').ok_or("has a bracket that is not closed")?;
        let setting = |part: &'a str| {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{:?} is no key=value", part.trim()))?;
            Ok((key.trim(), value.trim()))
        };
        let parts = inside.split(',').filter(|part| !part.trim().is_empty());
        Ok(Self { name: name.trim(), settings: parts.map(setting).collect::<Result<_, String>>()? })
    }
}

/// The inverse of [`Written::parse`], without those settings that are among the usual ones.
pub(crate) fn short(name: &str, settings: &[(&'static str, String)], usual: &[(&'static str, String)]) -> String {
    let changed: Vec<_> = settings.iter().filter(|setting| !usual.contains(setting)).collect();
    with(name, &listed(changed))
}

/// Settings as they stand in brackets.
pub(crate) fn listed<'a>(settings: impl IntoIterator<Item = &'a (&'static str, String)>) -> String {
    settings.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

/// A name and its settings, which may be none, as one text.
pub(crate) fn with(name: &str, settings: &str) -> String {
    if settings.trim().is_empty() { name.to_owned() } else { format!("{}({})", name.trim(), settings.trim()) }
}

/// The name in such a text, and its settings; "" where there are none.
pub(crate) fn apart(text: &str) -> (&str, &str) {
    text.strip_suffix(')').and_then(|text| text.split_once('(')).unwrap_or((text, ""))
}

/// Makes text of a choice and a choice of text, by its `ALL` (each with its usual settings), `name`, `settings` and `set`. As
/// text it has those settings alone that are not as usual; what is wrong with a text is a sentence without a subject.
macro_rules! as_text {
    ($choice:ty) => {
        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let usual = Self::ALL.into_iter().find(|usual| usual.name() == self.name());
                let usual = usual.map(Self::settings).unwrap_or_default();
                f.write_str(&$crate::diffusion::settings::short(self.name(), &self.settings(), &usual))
            }
        }

        impl std::str::FromStr for $choice {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let written = $crate::diffusion::settings::Written::parse(text)?;
                let name = written.name.replace('-', "_");
                let mut choice = Self::ALL.into_iter().find(|usual| usual.name() == name).ok_or_else(|| {
                    let names = Self::ALL.map(Self::name).join(", ");
                    format!("must be one of {names}, was {:?}", written.name)
                })?;
                written.settings.into_iter().try_for_each(|(key, value)| choice.set(key, value))?;
                Ok(choice)
            }
        }

        impl TryFrom<String> for $choice {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$choice> for String {
            fn from(choice: $choice) -> Self {
                choice.to_string()
            }
        }
    };
}
pub(crate) use as_text;

/// What to say of a key that a choice does not have.
pub(crate) fn no_setting(name: &str, key: &str, keys: &[&str]) -> String {
    match keys {
        [] => format!("{name} has no settings, was given {key:?}"),
        keys => format!("{name} has no setting {key:?}; it has {}", keys.join(", ")),
    }
}

/// A number among settings.
pub(crate) fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key} must be a number, was {value:?}"))
}

/// A number in a range among settings.
pub(crate) fn within(key: &str, value: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let value: f64 = number(key, value)?;
    match range.contains(&value) {
        true => Ok(value),
        false => Err(format!("{key} must be between {} and {}, was {value}", range.start(), range.end())),
    }
}

/// One of several names among settings.
pub(crate) fn one_of<T: Copy>(key: &str, value: &str, names: &[(&'static str, T)]) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    found.ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        format!("{key} must be one of {}, was {value:?}", names.join(", "))
    })
}

/// The name of a choice.
pub(crate) fn name_of<T: Copy + PartialEq>(choice: T, names: &[(&'static str, T)]) -> String {
    names.iter().find(|(_, known)| *known == choice).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_settings_come_apart_and_together() {
        let written = Written::parse(" pc( snr=0.1 ,kind = ve,) ").unwrap();
        assert_eq!((written.name, written.settings), ("pc", vec![("snr", "0.1"), ("kind", "ve")]));
        assert_eq!(Written::parse("euler").unwrap().settings, []);
        assert_eq!(Written::parse("euler()").unwrap().settings, []);
        let (snr, steps) = (("snr", "0.1".to_owned()), ("steps", "2".to_owned()));
        assert_eq!(short("pc", &[snr.clone(), steps.clone()], &[]), "pc(snr=0.1, steps=2)");
        assert_eq!(short("pc", &[snr.clone(), steps], &[snr]), "pc(steps=2)");
        assert_eq!([apart("pc(snr=0.1)"), apart("pc"), apart("pc(")], [("pc", "snr=0.1"), ("pc", ""), ("pc(", "")]);
        assert_eq!([with("pc ", " snr=0.1 "), with("pc", " ")], ["pc(snr=0.1)", "pc"]);
        for (text, wrong) in [("a(b", "not closed"), ("a(b)", "no key=value"), ("a(b=1)c", "not closed")] {
            assert!(Written::parse(text).unwrap_err().contains(wrong), "{text}");
        }
    }
}
