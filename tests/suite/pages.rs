//! The pages as a browser without scripts sees them: forms, redirects, links.

use crate::http::{ask, bytes, finished, form, get, of, routes, text, with};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use limner::image::{RgbImage, encode_png, read};
use std::time::Duration;
use tower::ServiceExt;

async fn to(routes: &Router, request: Request<Body>) -> Response<Body> {
    routes.clone().oneshot(request).await.unwrap()
}

async fn page(routes: &Router, address: &str) -> String {
    text(to(routes, get(address)).await).await
}

/// Where an answer leads, without the part after "#".
pub(crate) fn location(response: &Response<Body>) -> String {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    response.headers()["location"].to_str().unwrap().split('#').next().unwrap().to_owned()
}

/// What stands in a page between two texts.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let rest = page.split(before).nth(1).unwrap_or_else(|| panic!("no {before} in {page}"));
    rest.split(after).next().unwrap()
}

/// Loads a job's page again and again, as its `refresh` says, until the job is over.
pub(crate) async fn refreshed(routes: &Router, address: &str) -> String {
    loop {
        let page = page(routes, address).await;
        if !page.contains("http-equiv=\"refresh\"") {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_leads_to_a_job_with_an_address_of_its_own() {
    let routes = routes();
    let fields = [("prompt", "red apple"), ("steps", "2"), ("seed", "3"), ("count", "2"), ("else", "x")];
    let response = to(&routes, form(&fields, None)).await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self'") && policy.contains("default-src 'none'"));
    let page = refreshed(&routes, &location(&response)).await;
    assert_eq!(page.matches("<figure>").count(), 2);
    for part in ["value=\"red apple\"", ">3</code>", ">4</code>", "download=\"red-apple-3.png\"", "data-state=\"done\""]
    {
        assert!(page.contains(part), "{part}");
    }
    let picture = between(&page, "<figure>\n      <a href=\"", "\"");
    let file = bytes(to(&routes, get(picture)).await).await;
    assert_eq!(read("image", &file).unwrap().dimensions(), (32, 32));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_sent_twice_is_one_job() {
    let routes = routes();
    let form_id = between(&page(&routes, "/").await, "name=\"form_id\" value=\"", "\"").to_owned();
    let send = async |prompt: &str| {
        location(&to(&routes, form(&[("prompt", prompt), ("steps", "2"), ("form_id", &form_id)], None)).await)
    };
    let (first, second, other) = (send("red apple").await, send("red apple").await, send("green apple").await);
    assert_eq!(first, second);
    assert_ne!(first, other, "after \"back\", other settings are another job");
}

#[tokio::test]
async fn the_form_comes_back_with_what_was_typed_and_messages_beside_it() {
    let response = ask(form(
        &[("prompt", "<script>alert(1)</script>"), ("steps", "0"), ("seed", "7,5")],
        Some(("image", b"GIF89a")),
    ))
    .await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(response).await;
    assert!(!page.contains("<script>alert"));
    for part in [
        "value=\"&#60;script&#62;alert(1)&#60;/script&#62;\"",
        "id=\"steps-error\">must be between 1 and 1000, was 0<",
        "id=\"seed-error\">must be a whole number",
        "id=\"image-error\">must be a PNG, JPEG or WebP picture",
        "value=\"7,5\"",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
}

#[tokio::test]
async fn the_address_fills_the_form() {
    let page = text(ask(get("/?prompt=a%22%3E%3Cb%3E&seed=9")).await).await;
    assert!(
        page.contains("value=\"a&#34;&#62;&#60;b&#62;\"") && page.contains("value=\"9\"") && !page.contains("<b>\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_stopped_by_a_button() {
    let routes = routes();
    let address = location(&to(&routes, form(&[("prompt", "x"), ("steps", "1000")], None)).await);
    let waiting = page(&routes, &address).await;
    assert!(waiting.contains("id=\"stop\"") && waiting.contains("role=\"status\""));
    let stopped = to(&routes, with("POST", &format!("{address}/cancel"), "")).await;
    assert_eq!(location(&stopped), address);
    assert!(refreshed(&routes, &address).await.contains("data-state=\"cancelled\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_used_again_and_pictures_drawn_over() {
    let routes = routes();
    let job = finished(&routes, r#"{"prompt":"red apple","steps":3,"seed":7,"guidance":2.5}"#).await;
    let id = job["images"][0]["id"].as_str().unwrap();
    let again = page(&routes, &format!("/?settings={id}")).await;
    for part in [
        "value=\"red apple\"",
        "name=\"seed\" value=\"7\"",
        "name=\"guidance\" min=\"0\" max=\"50\" step=\"any\" value=\"2.5\"",
    ] {
        assert!(again.contains(part), "{part}");
    }
    assert!(page(&routes, &format!("/?settings={id}&vary=1")).await.contains("name=\"seed\" value=\"\""));
    assert!(page(&routes, &format!("/?start={id}")).await.contains("name=\"start\""));
    let drawn =
        to(&routes, form(&[("prompt", "pear"), ("steps", "4"), ("strength", "0.5"), ("start", id)], None)).await;
    let over = refreshed(&routes, &location(&drawn)).await;
    assert!(over.contains("data-state=\"done\"") && over.contains("<dt>strength</dt><dd>0.5</dd>"), "{over}");
    // The upload is that job's own now: it can be drawn over once more, and looked at in no other way.
    let uploads = between(&over, "name=\"uploads_of\" value=\"", "\"");
    let third = to(&routes, form(&[("prompt", "plum"), ("steps", "2"), ("uploads_of", uploads)], None)).await;
    assert!(refreshed(&routes, &location(&third)).await.contains("<dt>strength</dt>"));
    let missing = to(&routes, get("/?settings=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_finds_stars_and_brings_back() {
    let routes = routes();
    let mut pictures = Vec::new();
    for prompt in ["red apple", "50% blue_boat", "green leaf"] {
        let job = finished(&routes, &format!(r#"{{"prompt":"{prompt}","steps":1}}"#)).await;
        pictures.push(job["images"][0]["id"].as_str().unwrap().to_owned());
    }
    let shown = async |address: &str| {
        let page = page(&routes, address).await;
        pictures.iter().map(|id| page.contains(&format!("/images/{id}/thumbnail"))).collect::<Vec<_>>()
    };
    assert_eq!(shown("/history").await, [true, true, true]);
    assert_eq!(shown("/history?q=50%25+blue_").await, [false, true, false]);
    assert_eq!(shown("/history?q=%25").await, [false, true, false]);
    let act = async |index: usize, change: &str, back: &str| {
        let address = format!("/pictures/{}/{change}?back={back}", pictures[index]);
        location(&to(&routes, with("POST", &address, "")).await)
    };
    assert_eq!(act(2, "star", "/history%3Fstarred%3D1").await, "/history?starred=1");
    assert_eq!(shown("/history?starred=1").await, [false, false, true]);
    assert_eq!(act(2, "unstar", "//evil.example").await, "/history");
    assert_eq!(shown("/history?starred=1").await, [false, false, false]);
    let deleted = act(0, "delete", "/history").await;
    assert_eq!(shown(&deleted).await, [false, true, true]);
    let undo = page(&routes, &deleted).await;
    assert!(undo.contains(&format!("action=\"/pictures/{}/restore?back=%2Fhistory\"", pictures[0])));
    act(0, "restore", "/history").await;
    assert_eq!(shown("/history").await, [true, true, true]);
    let unknown = to(&routes, with("POST", &format!("/pictures/{}/explode", pictures[0]), "")).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pictures_are_compared_by_what_differs() {
    let routes = routes();
    let job = finished(&routes, r#"{"prompt":"red apple","steps":1,"count":2,"seed":5}"#).await;
    let id = |index: usize| job["images"][index]["id"].as_str().unwrap();
    let page_of_two = page(&routes, &format!("/compare?picture={}&picture={}", id(0), id(1))).await;
    assert_eq!(page_of_two.matches("class=\"differs\"").count(), 1, "{page_of_two}");
    assert!(page_of_two.contains("<th scope=\"row\">seed</th><td>5</td><td>6</td>"));
    for wrong in ["/compare", &format!("/compare?picture={}", id(0))] {
        assert_eq!(to(&routes, get(wrong)).await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_says_what_it_costs_and_becomes_one_picture() {
    let routes = routes();
    let query = "prompt=red+apple&x=steps&x_values=1,2,3&y=words&y_values=red,green&seed=4";
    let told = page(&routes, &format!("/grid?{query}")).await;
    assert!(told.contains("<h1>6 pictures</h1>") && told.contains("<p>12 steps in all"), "{told}");
    let start = between(&told, "method=\"post\" action=\"", "\"").replace("&#38;", "&");
    let (first, twice) = (to(&routes, with("POST", &start, "")).await, to(&routes, with("POST", &start, "")).await);
    let address = location(&first);
    assert_eq!(address, location(&twice), "sent twice, it is one grid");
    let done = refreshed(&routes, &address).await;
    let whole = between(&done, "<figure><a href=\"", "\"").replace("&#38;", "&");
    let picture = read("grid", &bytes(to(&routes, get(&whole)).await).await).unwrap();
    assert!(picture.width() > 3 * 32 && picture.height() > 2 * 32, "{:?}", picture.dimensions());
    let (_, jobs) = of(&routes, get("/api/v1/jobs")).await;
    let drawn: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["request"].clone()).collect();
    assert_eq!(drawn.len(), 6);
    assert!(drawn.iter().all(|request| request["seed"] == 4));
    assert_eq!(drawn.iter().filter(|request| request["prompt"] == "green apple").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_that_cannot_be_drawn_is_explained() {
    let routes = routes();
    for (query, part) in [
        ("x=steps&x_values=0,5", "must be between 1 and 1000"),
        ("x=words&x_values=pear,plum&prompt=apple", "must begin with words that stand in the prompt"),
        ("x=seed&x_values=1-9&y=steps&y_values=1-9", "64 are the most"),
        ("x=else&x_values=1", "must vary one of"),
        ("x=sampler&x_values=nonsense", "must be one of"),
    ] {
        let response = to(&routes, get(&format!("/grid?{query}"))).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        let page = text(response).await;
        assert!(page.contains(part), "{query}: {page}");
    }
    let unknown = "/grid?x=steps&x_values=1&jobs=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(to(&routes, get(unknown)).await.status(), StatusCode::NOT_FOUND);
    let (_, jobs) = of(&routes, get("/api/v1/jobs")).await;
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 0, "nothing was accepted");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_words() {
    let routes = routes();
    for address in ["/jobs/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "/jobs/..%2f..%2fetc", "/jobs/%00"] {
        let response = to(&routes, get(address)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{address}");
        assert!(text(response).await.contains("There is nothing here"), "{address}");
    }
    let picture = encode_png(&RgbImage::new(8, 8), &[]).unwrap();
    let odd = [("prompt", "x"), ("steps", "1"), ("start", "../../etc/passwd"), ("form_id", "'; DROP TABLE jobs")];
    assert_eq!(to(&routes, form(&odd, Some(("image", &picture)))).await.status(), StatusCode::SEE_OTHER);
}
