//! The command line: one file per subcommand, each with its arguments and a `run` that is a thin call into the library.
//!
//! Exit codes: 0 done, 1 a fault, 2 a wrong value or unusable file, 130 cancelled.

mod about;
mod bench;
mod data;
mod decode;
mod economy;
mod edit;
mod encode;
mod errors;
mod evaluate;
mod generate;
mod interpolate;
mod likelihood;
mod model;
mod models;
mod pull;
mod rank;
mod schedules;
mod serve;
mod train;

use crate::hub::Fault;
use crate::{Error, Result};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Limner draws pictures from prompts.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw a picture from a prompt
    Generate(Box<generate::Args>),
    /// Say how likely a picture is under a model
    Likelihood(Box<likelihood::Args>),
    /// Say which caption fits a picture best
    Rank(Box<rank::Args>),
    /// Take a picture to its noise, and measure what comes back
    Encode(Box<encode::Args>),
    /// Take the noise of a picture back to the picture
    Decode(Box<decode::Args>),
    /// Change what a picture shows: apart under one prompt, together under another
    Edit(Box<edit::Args>),
    /// Go from one picture to another through their noises
    Interpolate(Box<interpolate::Args>),
    /// Serve the page and the JSON API
    Serve(serve::Args),
    /// Fetch a model from a hub
    Pull(pull::Args),
    /// List the models that are here
    List(models::List),
    /// Say all about one model
    Show(models::One),
    /// Remove a model that was pulled
    Rm(models::One),
    /// Build a training set
    Data(data::Args),
    /// Train a model of your own
    Train(train::Args),
    /// Judge how well a trained model draws what it is asked
    Evaluate(evaluate::Args),
    /// Say what noise schedules cost under one model: bounds on a picture's bits, as JSON
    Schedules(schedules::Args),
    /// Say how near pictures for which work is left out come to whole ones, and how much sooner they are done
    Economy(economy::Args),
    /// Measure the speed of a model on this machine
    Bench(bench::Args),
}

/// Parses the arguments and runs the subcommand they name.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            exit_code(&error)
        }
    }
}

/// One line per wrong field, so that all of them can be put right at once.
fn report(error: &Error) {
    match error {
        Error::Invalid(errors) => {
            for error in errors {
                eprintln!("limner: --{} {}", flag(&error.field).replace('_', "-"), printable(&error.message));
            }
        }
        error => eprintln!("limner: {}", printable(&error.to_string())),
    }
}

/// What a field of files is called here.
fn flag(field: &str) -> &str {
    match field {
        "image" => "init-image",
        _ if field.starts_with("control_image") => "control-image",
        _ => field,
    }
}

/// Text with control characters escaped: a prompt or file name must not move a terminal's cursor or change its colours.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Likelihood(args) => likelihood::run(&args),
        Command::Rank(args) => rank::run(&args),
        Command::Encode(args) => encode::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::Edit(args) => edit::run(&args),
        Command::Interpolate(args) => interpolate::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Pull(args) => pull::run(args),
        Command::List(args) => {
            models::list(&args);
            Ok(())
        }
        Command::Show(args) => models::show(&args),
        Command::Rm(args) => models::remove(&args),
        Command::Data(args) => data::run(args),
        Command::Train(args) => train::run(args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Schedules(args) => schedules::run(&args),
        Command::Economy(args) => economy::run(&args),
        Command::Bench(args) => bench::run(args),
    }
}

fn exit_code(error: &Error) -> ExitCode {
    ExitCode::from(match error {
        Error::Invalid(_) | Error::Syntax { .. } | Error::Model { .. } | Error::Training(_) => 2,
        Error::Hub(Fault::Missing(_) | Fault::Unsuitable(_)) => 2,
        Error::Cancelled => 130,
        _ => 1,
    })
}
