//! `limner generate`: a prompt to PNG files.

use super::model::ModelArgs;
use super::{flag, printable};
use crate::error::{Error, FieldError, Result};
use crate::image;
use crate::pipeline::{Notice, Outcome, Picture, Pipeline, Progress};
use crate::request::{FILES, GenerateRequest, Plan};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `limner generate`. Numbers stay text until they are checked together with everything else.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to draw; "" draws without a prompt
    #[arg(allow_hyphen_values = true)]
    prompt: String,
    /// What not to draw
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    negative_prompt: Option<String>,
    /// Where the PNG goes; with --count 2, apple.png becomes apple-1.png and apple-2.png
    #[arg(long, short, value_name = "FILE", default_value = "limner.png")]
    output: PathBuf,
    /// Number of pictures, with seeds that count up [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    count: Option<String>,
    /// Seed of the first picture [default: random]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    seed: Option<String>,
    /// Sampler steps [default: the model's]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    steps: Option<String>,
    /// How closely to follow the prompt; 1 turns guidance off [default: the model's]
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    guidance: Option<String>,
    /// Share of guidance rescaling, 0 to 1 [default: 0]
    #[arg(long, value_name = "R", allow_hyphen_values = true)]
    guidance_rescale: Option<String>,
    /// How closely a model for editing follows the picture that it edits [default: 1.5]
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    image_guidance: Option<String>,
    /// Which layer of the text encoder is read, counted from its end [default: the model's]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    clip_skip: Option<String>,
    /// A sampler, with settings in brackets: dpmpp_2m, unipc, euler, heun, dopri5(tolerance=0.001), euler_a, pc, ddpm and more
    /// (docs/samplers.md) [default: the model's]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// How noise levels are spaced: trailing, leading, linspace, karras, exponential, sgm_uniform, simple, normal, beta,
    /// align_your_steps or lcm [default: the model's]
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Width in pixels [default: the model's]
    #[arg(long, value_name = "W", allow_hyphen_values = true)]
    width: Option<String>,
    /// Height in pixels [default: the model's]
    #[arg(long, value_name = "H", allow_hyphen_values = true)]
    height: Option<String>,
    /// A picture to start from (PNG, JPEG or WebP); scaled and cropped to width x height
    #[arg(long, value_name = "FILE")]
    init_image: Option<PathBuf>,
    /// A mask as large as that picture: white is repainted, the rest stays as it is
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// How much of the picture is redrawn, up to 1 [default: 0.75, with a mask 1]
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    strength: Option<String>,
    /// Pixels over which new fades into old, inside the mask's white part, 0 to 64 [default: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    mask_feather: Option<String>,
    /// Draw only the mask's surroundings, at width x height, and put them back: the picture keeps its own size
    /// [default: false]
    #[arg(long, value_name = "true|false")]
    only_masked: Option<String>,
    /// Pixels around the mask's white part that are drawn with it then, 0 to 256 [default: 32]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    only_masked_padding: Option<String>,
    /// Borders to add to the picture and to paint, in pixels
    #[arg(long, value_name = "LEFT,TOP,RIGHT,BOTTOM", allow_hyphen_values = true)]
    extend: Option<String>,
    /// A LoRA with its strength, name:0.8, by its name or its file; can be given several times
    #[arg(long, value_name = "NAME|FILE[:STRENGTH]")]
    lora: Vec<String>,
    /// LoRAs by name: name:0.8, other:0.5
    #[arg(long, value_name = "LIST")]
    loras: Option<String>,
    /// Noise generator: philox or torch-cpu [default: philox]
    #[arg(long, value_name = "NAME")]
    noise: Option<String>,
    /// How what is drawn anew follows what is kept: blend, differential (greys of the mask are strengths), repaint,
    /// pseudo_inverse, posterior or replacement, with settings in brackets [default: blend]
    #[arg(long, value_name = "NAME")]
    inpainting: Option<String>,
    /// Make the picture of --init-image whole: it is grey, small(factor=4) or blurred(radius=2), and what was it?
    #[arg(long, value_name = "NAME")]
    restore: Option<String>,
    /// Draw towards the colours of --energy-image, or what the model's judge takes for the prompt: colours or judge, with a
    /// scale in brackets
    #[arg(long, value_name = "NAME")]
    energy: Option<String>,
    /// The picture of these colours
    #[arg(long, value_name = "FILE")]
    energy_image: Option<PathBuf>,
    /// Decoder of the finished picture: full, or tiny where there is a TAESD [default: full]
    #[arg(long, value_name = "NAME")]
    decoder: Option<String>,
    /// What of the work is left out, for a picture that is done sooner and is not quite the same: exact, balanced or fast, with
    /// settings in brackets: cache, depth, merge, guide_from, guide_to [default: exact]
    #[arg(long, value_name = "NAME")]
    economy: Option<String>,
    /// ControlNets that the picture follows, up to three [each with weight 1, from 0 to 1 of the steps]
    #[arg(long, value_name = "NAME[:WEIGHT[:START[:END]]],...", allow_hyphen_values = true)]
    control: Option<String>,
    /// The picture that a net follows; again for the second and the third net
    #[arg(long, value_name = "FILE", num_args = 1)]
    control_image: Vec<PathBuf>,
    /// What is done to these pictures first, for each net: none, canny or canny:LOW:HIGH [default: none]
    #[arg(long, value_name = "NAME,...")]
    control_preprocessor: Option<String>,
    /// An IP-Adapter, which takes a picture for a prompt [weight 1, from 0 to 1 of the steps]
    #[arg(long, value_name = "NAME[:WEIGHT[:START[:END]]]", allow_hyphen_values = true)]
    ip_adapter: Option<String>,
    /// That picture
    #[arg(long, value_name = "FILE")]
    ip_adapter_image: Option<PathBuf>,
    /// Where it is written what each step did, as JSON; numbered as the pictures are
    #[arg(long, value_name = "FILE")]
    diagnostics: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print what was drawn as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let request = request(args)?;
    check_output(&args.output)?;
    args.diagnostics.as_deref().map_or(Ok(()), |path| check_file("diagnostics", path))?;
    let mut pipeline = args.model.load()?;
    let loras = args.lora.iter().map(|lora| named(&mut pipeline, lora)).collect::<Result<Vec<_>>>()?;
    let request = GenerateRequest { loras: joined(request.loras.as_deref(), loras), ..request };
    let plan = Plan::new(&request, &pipeline.facts())?;
    let loaded = began.elapsed();
    let pictures = watched(&pipeline, &plan)?.pictures;
    let files = save(&pictures, &args.output)?;
    if let Some(path) = &args.diagnostics {
        let json =
            |picture: &Picture| Ok(format!("{:#}\n", serde_json::json!({ "steps": picture.steps })).into_bytes());
        write_all(&pictures, path, json)?;
    }
    let notices = pipeline.notices(&plan)?;
    match args.json {
        true => print_json(&pictures, &files, &notices, loaded, began.elapsed()),
        false => print_text(&pictures, &files, &notices, began.elapsed()),
    }
    Ok(())
}

fn request(args: &Args) -> Result<GenerateRequest> {
    let mut request = GenerateRequest {
        prompt: Some(args.prompt.clone()),
        negative_prompt: args.negative_prompt.clone(),
        steps: args.steps.clone(),
        guidance: args.guidance.clone(),
        guidance_rescale: args.guidance_rescale.clone(),
        image_guidance: args.image_guidance.clone(),
        clip_skip: args.clip_skip.clone(),
        sampler: args.sampler.clone(),
        schedule: args.schedule.clone(),
        seed: args.seed.clone(),
        count: args.count.clone(),
        width: args.width.clone(),
        height: args.height.clone(),
        strength: args.strength.clone(),
        mask_feather: args.mask_feather.clone(),
        only_masked: args.only_masked.clone(),
        only_masked_padding: args.only_masked_padding.clone(),
        extend: args.extend.clone(),
        noise: args.noise.clone(),
        loras: args.loras.clone(),
        inpainting: args.inpainting.clone(),
        restore: args.restore.clone(),
        energy: args.energy.clone(),
        decoder: args.decoder.clone(),
        economy: args.economy.clone(),
        control: args.control.clone(),
        control_preprocessor: args.control_preprocessor.clone(),
        ip_adapter: args.ip_adapter.clone(),
        // The model is the one that is loaded, which may be a path and have no name here.
        ..GenerateRequest::default()
    };
    for (field, path) in files(args)? {
        request.set_file(field, read_file(flag(field), path)?);
    }
    Ok(request)
}

/// The files that are named, with the fields they are for.
fn files(args: &Args) -> Result<Vec<(&'static str, &PathBuf)>> {
    let fields = FILES.into_iter().filter(|field| field.starts_with("control_image"));
    let (most, found) = (fields.clone().count(), args.control_image.len());
    if found > most {
        let message = format!("is given {found} times; {most} are the most");
        return Err(Error::invalid(FieldError::new("control-image", "too_many", message)));
    }
    let pictures = args.init_image.iter().map(|path| ("image", path));
    let masks = args.mask.iter().map(|path| ("mask", path));
    let prompts = args.ip_adapter_image.iter().map(|path| ("ip_adapter_image", path));
    let palettes = args.energy_image.iter().map(|path| ("energy_image", path));
    Ok(pictures.chain(masks).chain(prompts).chain(palettes).chain(fields.zip(&args.control_image)).collect())
}

/// `--lora` as an entry of the field `loras`: an adapter's file is offered by its name.
fn named(pipeline: &mut Pipeline, lora: &str) -> Result<String> {
    let (file, strength) = match lora.rsplit_once(':') {
        Some((file, strength)) if !Path::new(lora).exists() => (file, Some(strength)),
        _ => (lora, None),
    };
    let path = Path::new(file);
    let is_file = path.is_file() || path.join("adapter_model.safetensors").is_file();
    let name = if is_file { pipeline.offer_lora(path) } else { Some(file.to_owned()) };
    let Some(name) = name else {
        let message = format!("{} has a name that no prompt can have; give it another", path.display());
        return Err(Error::invalid(FieldError::new("lora", "unusable_name", message)));
    };
    Ok(strength.map_or(name.clone(), |strength| format!("{name}:{strength}")))
}

fn joined(listed: Option<&str>, loras: Vec<String>) -> Option<String> {
    let all: Vec<String> = listed.map(str::to_owned).into_iter().chain(loras).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The bytes of a picture file; refuses what is no regular file before it can block on it.
pub(super) fn read_file(flag: &str, path: &Path) -> Result<Vec<u8>> {
    /// As large as a request to the server may be, and far larger than any picture that would be decoded.
    const MOST: u64 = 256 << 20;
    let wrong =
        |message: String| Error::invalid(FieldError::new(flag, "unreadable", format!("{}: {message}", path.display())));
    let about = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    match (about.is_file(), about.len()) {
        (false, _) => Err(wrong("is not a regular file".into())),
        (_, MOST..) => Err(wrong(format!("has {} bytes; at most {MOST} are read", about.len()))),
        _ => std::fs::read(path).map_err(|error| wrong(error.to_string())),
    }
}

/// Better to hear of a missing folder before the picture is drawn than after.
pub(super) fn check_output(output: &Path) -> Result<()> {
    check_file("output", output)
}

fn check_file(flag: &str, file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = |message: String| Err(Error::invalid(FieldError::new(flag, "unwritable", message)));
    if file.is_dir() || file.file_name().is_none() {
        return wrong(format!("{} is a folder; name a file", file.display()));
    }
    if folder.is_dir() { Ok(()) } else { wrong(format!("there is no folder {}", folder.display())) }
}

/// Does what a plan's task is, with a bar on a terminal, until it is done or Ctrl+C was pressed.
pub(super) fn watched(pipeline: &Pipeline, plan: &Plan) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = stop.clone();
    // Fails only when another handler is set already; then Ctrl+C simply ends the program.
    let _ = ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed));
    let bar = progress_bar(plan);
    let outcome = pipeline.run(plan, &mut |progress: &Progress<'_>| {
        let (step, steps) = progress.overall();
        bar.set_length(steps as u64);
        bar.set_position(step as u64);
        if stop.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    });
    bar.finish_and_clear();
    outcome
}

/// Shown on a terminal only: indicatif hides it elsewhere.
fn progress_bar(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new((plan.steps * plan.count) as u64);
    match ProgressStyle::with_template("{bar:40} step {pos}/{len}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

pub(super) fn save(pictures: &[Picture], output: &Path) -> Result<Vec<PathBuf>> {
    write_all(pictures, output, Picture::to_png)
}

/// A file for each picture: `output` itself where there is one, else numbered.
fn write_all(pictures: &[Picture], output: &Path, bytes: impl Fn(&Picture) -> Result<Vec<u8>>) -> Result<Vec<PathBuf>> {
    let one = |(k, picture): (usize, &Picture)| {
        let path = if pictures.len() == 1 { output.to_owned() } else { numbered(output, k + 1) };
        image::write_file(&path, &bytes(picture)?)?;
        Ok(path)
    };
    pictures.iter().enumerate().map(one).collect()
}

/// apple.png to apple-2.png.
fn numbered(path: &Path, k: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{stem}-{k}.{}", extension.to_string_lossy())),
        None => path.with_file_name(format!("{stem}-{k}")),
    }
}

fn print_text(pictures: &[Picture], files: &[PathBuf], notices: &[Notice], took: Duration) {
    for notice in notices {
        eprintln!("note: {}", printable(&notice.message));
    }
    for (picture, file) in pictures.iter().zip(files) {
        println!("{} (seed {})", printable(&file.display().to_string()), picture.receipt.seed);
    }
    eprintln!("{:.2} s", took.as_secs_f64());
}

fn print_json(pictures: &[Picture], files: &[PathBuf], notices: &[Notice], loaded: Duration, took: Duration) {
    let pictures: Vec<_> = pictures
        .iter()
        .zip(files)
        .map(|(picture, file)| serde_json::json!({ "file": file, "receipt": picture.receipt }))
        .collect();
    let timings = serde_json::json!({ "load_seconds": loaded.as_secs_f64(), "total_seconds": took.as_secs_f64() });
    println!("{:#}", serde_json::json!({ "pictures": pictures, "notices": notices, "timings": timings }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_before_the_extension() {
        assert_eq!(numbered(Path::new("a/b.c.png"), 2), Path::new("a/b.c-2.png"));
        assert_eq!(numbered(Path::new("apple"), 1), Path::new("apple-1"));
    }
}
