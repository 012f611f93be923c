//! `limner list`, `limner show`, `limner rm`: the models that are here.

use super::printable;
use crate::Result;
use crate::hub::{self, Entry, Shown, Unfinished};
use indicatif::HumanBytes;

/// Arguments of `limner list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `limner show` and `limner rm`.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// A model's name, as `limner list` prints it
    #[arg(value_name = "NAME")]
    name: String,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn list(args: &List) {
    let (models, unfinished) = (hub::list(), hub::unfinished(&hub::folders()));
    if args.json {
        return println!("{:#}", serde_json::json!({ "models": models, "unfinished": unfinished }));
    }
    let width = models.iter().map(|model| model.name.len()).max().unwrap_or(0);
    for model in &models {
        println!("{:width$}  {:>10}  {}", model.name, HumanBytes(model.bytes).to_string(), origin(model));
    }
    for model in &unfinished {
        println!("{}", begun(model));
    }
}

/// Where a model is from, or where it lies.
fn origin(model: &Entry) -> String {
    match (&model.repository, &model.commit) {
        (Some(repository), Some(commit)) => printable(&format!("{repository}@{commit:.10}")),
        _ if model.bundled => "comes with Limner".to_owned(),
        _ => printable(&model.path.display().to_string()),
    }
}

/// What is there of a model, and how to go on.
fn begun(model: &Unfinished) -> String {
    let Unfinished { name, repository, revision, file, bytes, total } = model;
    let part = |before: &str, text: &Option<String>| text.as_ref().map_or_else(String::new, |t| format!("{before}{t}"));
    let what = [part("", repository), part("@", revision), part(" --file ", file)].concat();
    let total = total.map_or_else(|| "?".to_owned(), |total| HumanBytes(total).to_string());
    let bytes = HumanBytes(*bytes);
    printable(&format!("{name} is not whole yet: {bytes} of {total}; limner pull {what} --name {name} goes on"))
}

pub(super) fn show(args: &One) -> Result<()> {
    let shown = hub::show(&args.name)?;
    if args.json {
        println!("{:#}", serde_json::json!(shown));
    } else {
        print_text(&shown);
    }
    Ok(())
}

fn print_text(Shown { entry, record, faults }: &Shown) {
    let line = |what: &str, text: &str| println!("{what:<11}{}", printable(text));
    line("name", &entry.name);
    line("path", &entry.path.display().to_string());
    line("size", &HumanBytes(entry.bytes).to_string());
    if let Some(record) = record {
        line("from", &format!("{}@{}", record.repository, record.revision));
        line("commit", &record.commit);
        line("licence", record.licence.as_deref().unwrap_or("the repository names none"));
        for file in &record.files {
            line("file", &format!("{}  {}  {}", file.digest.hex(), file.path, HumanBytes(file.size)));
        }
    } else {
        line("from", &origin(entry));
    }
    for fault in faults {
        line("FAULT", &format!("{fault}: pull it again"));
    }
}

pub(super) fn remove(args: &One) -> Result<()> {
    let path = hub::remove(&args.name, &hub::folders())?;
    if args.json {
        println!("{:#}", serde_json::json!({ "name": args.name, "removed": path }));
    } else {
        println!("Removed {}", printable(&path.display().to_string()));
    }
    Ok(())
}
