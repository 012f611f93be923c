//! `limner bench`: the speed of a model on this machine.

use super::model::ModelArgs;
use crate::kernels::profile::{Call, noted};
use crate::pipeline::{Parts, Pipeline};
use crate::request::{GenerateRequest, Plan};
use crate::{Result, memory};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Arguments of `limner bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Width in pixels [default: the model's]
    #[arg(long, value_name = "W")]
    width: Option<String>,
    /// Height in pixels [default: the model's]
    #[arg(long, value_name = "H")]
    height: Option<String>,
    /// Pictures per measured call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    batch: u8,
    /// Sampler steps of the whole picture
    #[arg(long, value_name = "N", default_value = "20")]
    steps: String,
    /// What of the work is left out, of whole pictures [default: exact]
    #[arg(long, value_name = "NAME")]
    economy: Option<String>,
    /// Measurements per figure, of which the median is reported
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Instead, tell where the time of a U-Net call and of a decode goes, by kernel and by part of the network
    #[arg(long, conflicts_with = "json")]
    profile: bool,
    /// Instead, run `unet` or `decode` once for each such line of the input, and print how many seconds it took: for
    /// scripts/bench-peers
    #[arg(long, hide = true)]
    serve: bool,
    /// Call the U-Net with a batch of 1 for each picture instead of 2
    #[arg(long)]
    unguided: bool,
}

/// Medians over the runs.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    width: usize,
    height: usize,
    batch: usize,
    steps: usize,
    threads: usize,
    /// From the start of this program until the network could be called: the model loaded, the prompts read.
    start_seconds: f64,
    /// One guided call of the U-Net: a batch of 2 for each picture.
    unet_call_seconds: f64,
    /// One step of the sampler, guidance included.
    step_seconds: f64,
    /// Latents to pixels.
    decode_seconds: f64,
    /// Prompt to PNG bytes, one picture.
    picture_seconds: f64,
    /// The most memory this process has used.
    peak_rss_bytes: u64,
}

#[expect(clippy::needless_pass_by_value, reason = "every subcommand takes its arguments whole")]
pub(super) fn run(args: Args) -> Result<()> {
    let began = Instant::now();
    let pipeline = args.model.load()?;
    let request = GenerateRequest {
        prompt: Some("red apple".into()),
        seed: Some("0".into()),
        steps: Some(args.steps.clone()),
        guidance: Some("5".into()),
        economy: args.economy.clone(),
        width: args.width.clone(),
        height: args.height.clone(),
        ..Default::default()
    };
    let plan = Plan::new(&request, &pipeline.facts())?;
    if args.serve {
        return serve(&pipeline.parts(&plan, usize::from(args.batch), !args.unguided)?);
    }
    if args.profile {
        let parts = pipeline.parts(&plan, usize::from(args.batch), !args.unguided)?;
        profile("U-Net call", || parts.call_unet())?;
        return profile("decode", || parts.decode());
    }
    let figures = measure(&pipeline, &plan, &args, began)?;
    match args.json {
        true => println!("{}", serde_json::json!(figures)),
        false => print(&figures),
    }
    Ok(())
}

fn measure(pipeline: &Pipeline, plan: &Plan, args: &Args, began: Instant) -> Result<Figures> {
    let (batch, runs) = (usize::from(args.batch), usize::from(args.runs));
    let parts = pipeline.parts(plan, batch, !args.unguided)?;
    let start_seconds = began.elapsed().as_secs_f64();
    let mut steps = Vec::new();
    let picture_seconds = median(runs, || draw(pipeline, plan, &mut steps))?;
    Ok(Figures {
        model: pipeline.facts().name,
        width: plan.width,
        height: plan.height,
        batch,
        steps: plan.steps,
        threads: rayon::current_num_threads(),
        start_seconds,
        unet_call_seconds: median(runs, || parts.call_unet())?,
        step_seconds: middle(&mut steps),
        decode_seconds: median(runs, || parts.decode())?,
        picture_seconds,
        peak_rss_bytes: memory::peak_bytes().unwrap_or(0),
    })
}

/// Does what each line of the input says.
fn serve(parts: &Parts<'_>) -> Result<()> {
    let run = |part: &str| match part {
        "decode" => parts.decode(),
        _ => parts.call_unet(),
    };
    run("unet")?;
    run("decode")?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let began = Instant::now();
        run(line.unwrap_or_default().trim())?;
        println!("{}", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Prints where the time of `work` goes, of a second call.
fn profile(name: &str, work: impl Fn() -> Result<()>) -> Result<()> {
    work()?;
    let began = Instant::now();
    let (result, calls) = noted(&work);
    let all = began.elapsed().as_secs_f64();
    result?;
    println!("{name}: {:.1} ms", all * 1e3);
    let by = |key: fn(&Call) -> &str| {
        let mut rows: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
        for call in &calls {
            let row = rows.entry(key(call)).or_default();
            *row = (row.0 + 1, row.1 + call.took.as_secs_f64(), row.2 + call.flops);
        }
        let kernels: f64 = rows.values().map(|row| row.1).sum();
        rows.insert("everything else", (0, all - kernels, 0.0));
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        rows
    };
    for (title, rows) in [("by part", by(|call| &call.part)), ("by kernel", by(|call| &call.kernel))] {
        println!("  {title:56} {:>5} {:>10} {:>7} {:>9}", "calls", "ms", "share", "GFLOP/s");
        for (name, (count, seconds, flops)) in rows {
            let (share, rate) = (100.0 * seconds / all, flops / seconds / 1e9);
            let name = if name.is_empty() { "(beside the blocks)" } else { name };
            println!("  {name:56} {count:5} {:10.2} {share:6.1} % {rate:9.1}", seconds * 1e3);
        }
    }
    println!();
    Ok(())
}

/// A whole picture; notes how long each step but the first took.
fn draw(pipeline: &Pipeline, plan: &Plan, steps: &mut Vec<f64>) -> Result<()> {
    let mut last: Option<Instant> = None;
    let pictures = pipeline.generate(plan, &mut |_| {
        let now = Instant::now();
        steps.extend(last.replace(now).map(|before| (now - before).as_secs_f64()));
        Ok(())
    })?;
    pictures.iter().try_for_each(|picture| picture.to_png().map(drop))
}

/// The median time of `runs` calls, after one to warm up.
fn median(runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let timed = |_| {
        let began = Instant::now();
        work().map(|()| began.elapsed().as_secs_f64())
    };
    Ok(middle(&mut (0..runs).map(timed).collect::<Result<Vec<_>>>()?))
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(figures: &Figures) {
    let Figures { model, width, height, batch, steps, threads, .. } = figures;
    println!("{model}, {width} x {height}, batch {batch}, {steps} steps, {threads} threads");
    for (name, seconds) in [
        ("start", figures.start_seconds),
        ("U-Net call, guided", figures.unet_call_seconds),
        ("step", figures.step_seconds),
        ("decode", figures.decode_seconds),
        ("picture", figures.picture_seconds),
    ] {
        println!("{name:20} {:9.2} ms", seconds * 1e3);
    }
    println!("{:20} {:9.1} MiB", "peak memory", figures.peak_rss_bytes as f64 / f64::from(1 << 20));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(middle(&mut [3.0, 1.0, 2.0]), 2.0);
        assert!(middle(&mut []).is_nan());
    }
}
