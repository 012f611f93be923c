//! `/grid`: the same request with several values of one or two fields, as one picture.
//!
//! A grid is nothing that is stored: its address holds what was asked for, and once it is drawn, which jobs draw it.

use super::super::{App, Problem, blocking};
use super::models::Choice;
use super::words::about;
use super::{Chrome, redirect, render, trouble};
use crate::error::FieldError;
use crate::image::{RgbImage, labelled_grid, read};
use crate::jobs::{Id, Job, State as JobState};
use crate::request::{AXES, Axis, GenerateRequest, Grid, Plan};
use crate::{Error, Result};
use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The longest side of the whole picture; cells are made smaller to fit.
const LONGEST: u32 = 8192;

#[derive(Template)]
#[template(path = "grid.html")]
struct Page<'a> {
    chrome: Chrome<'a>,
    choice: Choice,
    typed: &'a Typed,
    errors: &'a [FieldError],
    cost: Option<Cost>,
    drawn: Option<Drawn>,
}

/// What it would take.
struct Cost {
    pictures: usize,
    steps: usize,
    time: String,
    /// The address to post to.
    address: String,
}

/// How far the jobs are.
struct Drawn {
    cells: Vec<Cell>,
    done: usize,
    over: bool,
    /// The address of the whole picture, once there is one.
    picture: Option<String>,
}

struct Cell {
    job: Id,
    state: &'static str,
    picture: Option<Id>,
}

/// The form's fields of one axis.
struct AxisFields<'a> {
    name: &'static str,
    title: &'static str,
    field: &'a str,
    values: &'a str,
    /// Whether it may vary nothing.
    optional: bool,
    error: Option<&'a str>,
}

impl AxisFields<'_> {
    fn varies(&self, field: &str) -> bool {
        self.field == field
    }
}

/// The address, taken apart.
#[derive(Default)]
struct Typed {
    base: GenerateRequest,
    axes: [(String, String); 2],
    jobs: Vec<Id>,
    form_id: String,
    /// Whether anything was asked for yet.
    asked: bool,
}

impl Typed {
    fn read(query: Option<&str>) -> Self {
        let mut typed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let value = value.into_owned();
            match name.as_ref() {
                "x" => typed.axes[0].0 = value,
                "x_values" => typed.axes[0].1 = value,
                "y" => typed.axes[1].0 = value,
                "y_values" => typed.axes[1].1 = value,
                "form_id" => typed.form_id = value,
                "jobs" => typed.jobs = value.split('.').filter_map(Id::parse).collect(),
                name => {
                    typed.base.set_text(name, value);
                }
            }
        }
        typed.asked = !typed.axes[0].1.is_empty();
        typed
    }

    fn grid(&self) -> Result<Grid> {
        let [(x, x_values), (y, y_values)] = &self.axes;
        let across = Axis::parse(x, x_values, "x_values").map_err(Error::invalid)?;
        let down = match y.as_str() {
            "" => None,
            y => Some(Axis::parse(y, y_values, "y_values").map_err(Error::invalid)?),
        };
        let grid = Grid { base: self.base.clone(), across, down };
        grid.check().map_err(Error::invalid)?;
        Ok(grid)
    }

    /// The address that asks for the same, with these jobs.
    fn address(&self, path: &str, jobs: &[Id]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for field in crate::request::FIELDS {
            match self.base.text(field) {
                "" => &mut query,
                text => query.append_pair(field, text),
            };
        }
        let [(x, x_values), (y, y_values)] = &self.axes;
        query.extend_pairs([
            ("x", x),
            ("x_values", x_values),
            ("y", y),
            ("y_values", y_values),
            ("form_id", &self.form_id),
        ]);
        if !jobs.is_empty() {
            query.append_pair("jobs", &jobs.iter().map(Id::as_str).collect::<Vec<_>>().join("."));
        }
        format!("{path}?{}", query.finish())
    }
}

impl Page<'_> {
    fn choices(&self) -> [(&'static str, &'static str); AXES.len()] {
        AXES
    }

    /// Both axes; at first something that is worth a look.
    fn axes(&self) -> [AxisFields<'_>; 2] {
        let fields = |index: usize, name, title, first: (&'static str, &'static str)| {
            let (field, values) = &self.typed.axes[index];
            let (field, values) = if self.typed.asked { (field.as_str(), values.as_str()) } else { first };
            AxisFields {
                name,
                title,
                field,
                values,
                optional: index > 0,
                error: self.error(["x_values", "y_values"][index]),
            }
        };
        [
            fields(0, "x", "From left to right", ("guidance", "1, 2, 4, 8")),
            fields(1, "y", "From top to bottom", ("seed", "1-3")),
        ]
    }

    fn error(&self, field: &str) -> Option<&str> {
        self.errors.iter().find(|error| error.field == field).map(|error| error.message.as_str())
    }

    fn other_errors(&self) -> impl Iterator<Item = &FieldError> {
        let shown = ["prompt", "negative_prompt", "model", "x_values", "y_values", "steps", "guidance", "seed"];
        self.errors.iter().filter(move |error| !shown.contains(&error.field.as_str()))
    }
}

/// `GET /grid`: the form; with values, what they would cost; with jobs, how far these are.
pub(super) async fn show(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let mut typed = Typed::read(query.as_deref());
    if !typed.jobs.is_empty() {
        return drawing(&app, &typed).await;
    }
    if !typed.asked {
        return form(&app, StatusCode::OK, &typed, &[], None, None).await;
    }
    match plans(&app, &mut typed).await {
        Ok(plans) => {
            let (pictures, steps) = (plans.len(), plans.iter().map(|(_, plan)| plan.steps).sum());
            let time = about(app.jobs().seconds_per_step() * steps as f64);
            let cost = Cost { pictures, steps, time, address: typed.address("/grid", &[]) };
            form(&app, StatusCode::OK, &typed, &[], Some(cost), None).await
        }
        Err(error) => wrong(&app, &typed, error).await,
    }
}

/// `POST /grid`, with everything in the address: the jobs are accepted, all or none.
pub(super) async fn start(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let mut typed = Typed::read(query.as_deref());
    let accepted = match plans(&app, &mut typed).await {
        Ok(plans) => accept(&app, plans.into_iter().map(|(request, _)| request).collect(), &typed.form_id).await,
        Err(error) => Err(error),
    };
    match accepted {
        Ok(jobs) => redirect(&typed.address("/grid", &jobs)),
        Err(error) => wrong(&app, &typed, error).await,
    }
}

/// `GET /grid/picture`: the finished grid.
pub(super) async fn picture(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let typed = Typed::read(query.as_deref());
    match whole(&app, &typed).await {
        Ok(file) => {
            let name = "inline; filename=\"limner-grid.png\"";
            ([(header::CONTENT_TYPE, "image/png"), (header::CONTENT_DISPOSITION, name)], file).into_response()
        }
        Err(error) => Problem::from(error).into_response(),
    }
}

/// All requests with their plans, once the seed is chosen that they share.
async fn plans(app: &App, typed: &mut Typed) -> Result<Vec<(GenerateRequest, Plan)>> {
    let mut grid = typed.grid()?;
    let (_, first) = app.plans(grid.requests().into_iter().take(1).collect()).await?.remove(0);
    typed.base.set_text("seed", first.seed.to_string());
    grid.base.set_text("seed", first.seed.to_string());
    if typed.form_id.is_empty() {
        typed.form_id = Id::random()?.to_string();
    }
    app.plans(grid.requests()).await
}

async fn accept(app: &App, requests: Vec<GenerateRequest>, form_id: &str) -> Result<Vec<Id>> {
    let mut accepted = Vec::new();
    for (cell, request) in requests.into_iter().enumerate() {
        let key = Some(form_id).filter(|id| Id::parse(id).is_some()).map(|id| format!("grid-{id}-{cell}"));
        match app.submit(request, key).await {
            Ok(id) => accepted.push(id),
            Err(error) => {
                let given_up = std::mem::take(&mut accepted);
                app.ask(move |jobs| given_up.iter().try_for_each(|id| jobs.cancel(id).map(drop))).await?;
                return Err(error);
            }
        }
    }
    Ok(accepted)
}

async fn drawing(app: &App, typed: &Typed) -> Response {
    let ids = typed.jobs.clone();
    let found = app.ask(move |jobs| ids.iter().map(|id| jobs.get(id)).collect::<Result<Option<Vec<Job>>>>()).await;
    let jobs = match found {
        Ok(Some(jobs)) => jobs,
        Ok(None) => return trouble(app, &super::super::jobs::missing()),
        Err(error) => return trouble(app, &error.into()),
    };
    let done = jobs.iter().filter(|job| job.state == JobState::Done).count();
    let picture = (done == jobs.len()).then(|| typed.address("/grid/picture", &typed.jobs));
    let over = jobs.iter().all(|job| job.state.is_over());
    let cell = |job: Job| Cell {
        state: job.state.name(),
        picture: job.images.first().map(|image| image.id.clone()),
        job: job.id,
    };
    let cells = jobs.into_iter().map(cell).collect();
    form(app, StatusCode::OK, typed, &[], None, Some(Drawn { cells, done, over, picture })).await
}

async fn whole(app: &App, typed: &Typed) -> Result<Vec<u8>> {
    let (grid, ids) = (typed.grid()?, typed.jobs.clone());
    let files = app.ask(move |jobs| {
        let picture = |id: &Id| Ok(jobs.get(id)?.and_then(|job| job.images.first().map(|image| image.id.clone())));
        let pictures: Option<Vec<Id>> = ids.iter().map(picture).collect::<Result<_>>()?;
        pictures.map(|pictures| pictures.iter().map(|id| jobs.picture(id)).collect::<Result<Vec<_>>>()).transpose()
    });
    let missing = || Error::invalid(FieldError::new("jobs", "not_drawn", "are not all drawn"));
    let files = files.await?.filter(|files| !files.is_empty()).ok_or_else(missing)?;
    blocking(move || {
        let pictures = files.iter().map(|file| read("jobs", file)).collect::<Result<Vec<_>, _>>();
        let pictures = alike(pictures.map_err(Error::invalid)?, grid.across.len());
        let rows = grid.down.as_ref().map(Axis::labels).unwrap_or_default();
        crate::image::encode_png(&labelled_grid(&pictures, &grid.across.labels(), &rows), &[])
    })
    .await
}

/// Pictures of one size, small enough that all of them make one picture.
fn alike(pictures: Vec<RgbImage>, columns: usize) -> Vec<RgbImage> {
    let (width, height) = pictures.first().map_or((1, 1), RgbImage::dimensions);
    let (across, down) = (columns as u32, pictures.len().div_ceil(columns) as u32);
    let scale = (f64::from(LONGEST) / f64::from((across * width).max(down * height))).min(1.0);
    let side = |length: u32| ((f64::from(length) * scale) as u32).max(1);
    let fit = |picture: RgbImage| match picture.dimensions() == (side(width), side(height)) {
        true => picture,
        false => crate::image::fit(picture, side(width), side(height)),
    };
    pictures.into_iter().map(fit).collect()
}

async fn wrong(app: &App, typed: &Typed, error: Error) -> Response {
    let problem = Problem::from(error);
    match problem.errors.is_empty() {
        true => trouble(app, &problem),
        false => form(app, problem.status, typed, &problem.errors, None, None).await,
    }
}

async fn form(
    app: &App,
    status: StatusCode,
    typed: &Typed,
    errors: &[FieldError],
    cost: Option<Cost>,
    drawn: Option<Drawn>,
) -> Response {
    let choice = app.choice(typed.base.text("model")).await;
    render(status, &Page { chrome: Chrome::new(app, "grid"), choice, typed, errors, cost, drawn })
}
