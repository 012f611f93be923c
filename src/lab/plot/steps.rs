//! How a picture was drawn: a small plot for each figure of its steps.

use super::open;
use crate::diffusion::diagnostics::StepFigures;
use std::fmt::Write;

/// A small plot.
struct Panel {
    title: &'static str,
    logarithmic: bool,
    of: fn(&StepFigures) -> Option<f64>,
}

const PANELS: [Panel; 8] = [
    Panel { title: "Noise level σ", logarithmic: true, of: |step| Some(step.sigma) },
    Panel { title: "Evaluations of the network", logarithmic: false, of: |step| Some(step.evaluations as f64) },
    Panel { title: "Score norm times σ", logarithmic: false, of: |step| Some(step.score_norm) },
    Panel { title: "Drift of the predicted picture", logarithmic: false, of: |step| step.drift },
    Panel { title: "Guidance norm", logarithmic: false, of: |step| step.guidance_norm },
    Panel { title: "Guidance angle, degrees", logarithmic: false, of: |step| step.guidance_angle },
    Panel { title: "Local error of a first-order step", logarithmic: true, of: |step| step.local_error },
    Panel { title: "Clipped pixels, %", logarithmic: false, of: |step| Some(100.0 * step.clipped?) },
];

/// Columns of panels, and how large one is.
const COLUMNS: usize = 2;
const SIZE: (f64, f64) = (320.0, 150.0);
/// Where the lines of a panel are: from the left and to the right, from the top and to the bottom.
const ACROSS: (f64, f64) = (56.0, 300.0);
const DOWN: (f64, f64) = (32.0, 112.0);
/// The most steps that are marked one by one.
const MARKS: usize = 50;

/// Every figure against the step, from left to right in the order in which they were walked, with the noise levels below.
pub fn steps(steps: &[StepFigures]) -> String {
    let (width, height) = (SIZE.0 * COLUMNS as f64, SIZE.1 * PANELS.len().div_ceil(COLUMNS) as f64);
    let mut svg = open(width, height, &format!("Figures of {} steps", steps.len()));
    let _ = write!(svg, r##"<rect width="{width}" height="{height}" fill="#faf9fe"/>"##);
    for (i, panel) in PANELS.iter().enumerate() {
        let (x, y) = ((i % COLUMNS) as f64 * SIZE.0, (i / COLUMNS) as f64 * SIZE.1);
        let _ = write!(svg, r##"<g transform="translate({x} {y})" font-size="11" fill="#453a63">"##);
        panel.draw(&mut svg, steps);
        svg += "</g>";
    }
    svg + "</svg>"
}

impl Panel {
    fn draw(&self, svg: &mut String, steps: &[StepFigures]) {
        let ((left, right), (top, bottom)) = (ACROSS, DOWN);
        let _ = write!(
            svg,
            r##"<text x="{left}" y="20" font-size="13" fill="#1d1633">{}</text><path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#8f86ab"/>"##,
            self.title
        );
        levels(svg, steps);
        let values: Vec<Option<f64>> = steps.iter().map(self.of).collect();
        let Some(scale) = Scale::over(&values, self.logarithmic) else {
            let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
            let _ = write!(svg, r#"<text x="{x}" y="{y}" text-anchor="middle">none</text>"#);
            return;
        };
        for (value, y) in scale.ends() {
            let text = short(value);
            let _ = write!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#, left - 5.0, y + 4.0);
        }
        line(svg, &values, &scale);
    }
}

/// The line through what is known, broken where something is not, and a mark for each step where there is room.
fn line(svg: &mut String, values: &[Option<f64>], scale: &Scale) {
    let (mut path, mut marks, mut joined) = (String::new(), String::new(), false);
    let alone = values.iter().flatten().count() == 1;
    for (i, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let (x, y) = (across(i, values.len()), scale.down(*value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if joined { 'L' } else { 'M' });
            if values.len() <= MARKS || alone {
                let _ = write!(marks, r##"<circle cx="{x:.1}" cy="{y:.1}" r="2" fill="#6234c4"/>"##);
            }
        }
        joined = value.is_some();
    }
    let _ = write!(svg, r##"<path d="{path}" fill="none" stroke="#6234c4" stroke-width="1.5"/>{marks}"##);
}

/// The first, the middle and the last step, and their noise levels.
fn levels(svg: &mut String, steps: &[StepFigures]) {
    let last = steps.len().saturating_sub(1);
    let mut shown = vec![0, last / 2, last];
    shown.dedup();
    for i in shown {
        let Some(StepFigures { step, sigma, .. }) = steps.get(i) else { return };
        let (x, y, sigma) = (across(i, steps.len()), DOWN.1, short(*sigma));
        let _ = write!(
            svg,
            r##"<path d="M{x:.1} {y}v4" stroke="#8f86ab"/><g text-anchor="middle"><text x="{x:.1}" y="{:.1}">{step}</text><text x="{x:.1}" y="{:.1}">σ {sigma}</text></g>"##,
            y + 15.0,
            y + 28.0
        );
    }
}

/// Where step `i` of so many is; one alone is in the middle.
fn across(i: usize, steps: usize) -> f64 {
    let share = if steps > 1 { i as f64 / (steps - 1) as f64 } else { 0.5 };
    ACROSS.0 + 8.0 + share * (ACROSS.1 - ACROSS.0 - 16.0)
}

/// From the least to the greatest value.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// None where there are no values. What is not above zero has no logarithm, and is shown as it is.
    fn over(values: &[Option<f64>], logarithmic: bool) -> Option<Self> {
        let known = || values.iter().flatten().copied();
        let (low, high) = (known().reduce(f64::min)?, known().reduce(f64::max)?);
        Some(Self { low, high, logarithmic: logarithmic && low > 0.0 })
    }

    /// Both ends and where they are; one where they are the same.
    fn ends(&self) -> Vec<(f64, f64)> {
        let mut ends = vec![self.high, self.low];
        ends.dedup();
        ends.into_iter().map(|value| (value, self.down(value))).collect()
    }

    fn down(&self, value: f64) -> f64 {
        let [low, high, value] =
            [self.low, self.high, value].map(|value| if self.logarithmic { value.ln() } else { value });
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        DOWN.1 - 8.0 - share * (DOWN.1 - DOWN.0 - 16.0)
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.01..1000.0).contains(&size) => {
            let digits = if size > 0.0 { (2 - size.log10().floor() as i32).clamp(0, 4) } else { 0 };
            let text = format!("{value:.*}", digits as usize);
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let found = [0.0, 1.0, 14.6146, 0.02918, 99.95, 812.4, 1234.0, 3.21e-5, 1.005].map(short);
        assert_eq!(found, ["0", "1", "14.6", "0.0292", "100", "812", "1.2e3", "3.2e-5", "1"]);
    }

    #[test]
    fn every_panel_is_there_and_gaps_are_not_bridged() {
        let step = |step: usize, drift| StepFigures {
            step,
            sigma: 8.0 / step as f64,
            evaluations: 2,
            score_norm: 1.0,
            guidance_norm: None,
            guidance_angle: None,
            drift,
            local_error: drift,
            clipped: (step == 5).then_some(0.25),
        };
        let walked: Vec<_> =
            [None, Some(0.2), None, Some(0.0), Some(0.1)].into_iter().zip(1..).map(|(d, i)| step(i, d)).collect();
        let drawn = steps(&walked);
        assert!(PANELS.iter().all(|panel| drawn.contains(panel.title)), "{drawn}");
        assert_eq!(drawn.matches(">none</text>").count(), 2, "there is no guidance");
        // Three panels of five marks, two of three and one of one.
        assert_eq!(drawn.matches("<circle").count(), 3 * 5 + 2 * 3 + 1);
        assert!(drawn.contains(">σ 1.6<") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert!(!steps(&walked[..1]).contains("NaN") && steps(&[]).ends_with("</svg>"));
    }
}
