//! What a job found out about a picture, in words.

use serde_json::Value;

/// A job's report, ready for the page.
pub(super) struct Found {
    pub(super) title: &'static str,
    /// The answer in one line.
    pub(super) answer: String,
    /// Names and what they are.
    pub(super) rows: Vec<(String, String)>,
    /// Of captions: each with its share of belief, in percent, and what stands beside it.
    pub(super) bars: Vec<(String, f64, String)>,
}

impl Found {
    /// None for reports of a kind that is not known here.
    pub(super) fn new(report: &Value) -> Option<Self> {
        match report["task"].as_str()? {
            "likelihood" => Some(likelihood(report)),
            "rank" => Some(rank(report)),
            "flow" => Some(flow(report)),
            _ => None,
        }
    }
}

fn number(value: &Value, digits: usize) -> Option<String> {
    value.as_f64().map(|value| format!("{value:.digits$}"))
}

fn row(name: &str, value: Option<String>) -> Option<(String, String)> {
    Some((name.to_owned(), value?))
}

fn likelihood(report: &Value) -> Found {
    let bits = number(&report["bits_per_dim"], 4).unwrap_or_default();
    let error = number(&report["standard_error"], 4).map(|error| format!(" ± {error}")).unwrap_or_default();
    let of = report["of"].as_str().unwrap_or_default();
    let (elbo, bound) = (&report["elbo"], &report["pixel_bound"]);
    let rows = [
        row("at most, by the evidence lower bound", number(&elbo["bits_per_dim"], 4)),
        row("noise levels of that", number(&elbo["levels"], 0)),
        row("at most, of the pixels through the decoder", number(&bound["bits_per_dim"], 4)),
        row("ln p", number(&report["log_density"], 2)),
        row("numbers in the picture", number(&report["dimensions"], 0)),
        row("estimates", report["draws"].as_array().map(|draws| draws.len().to_string())),
        row("evaluations of the network", number(&report["evaluations"], 0)),
        row("tolerance", report["tolerance"].as_f64().map(|tolerance| format!("{tolerance:e}"))),
    ];
    Found {
        title: "How likely is this picture?",
        answer: format!("{bits}{error} bits per dimension: {of}."),
        rows: rows.into_iter().flatten().collect(),
        bars: Vec::new(),
    }
}

fn rank(report: &Value) -> Found {
    let bar = |fit: &Value| {
        let behind = number(&fit["behind"], 2)?;
        let error = number(&fit["standard_error"], 2)?;
        let percent = 100.0 * fit["probability"].as_f64()?;
        Some((fit["caption"].as_str()?.to_owned(), percent, format!("{behind} ± {error} nats behind")))
    };
    let bars: Vec<_> = report["captions"].as_array().into_iter().flatten().filter_map(bar).collect();
    let answer = bars.first().map(|(caption, ..)| format!("“{caption}” fits best.")).unwrap_or_default();
    let rows = [
        row("noise levels", number(&report["levels"], 0)),
        row("evaluations of the network", number(&report["evaluations"], 0)),
    ];
    Found { title: "Which caption fits?", answer, rows: rows.into_iter().flatten().collect(), bars }
}

fn flow(report: &Value) -> Found {
    let scientific = |value: &Value| value.as_f64().map(|value| format!("{value:.2e}"));
    let rows = [
        row("off by, relative to its size, there and back again", scientific(&report["round_trip"])),
        row("largest difference of a byte after it", number(&report["round_trip_bytes"], 0)),
        row("largest difference by the autoencoder alone", number(&report["autoencoder_bytes"], 0)),
        row("tolerance", scientific(&report["tolerance"])),
        row("noise level", number(&report["sigma_max"], 3)),
    ];
    let evaluations = number(&report["evaluations"], 0).unwrap_or_default();
    Found {
        title: "Along the flow",
        answer: format!("{evaluations} evaluations of the network."),
        rows: rows.into_iter().flatten().collect(),
        bars: Vec::new(),
    }
}
