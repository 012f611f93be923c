//! The API's description, made from the handlers: a route for programs is added here, and is described by being added.

use super::problem::Document;
use super::{__path_alive, __path_ready};
use super::{App, alive, api, events, images, jobs, lab, lists, metrics, models, page, pictures, pulls, ready, steps};
use crate::request::{FIELDS, GenerateRequest, Kind};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Every route for programs.
pub(super) fn routes() -> OpenApiRouter<App> {
    let info = InfoBuilder::new().title("Limner").version(env!("CARGO_PKG_VERSION")).description(Some(
        "Pictures from prompts. Errors are problem documents (RFC 9457) that name every wrong field.",
    ));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .routes(routes!(api::generate))
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(events::stream))
        .routes(routes!(images::show, images::change, images::delete))
        .routes(routes!(images::thumbnail))
        .routes(routes!(images::restore))
        .routes(routes!(steps::show))
        .routes(routes!(steps::picture))
        .routes(routes!(pictures::tokens))
        .routes(routes!(pictures::inspect))
        .routes(routes!(pictures::replay))
        .routes(routes!(pictures::preprocess))
        .routes(routes!(lists::controlnets))
        .routes(routes!(lists::ip_adapters))
        .routes(routes!(models::list))
        .routes(routes!(models::load))
        .routes(routes!(models::unload))
        .routes(routes!(models::remove))
        .routes(routes!(pulls::list, pulls::submit))
        .routes(routes!(pulls::show, pulls::cancel))
        .routes(routes!(pulls::events))
        .routes(routes!(lists::samplers))
        .routes(routes!(lists::schedules))
        .routes(routes!(lists::loras))
        .routes(routes!(lists::embeddings))
        .routes(routes!(lab::walk))
        .routes(routes!(lab::errors))
        .routes(routes!(metrics::show))
        .routes(routes!(alive))
        .routes(routes!(ready))
}

/// The description itself, for programs and for people.
pub(super) fn described(mut document: OpenApi) -> Router<App> {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    let mut found = vec![(Document::name().into_owned(), Document::schema())];
    Document::schemas(&mut found);
    schemas.extend(found);
    let document = Arc::new(serde_json::to_value(&document).unwrap_or_default());
    let json = document.to_string();
    let answer = ([(header::CONTENT_TYPE, "application/json")], json);
    Router::new()
        .route("/openapi.json", get(async move || answer))
        .route("/docs", get(async move |state| page::docs(state, &document)))
}

/// What any route may answer when something is wrong.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Document::name()))).build();
        let response = ResponseBuilder::new().description("What is wrong").content("application/problem+json", content);
        BTreeMap::from([("default".to_owned(), response.build().into())])
    }
}

impl ToSchema for GenerateRequest {
    fn name() -> Cow<'static, str> {
        "GenerateRequest".into()
    }
}

impl PartialSchema for GenerateRequest {
    /// All fields are optional but the prompt; numbers and switches may be text, as a form has them.
    fn schema() -> RefOr<Schema> {
        let field = |name: &str| {
            let types = match Self::kind(name) {
                Some(Kind::Number) => vec![Type::Number, Type::String, Type::Null],
                Some(Kind::Switch) => vec![Type::Boolean, Type::String, Type::Null],
                _ if name == "prompt" => vec![Type::String],
                _ => vec![Type::String, Type::Null],
            };
            ObjectBuilder::new().schema_type(SchemaType::from_iter(types)).description(Self::about(name)).build()
        };
        let empty = ObjectBuilder::new().additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
        let object = FIELDS.into_iter().fold(empty, |object, name| object.property(name, field(name)));
        object.required("prompt").build().into()
    }
}
