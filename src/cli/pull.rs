//! `limner pull`: a model from a hub.

use super::printable;
use crate::hub::{self, Hub, Order, Phase, Progress, Pulled, Repository, Variant};
use crate::{Error, Result};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arguments of `limner pull`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "HF_ENDPOINT names another hub, HF_TOKEN (or the file HF_TOKEN_PATH) whoever may read private and \
    gated models there. Models go to LIMNER_MODELS, else to limner/models among your data."
)]
pub(super) struct Args {
    /// The repository, and a branch, a tag or a commit of it
    #[arg(value_name = "OWNER/NAME[@REVISION]")]
    repository: String,
    /// One file that is a whole model, instead of the repository's model folder
    #[arg(long, value_name = "F.safetensors")]
    file: Option<String>,
    /// What to call the model here, instead of NAME or F
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which weights, where there is a choice [default: as last time; fp16 the first time]
    #[arg(long, value_enum)]
    variant: Option<Variant>,
    /// Print what was fetched as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let repository = Repository::parse(&args.repository)?;
    let order = Order { repository, file: args.file, name: args.name, variant: args.variant };
    let (hub, models) = (Hub::from_env()?, hub::writable(&hub::folders())?);
    let mut bar = Bar::new();
    let pulled = hub::pull(&hub, &order, &models, &mut |progress| bar.show(progress), &interruption());
    bar.clear();
    let pulled = pulled.inspect_err(|error| {
        if matches!(error, Error::Cancelled) {
            eprintln!("What has come is kept: the same command goes on from there.");
        }
    })?;
    if args.json {
        println!("{:#}", serde_json::json!(pulled));
    } else {
        print_text(&pulled);
    }
    Ok(())
}

/// Set by the first Ctrl+C; the second one ends the program at once, which harms nothing either.
fn interruption() -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    let on_signal = cancel.clone();
    // Fails only when another handler is set already; then Ctrl+C simply ends the program.
    let _ = ctrlc::set_handler(move || {
        if on_signal.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    cancel
}

/// What is seen of a pull: a bar where there is a terminal, else a line now and then.
struct Bar {
    bar: ProgressBar,
    phase: Option<Phase>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length();
        let style =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {wide_msg}");
        Self { bar: style.map_or(bar.clone(), |style| bar.with_style(style)), phase: None }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            self.begin(progress);
        }
        if self.bar.message() != progress.file {
            self.bar.set_message(printable(progress.file));
        }
        self.bar.set_position(progress.done);
    }

    fn begin(&self, progress: &Progress<'_>) {
        self.bar.set_length(progress.total);
        self.bar.reset_eta();
        match progress.phase {
            Phase::Listing => {}
            Phase::Checking => self.say("Checking what is here already."),
            Phase::Fetching => self.say(&format!("Fetching {}.", HumanBytes(progress.total))),
            Phase::Waiting { seconds } => {
                self.say(&format!("The hub does not answer well; trying again in {seconds} s."));
            }
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn print_text(pulled: &Pulled) {
    let Pulled { name, path, fetched_files, fetched_bytes, record } = pulled;
    let what = match fetched_files {
        0 => "was here already, and is whole".to_owned(),
        n => format!("is here: {n} files, {} fetched", HumanBytes(*fetched_bytes)),
    };
    println!("{name} {what} ({}@{:.10})", record.repository, record.commit);
    if let Some(licence) = &record.licence {
        println!("Its licence: {}", printable(licence));
    }
    println!("{}", printable(&path.display().to_string()));
    println!("Draw with it: limner generate --model {name} \"red apple\"");
}
