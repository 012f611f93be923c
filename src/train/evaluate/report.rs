//! The evaluation's result, for programs (serde) and for people (Display).

use super::score::{Interval, Score};
use serde::Serialize;
use std::fmt;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Concepts the judge chose from.
    pub concepts: usize,
    /// Prompts of training pictures.
    pub seen: Option<Group>,
    /// Prompts of (concept, style) pairs that were held out, where the data set has them.
    pub held_out_pairs: Option<Group>,
    /// Distances to the nearest training picture.
    pub nearest_training_picture: Nearest,
}

/// The scores for one group of prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// The real pictures of these prompts: the ceiling.
    pub real: Score,
    /// Generated pictures.
    pub generated: Option<Score>,
    /// The same generated pictures under exchanged prompts: the floor.
    pub shuffled: Option<Score>,
}

impl Group {
    /// Generated R@5 as a share of the ceiling's: the figure the goals are set in.
    pub fn share_of_ceiling(&self) -> Option<f64> {
        let ceiling = self.real.recall_at_5.value;
        self.generated.as_ref().filter(|_| ceiling > 0.0).map(|g| g.recall_at_5.value / ceiling)
    }
}

/// Medians of the root-mean-square distance (pixel values in [0, 1], 16 x 16) to the nearest training picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nearest {
    /// Of pictures generated for seen prompts.
    pub generated_seen: Option<f64>,
    /// Of pictures generated for held-out pairs.
    pub generated_held_out_pairs: Option<f64>,
    /// Of real pictures that were not trained on.
    pub real_held_out: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The judge chooses among {} concepts (shares in %, with 95 % intervals)\n", self.concepts)?;
        writeln!(f, "{:<34} {:>4}  {:<18} {:<18} {:>6}  style", "", "n", "R@1", "R@5", "median")?;
        for (name, group) in [("seen prompts", &self.seen), ("held-out pairs", &self.held_out_pairs)] {
            if let Some(group) = group {
                row(f, &format!("{name}, real (ceiling)"), &group.real)?;
                group.generated.iter().try_for_each(|score| row(f, &format!("{name}, generated"), score))?;
                group.shuffled.iter().try_for_each(|score| row(f, &format!("{name}, exchanged (floor)"), score))?;
                if let Some(share) = group.share_of_ceiling() {
                    writeln!(f, "{name}: generated R@5 is {share:.2} of the ceiling\n")?;
                }
            }
        }
        let distance = |d: Option<f64>| d.map_or_else(|| "-".to_owned(), |d| format!("{d:.4}"));
        let Nearest { generated_seen, generated_held_out_pairs, real_held_out } = &self.nearest_training_picture;
        writeln!(f, "Median distance to the nearest training picture:")?;
        writeln!(f, "  generated, seen prompts      {}", distance(*generated_seen))?;
        writeln!(f, "  generated, held-out pairs    {}", distance(*generated_held_out_pairs))?;
        write!(f, "  real pictures not trained on {}", distance(*real_held_out))
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, score: &Score) -> fmt::Result {
    let share = |i: &Interval| format!("{:5.1} [{:4.1}, {:5.1}]", 100.0 * i.value, 100.0 * i.low, 100.0 * i.high);
    let style = score.style.as_ref().map_or_else(|| "-".to_owned(), |s| format!("{:.1}", 100.0 * s.value));
    let (r1, r5) = (share(&score.recall_at_1), share(&score.recall_at_5));
    writeln!(f, "{name:<34} {:>4}  {r1:<18} {r5:<18} {:>6}  {style}", score.pictures, score.median_rank)
}
