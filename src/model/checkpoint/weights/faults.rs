//! What a network did not find among the tensors of its files, and what it did not ask for.

use crate::Error;
use candle_core::Shape;
use std::collections::HashSet;
use std::path::PathBuf;

/// How many missing tensors are looked for, and how many numbers may stand in for them, before a model is given up.
/// Without such a bound a hostile configuration could ask for any amount of memory.
const MOST_MISSING: usize = 10_000;
const MOST_STAND_INS: usize = 1 << 26;

/// What is told of each list.
const NAMED: usize = 5;

/// The tensors asked for so far, and what was wrong with them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    asked: HashSet<String>,
    missing: Vec<String>,
    stand_ins: usize,
    /// The first one.
    pub(super) unusable: Option<Error>,
}

impl Faults {
    /// Notes a tensor that was there.
    pub(super) fn ask(&mut self, name: &str) {
        self.asked.insert(name.to_owned());
    }

    /// Notes a tensor that was not. True when there are too many of them, or too large ones, to go on.
    pub(super) fn miss(&mut self, name: &str, shape: &Shape) -> bool {
        self.missing.push(name.to_owned());
        let numbers = shape.dims().iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        self.stand_ins = self.stand_ins.saturating_add(numbers.unwrap_or(usize::MAX));
        self.gave_up()
    }

    fn gave_up(&self) -> bool {
        self.stand_ins > MOST_STAND_INS || self.missing.len() >= MOST_MISSING
    }

    pub(super) fn into_error(self, path: impl FnOnce() -> PathBuf) -> Option<Error> {
        if self.unusable.is_some() || self.missing.is_empty() {
            return self.unusable;
        }
        let least = if self.gave_up() { "at least " } else { "" };
        Some(Error::model(
            path(),
            format!("{least}{} missing: {}", tensors_are(self.missing.len()), list(&self.missing)),
        ))
    }

    /// Which of `names` nobody asked for: a sign that a configuration describes another network. The numbers of
    /// positions, which older programs wrote beside their table, are none.
    pub(super) fn passed_over<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<String> {
        let unasked = |name: &&str| !self.asked.contains(*name) && !name.ends_with(".position_ids");
        let mut names: Vec<&str> = names.filter(unasked).collect();
        names.sort_unstable();
        let are = tensors_are(names.len());
        (!names.is_empty())
            .then(|| format!("{are} not what the configuration describes, and not used: {}", list(&names)))
    }
}

fn tensors_are(count: usize) -> String {
    format!("{count} {}", if count == 1 { "tensor is" } else { "tensors are" })
}

/// The first few names.
fn list<T: AsRef<str>>(names: &[T]) -> String {
    let first = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{first} and {} more", names.len() - NAMED) } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asked_for_is_named() {
        let mut faults = Faults::default();
        faults.ask("a");
        assert_eq!(faults.passed_over(["a", "embeddings.position_ids"].into_iter()), None);
        let one = "1 tensor is not what the configuration describes, and not used: b";
        assert_eq!(faults.passed_over(["b", "a"].into_iter()).as_deref(), Some(one));
        let names = ["h", "g", "f", "e", "d", "c", "b"];
        let seven = "7 tensors are not what the configuration describes, and not used: b, c, d, e, f and 2 more";
        assert_eq!(faults.passed_over(names.into_iter()).as_deref(), Some(seven));
    }
}
