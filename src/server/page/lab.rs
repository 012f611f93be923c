//! `/lab`: the theory to look at.

use super::super::lab::{Typed, experiment, field};
use super::super::{App, Problem};
use super::{Chrome, render};
use crate::diffusion::sampler::Sampler;
use crate::error::Error;
use crate::lab::walk::{Moments, Walked};
use crate::lab::{Experiment, Mixture};
use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;

#[derive(Template)]
#[template(path = "lab.html")]
struct Lab<'a> {
    chrome: Chrome<'a>,
    typed: &'a Typed,
    mixtures: Vec<Mixture>,
    /// The chosen sampler and the one beside it, or nothing where something is wrong.
    figures: Vec<Figure>,
    errors: Vec<String>,
    /// Dimensions of the chosen data.
    dimensions: usize,
}

/// A walk to be looked at.
struct Figure {
    sampler: String,
    stochastic: bool,
    /// Of its picture, without the frame.
    address: String,
    frames: usize,
    /// The frame that is shown first.
    frame: usize,
    sigma: f64,
    evaluations: usize,
    effort: Option<crate::diffusion::flow::Effort>,
    end: Vec<Moments>,
    truth: Vec<Moments>,
}

impl Lab<'_> {
    fn field(&self, name: &str) -> &str {
        field(self.typed, name)
    }

    fn samplers(&self) -> Vec<&'static str> {
        Sampler::names()
    }

    /// The form's fields as an address's.
    fn query(&self) -> String {
        query(self.typed)
    }
}

impl Figure {
    fn new(typed: &Typed, experiment: &Experiment, walked: Walked, second: bool) -> Self {
        let frames = walked.sigmas.len();
        let asked = typed.get("frame").and_then(|text| text.parse::<f64>().ok()).unwrap_or(100.0);
        let frame = ((frames - 1) as f64 * asked.clamp(0.0, 100.0) / 100.0).round() as usize;
        let second = if second { "&second=1" } else { "" };
        Self {
            sampler: experiment.sampler.to_string(),
            stochastic: experiment.sampler.is_stochastic(),
            address: format!("/lab/plot.svg?{}{second}", query(typed)),
            frames,
            frame,
            sigma: walked.sigmas[frame],
            evaluations: walked.evaluations,
            effort: walked.effort,
            end: walked.end,
            truth: walked.truth,
        }
    }

    fn last(&self) -> usize {
        self.frames - 1
    }
}

/// All fields but the frame, in one order.
fn query(typed: &Typed) -> String {
    let mut fields: Vec<_> = typed.iter().filter(|(name, _)| *name != "frame").collect();
    fields.sort();
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// `GET /lab`.
pub(super) async fn show(State(app): State<App>, Query(typed): Query<Typed>) -> Response {
    let (mut figures, mut errors) = (Vec::new(), Vec::new());
    for (with, second) in [("sampler", false), ("beside", true)] {
        match figure(&app, &typed, with, second).await {
            Ok(figure) => figures.push(figure),
            Err(problem) => errors.extend(sentences(&problem)),
        }
    }
    errors.dedup();
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let dimensions = Mixture::named(field(&typed, "data")).map_or(1, |mixture| mixture.dimensions);
    let chrome = Chrome::new(&app, "lab");
    render(status, &Lab { chrome, typed: &typed, mixtures: Mixture::all(), figures, errors, dimensions })
}

async fn figure(app: &App, typed: &Typed, with: &str, second: bool) -> Result<Figure, Problem> {
    let experiment = experiment(typed, with)?;
    let walked = app.walk(experiment.clone()).await?;
    Ok(Figure::new(typed, &experiment, walked, second))
}

fn sentences(problem: &Problem) -> Vec<String> {
    match problem.errors.as_slice() {
        [] => vec![problem.detail.clone()],
        errors => errors.iter().map(|error| Error::invalid(error.clone()).to_string()).collect(),
    }
}
