//! What the subcommands share that ask something of a picture, or take it along the flow.

use super::generate::{check_output, read_file, save, watched};
use super::model::ModelArgs;
use super::printable;
use crate::error::Result;
use crate::pipeline::{Outcome, Report};
use crate::request::{GenerateRequest, Plan};
use std::path::{Path, PathBuf};

/// Arguments that all of them have.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Shared {
    /// What the model is told
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    prompt: String,
    /// How closely to follow the prompt; 1 is the model itself
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    guidance: Option<String>,
    /// Width to which a picture is scaled and cropped [default: the model's]
    #[arg(long, value_name = "W", allow_hyphen_values = true)]
    width: Option<String>,
    /// Height [default: the model's]
    #[arg(long, value_name = "H", allow_hyphen_values = true)]
    height: Option<String>,
    /// Seed of whatever is random [default: random]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    seed: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print what was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Shared {
    /// A request for `task` about the picture file `image`.
    pub(super) fn request(&self, task: &str, image: &Path) -> Result<GenerateRequest> {
        Ok(GenerateRequest {
            task: Some(task.to_owned()),
            prompt: Some(self.prompt.clone()),
            guidance: self.guidance.clone(),
            width: self.width.clone(),
            height: self.height.clone(),
            seed: self.seed.clone(),
            image: Some(read_file("file", image)?),
            ..GenerateRequest::default()
        })
    }

    /// Loads the model and does what is asked.
    pub(super) fn outcome(&self, request: &GenerateRequest) -> Result<Outcome> {
        let pipeline = self.model.load()?;
        let plan = Plan::new(request, &pipeline.facts())?;
        watched(&pipeline, &plan)
    }

    /// Saves the pictures of an outcome and says where they are, and what was found.
    fn finish(&self, outcome: &Outcome, output: &Path) -> Result<()> {
        let files = save(&outcome.pictures, output)?;
        if self.json {
            print_json(outcome, &files);
            return Ok(());
        }
        for file in &files {
            println!("{}", printable(&file.display().to_string()));
        }
        if let Some(Report::Flow(report)) = &outcome.report {
            eprintln!("{} evaluations", report.effort.evaluations);
            if let Some(error) = report.round_trip {
                eprintln!("there and back again: off by {error:.2e} of its size");
            }
        }
        Ok(())
    }
}

/// Arguments of those that follow the flow, to or from a picture.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Along {
    /// What the solver may err by in a step, relative to the state [default: 0.0001]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    tolerance: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

impl Along {
    /// Does `task` with the file `image` and what `add` adds to the request, and saves what comes of it.
    pub(super) fn run(
        &self,
        task: &str,
        (image, output): (&Path, &Path),
        add: impl FnOnce(&mut GenerateRequest) -> Result<()>,
    ) -> Result<()> {
        check_output(output)?;
        let mut request = self.shared.request(task, image)?;
        request.tolerance.clone_from(&self.tolerance);
        add(&mut request)?;
        self.shared.finish(&self.shared.outcome(&request)?, output)
    }
}

fn print_json(outcome: &Outcome, files: &[PathBuf]) {
    let pictures: Vec<_> = outcome
        .pictures
        .iter()
        .zip(files)
        .map(|(picture, file)| serde_json::json!({ "file": file, "receipt": picture.receipt }))
        .collect();
    println!("{:#}", serde_json::json!({ "pictures": pictures, "report": outcome.report }));
}
