//! `/docs`: the API's description for people, from the same document that programs get.

use super::super::App;
use super::{Chrome, render};
use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs<'a> {
    chrome: Chrome<'a>,
    operations: Vec<Operation>,
    schemas: Vec<Described>,
}

/// One method of one route.
struct Operation {
    method: String,
    path: String,
    summary: String,
    description: String,
    /// Name, where it goes, what it means.
    parameters: Vec<[String; 3]>,
    /// Kinds of bodies it takes.
    bodies: Vec<String>,
    /// Status and what it means.
    answers: Vec<[String; 2]>,
}

/// A kind of object.
struct Described {
    name: String,
    description: String,
    /// Name, type, what it means.
    fields: Vec<[String; 3]>,
}

/// The page.
pub(in super::super) fn docs(State(app): State<App>, document: &Value) -> Response {
    let operations = entries(&document["paths"])
        .flat_map(|(path, item)| entries(item).map(move |(method, operation)| read_operation(method, path, operation)));
    let schemas = entries(&document["components"]["schemas"]).map(|(name, schema)| read_schema(name, schema));
    let chrome = Chrome::new(&app, "docs");
    render(StatusCode::OK, &Docs { chrome, operations: operations.collect(), schemas: schemas.collect() })
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A text of the document, without Markdown's marks.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('`', "")
}

fn read_operation(method: &str, path: &str, operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let content = |value: &Value| entries(&value["content"]).map(|(kind, _)| kind.clone()).collect::<Vec<_>>();
    let answer = |(status, answer): (&String, &Value)| [status.clone(), text(&answer["description"])];
    Operation {
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: text(&operation["description"]),
        parameters: parameters.map(|p| [text(&p["name"]), text(&p["in"]), text(&p["description"])]).collect(),
        bodies: content(&operation["requestBody"]),
        answers: entries(&operation["responses"]).map(answer).collect(),
    }
}

fn read_schema(name: &str, schema: &Value) -> Described {
    let field = |(name, field): (&String, &Value)| [name.clone(), kind(field), text(&field["description"])];
    let fields = entries(&schema["properties"]).map(field).collect();
    Described { name: name.to_owned(), description: text(&schema["description"]), fields }
}

/// A type in a word or two.
fn kind(field: &Value) -> String {
    if let Some(name) = field["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return name.to_owned();
    }
    if let Some(one_of) = field["oneOf"].as_array() {
        return one_of.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match &field["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        Value::String(kind) if kind == "array" => format!("array of {}", self::kind(&field["items"])),
        Value::String(kind) => kind.clone(),
        _ => "anything".to_owned(),
    }
}
