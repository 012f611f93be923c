//! One request drawn with several values of one or two fields.

use super::GenerateRequest;
use crate::error::FieldError;

/// What can vary: its name in requests, and in words.
pub const AXES: [(&str, &str); 8] = [
    ("steps", "Steps"),
    ("guidance", "Guidance"),
    ("sampler", "Sampler"),
    ("schedule", "Schedule"),
    ("seed", "Seed"),
    ("economy", "Economy"),
    ("words", "Prompt words"),
    ("model", "Model"),
];
/// The most pictures of one grid.
pub const MAX_CELLS: usize = 64;

/// A field and the values that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    field: &'static str,
    values: Vec<String>,
}

/// A request and the values of one or two of its fields: every pair is a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// What is the same in all pictures.
    pub base: GenerateRequest,
    /// What changes from left to right.
    pub across: Axis,
    /// What changes from top to bottom.
    pub down: Option<Axis>,
}

impl Axis {
    /// Values that are separated by commas; of whole numbers also ranges, `1-4`. `name` is what errors call them.
    pub fn parse(field: &str, values: &str, name: &str) -> Result<Self, FieldError> {
        let known = AXES.into_iter().find(|(known, _)| *known == field).map(|(known, _)| known);
        let field = known.ok_or_else(|| {
            let names = AXES.map(|(name, _)| name).join(", ");
            FieldError::new(name, "unknown_value", format!("must vary one of {names}"))
        })?;
        let mut found = Vec::new();
        for value in parts(values).into_iter().map(str::trim).filter(|value| !value.is_empty()) {
            match range(value).filter(|_| ["steps", "seed"].contains(&field)) {
                Some((first, last)) => found.extend((first..=last).take(MAX_CELLS + 1).map(|n| n.to_string())),
                None => found.push(value.to_owned()),
            }
        }
        match found.len() {
            0 => Err(FieldError::new(name, "missing", "needs at least one value; separate them by commas")),
            n if n > MAX_CELLS => {
                Err(FieldError::new(name, "too_many", format!("may have {MAX_CELLS} values at most"))
                    .range(1.0, MAX_CELLS as f64))
            }
            _ => Ok(Self { field, values: found }),
        }
    }

    /// What is written beside the pictures.
    pub fn labels(&self) -> Vec<String> {
        let short = match self.field {
            "guidance" => "cfg ",
            "steps" => "steps ",
            "seed" => "seed ",
            _ => "",
        };
        self.values.iter().map(|value| format!("{short}{value}")).collect()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Never: an axis has at least one value.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The request with value number `index`.
    fn apply(&self, index: usize, request: &mut GenerateRequest) {
        let value = self.values[index].clone();
        if self.field == "words" {
            let prompt = request.text("prompt").replace(&self.values[0], &value);
            request.set_text("prompt", prompt);
        } else {
            request.set_text(self.field, value);
        }
    }
}

impl Grid {
    /// What is wrong with the grid as such; its requests are checked one by one.
    pub fn check(&self) -> Result<(), FieldError> {
        let cells = self.across.len() * self.down.as_ref().map_or(1, Axis::len);
        if cells > MAX_CELLS {
            let message = format!("makes {cells} pictures with the other axis; {MAX_CELLS} are the most");
            return Err(FieldError::new("x_values", "too_many", message).range(1.0, MAX_CELLS as f64));
        }
        for (name, axis) in [("x_values", Some(&self.across)), ("y_values", self.down.as_ref())] {
            let Some(axis) = axis.filter(|axis| axis.field == "words") else { continue };
            if !self.base.text("prompt").contains(&axis.values[0]) {
                let message = "must begin with words that stand in the prompt: the others take their place";
                return Err(FieldError::new(name, "not_in_prompt", message));
            }
        }
        Ok(())
    }

    /// All requests, row by row; of one picture each.
    pub fn requests(&self) -> Vec<GenerateRequest> {
        let rows = self.down.as_ref().map_or(1, Axis::len);
        let cell = |row: usize, column: usize| {
            let mut request = self.base.clone();
            request.set_text("count", "1".to_owned());
            // Rows first: where both axes replace words, the columns' words may stand in what the rows put there.
            if let Some(down) = &self.down {
                down.apply(row, &mut request);
            }
            self.across.apply(column, &mut request);
            request
        };
        (0..rows)
            .flat_map(|row| (0..self.across.len()).map(move |column| (row, column)))
            .map(|(r, c)| cell(r, c))
            .collect()
    }
}

/// What commas separate; those in brackets separate a sampler's settings.
fn parts(values: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0usize, 0, Vec::new());
    for (at, character) in values.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&values[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&values[begin..]);
    parts
}

/// The first and the last number of `3-7`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(across: (&str, &str), down: Option<(&str, &str)>) -> Result<Grid, FieldError> {
        let mut base = GenerateRequest::default();
        base.set_text("prompt", "red apple".to_owned());
        let across = Axis::parse(across.0, across.1, "x_values")?;
        let down = down.map(|(field, values)| Axis::parse(field, values, "y_values")).transpose()?;
        let grid = Grid { base, across, down };
        grid.check().map(|()| grid)
    }

    #[test]
    fn every_pair_is_a_request() -> Result<(), FieldError> {
        let grid = grid(("steps", "5, 8-9"), Some(("words", "red, green ")))?;
        let found: Vec<(String, String)> =
            grid.requests().iter().map(|r| (r.text("prompt").to_owned(), r.text("steps").to_owned())).collect();
        let pair = |prompt: &str, steps: &str| (prompt.to_owned(), steps.to_owned());
        assert_eq!(found[..3], [pair("red apple", "5"), pair("red apple", "8"), pair("red apple", "9")]);
        assert_eq!(found[3..], [pair("green apple", "5"), pair("green apple", "8"), pair("green apple", "9")]);
        assert_eq!(grid.across.labels(), ["steps 5", "steps 8", "steps 9"]);
        Ok(())
    }

    #[test]
    fn commas_in_brackets_belong_to_a_value() -> Result<(), FieldError> {
        let grid = grid(("sampler", "euler, pc(snr=0.1, corrector_steps=2),ddim(eta=1)"), None)?;
        assert_eq!(grid.across.labels(), ["euler", "pc(snr=0.1, corrector_steps=2)", "ddim(eta=1)"]);
        Ok(())
    }

    #[test]
    fn what_makes_no_grid_is_refused_by_name() {
        for (across, down, field, code) in [
            (("prompt", "a"), None, "x_values", "unknown_value"),
            (("steps", " , "), None, "x_values", "missing"),
            (("seed", "0-18446744073709551615"), None, "x_values", "too_many"),
            (("seed", "1-9"), Some(("steps", "1-8")), "x_values", "too_many"),
            (("steps", "5"), Some(("words", "blue,red")), "y_values", "not_in_prompt"),
        ] {
            let error = grid(across, down).expect_err(code);
            assert_eq!((error.field.as_str(), error.code), (field, code));
        }
    }
}
