//! The page: one form that works without JavaScript, and what was drawn below it.

use super::api::seed_of;
use super::{App, Problem, body};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::error::FieldError;
use crate::jobs::{Image, Job};
use crate::request::{Facts, GenerateRequest, MAX_COUNT};
use askama::Template;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Prompts to begin with: what the bundled model draws well.
const EXAMPLES: [&str; 6] = ["red apple", "crying face", "yellow star", "cat face", "green leaf", "flat blue heart"];
/// Fields that lie under "Settings": it is opened when one of them is wrong or was set.
const SETTINGS: [&str; 7] = ["negative_prompt", "steps", "guidance", "sampler", "schedule", "width", "height"];

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    form: &'a GenerateRequest,
    facts: &'a Facts,
    errors: &'a [FieldError],
    /// What is wrong with the request as a whole.
    banner: Option<&'a str>,
    shown: Option<Shown>,
}

/// The result, ready for the page.
struct Shown {
    prompt: String,
    pictures: Vec<ShownPicture>,
    notices: Vec<String>,
    seconds: String,
}

struct ShownPicture {
    /// A data: URL of the PNG.
    url: String,
    seed: u64,
    width: u32,
    height: u32,
    /// What the file is called when it is saved.
    file_name: String,
}

impl Page<'_> {
    fn samplers(&self) -> Vec<&'static str> {
        Sampler::names()
    }

    fn schedules(&self) -> Vec<&'static str> {
        Spacing::names()
    }

    fn examples(&self) -> [&'static str; 6] {
        EXAMPLES
    }

    fn max_count(&self) -> usize {
        MAX_COUNT
    }

    fn typed(&self, field: &str) -> &str {
        self.form.text(field)
    }

    /// What was typed, else the model's default.
    fn or(&self, field: &str, default: &impl ToString) -> String {
        match self.form.text(field) {
            "" => default.to_string(),
            typed => typed.to_owned(),
        }
    }

    fn chosen(&self, field: &str, name: &str, default: &impl ToString) -> bool {
        self.or(field, default) == name
    }

    fn error(&self, field: &str) -> Option<&str> {
        self.errors.iter().find(|error| error.field == field).map(|error| error.message.as_str())
    }

    /// Errors of fields that the form does not show.
    fn other_errors(&self) -> Vec<&FieldError> {
        let shown = |field: &str| {
            SETTINGS.contains(&field) || ["prompt", "seed", "count", "image", "mask", "strength"].contains(&field)
        };
        self.errors.iter().filter(|error| !shown(&error.field)).collect()
    }

    fn settings_open(&self) -> bool {
        SETTINGS.iter().any(|field| self.error(field).is_some()) || !self.typed("negative_prompt").is_empty()
    }

    fn picture_open(&self) -> bool {
        ["image", "mask", "strength"].iter().any(|field| self.error(field).is_some())
            || self.form.image.is_some()
            || self.form.mask.is_some()
    }
}

/// The empty form, or one filled from the address: `/?prompt=red+apple&seed=7`.
pub(super) async fn show(State(app): State<App>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let mut form = GenerateRequest::default();
    for (field, value) in query {
        form.set_text(&field, value);
    }
    render(StatusCode::OK, &Page { form: &form, facts: app.facts(), errors: &[], banner: None, shown: None })
}

/// Draws what the form asks for and shows it below the form, which keeps what was typed.
pub(super) async fn submit(State(app): State<App>, request: Request) -> Response {
    let form = match body::form(&app, request).await {
        Ok(form) => form,
        Err(problem) => return wrong(&app, &GenerateRequest::default(), &problem),
    };
    match app.draw(form.clone()).await {
        Ok((job, files)) => {
            let shown = Some(shown(&job, &files));
            render(StatusCode::OK, &Page { form: &form, facts: app.facts(), errors: &[], banner: None, shown })
        }
        Err(error) => wrong(&app, &form, &error.into()),
    }
}

/// The form again, with messages beside the fields and the status the API would give.
fn wrong(app: &App, form: &GenerateRequest, problem: &Problem) -> Response {
    let whole = match problem.status {
        StatusCode::UNPROCESSABLE_ENTITY => "Nothing was drawn: please look at the marked fields.".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => format!("This machine is busy drawing for others. {}", problem.detail),
        StatusCode::INTERNAL_SERVER_ERROR => format!("{} (number {} in the log)", problem.detail, problem.request_id()),
        _ => problem.detail.clone(),
    };
    let page = Page { form, facts: app.facts(), errors: &problem.errors, banner: Some(&whole), shown: None };
    let mut response = render(problem.status, &page);
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn render(status: StatusCode, page: &Page<'_>) -> Response {
    match page.render() {
        Ok(html) => (status, [(header::CACHE_CONTROL, "no-store")], Html(html)).into_response(),
        Err(error) => {
            Problem::from(crate::Error::Server(format!("the page could not be made: {error}"))).into_response()
        }
    }
}

fn shown(job: &Job, files: &[Vec<u8>]) -> Shown {
    let prompt = job.request.text("prompt").to_owned();
    let pictures = job.images.iter().zip(files).map(|(image, file)| shown_picture(&prompt, image, file)).collect();
    let seconds = job.ended_at.zip(job.started_at).map_or(0, |(end, start)| end - start) as f64 / 1000.0;
    let notices = job.notices.as_array().into_iter().flatten().filter_map(|n| Some(n["message"].as_str()?.to_owned()));
    Shown { prompt, pictures, notices: notices.collect(), seconds: format!("{seconds:.1}") }
}

fn shown_picture(prompt: &str, image: &Image, file: &[u8]) -> ShownPicture {
    let seed = seed_of(image);
    ShownPicture {
        url: format!("data:image/png;base64,{}", STANDARD.encode(file)),
        seed,
        width: image.width,
        height: image.height,
        file_name: format!("{}-{seed}.png", slug(prompt)),
    }
}

/// A prompt as a file name: letters and digits of any script, at most 40 of them.
fn slug(prompt: &str) -> String {
    let name: String = prompt.chars().take(40).map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    match name.trim_matches('-') {
        "" => "limner".to_owned(),
        name => name.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain() {
        for (prompt, expected) in
            [("Red apple!", "red-apple"), ("../../etc/passwd", "etc-passwd"), ("", "limner"), ("🍎", "limner")]
        {
            assert_eq!(slug(prompt), expected);
        }
    }
}
