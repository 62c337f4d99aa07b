//! REST in the shape of 2016, and the newer calls beside it.
//!
//! ```text
//! TLS connection -> router (from ROUTES) -> who asks? allowed? -> body within limit -> Route::run -> JSON
//! ```
//!
//! Every route is a row (`route::Route`); the OpenAPI document and the permission matrix are made
//! from the same rows. Every failure is `{"error":{"code","message","hint"}}` with the HTTP status
//! of `failure::CODES`, except below `/chaincode`, where JSON-RPC has its own shape. Bytes of
//! fields that existed in 2016 are base64, as then; digests in newer fields are lower-case hex.

pub mod chain;
pub mod chaincode;
pub mod json;
pub mod network;
pub mod registrar;
pub mod route;
pub mod server;
pub mod state;
pub mod status;
pub mod transactions;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::RawPathParams;
use axum::extract::State;
use axum::extract::rejection::RawPathParamsRejection;
use axum::routing::MethodFilter;
use axum::routing::on;
use bytes::Bytes;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::LengthLimitError;
use http_body_util::Limited;

use crate::api::Service;
use crate::api::auth::Connection;
use crate::api::failure::Failure;
use crate::api::rest::json::ErrorBody;
use crate::api::rest::route::Reply;
use crate::api::rest::route::Request;
use crate::api::rest::route::Route;
use crate::api::rest::route::Verb;
use crate::types::limits;

/// Every route, in the order of the document.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    [
        chain::ROUTES,
        transactions::ROUTES,
        chaincode::ROUTES,
        state::ROUTES,
        network::ROUTES,
        registrar::ROUTES,
        status::ROUTES,
    ]
    .into_iter()
    .flatten()
}

/// The router over all rows.
pub fn router(service: Service) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let run = move |State(service): State<Service>,
                        path: Result<RawPathParams, RawPathParamsRejection>,
                        request: axum::extract::Request| async move {
            respond(answer(route, service, path, request).await)
        };
        router = router.route(route.path, on(filter(route.verb), run));
    }
    router
        .fallback(|request: axum::extract::Request| async move {
            let (method, path) = (request.method(), request.uri().path());
            let text = format!("no such route: {method} {}", shortened(path));
            respond(Err(Failure::new("unknown-route", text)))
        })
        .method_not_allowed_fallback(|request: axum::extract::Request| async move {
            let (method, path) = (request.method(), request.uri().path());
            let text = format!("{} does not know the method {method}", shortened(path));
            respond(Err(Failure::new("unknown-method", text)))
        })
        .with_state(service)
}

async fn answer(
    route: &'static Route,
    service: Service,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: axum::extract::Request,
) -> Result<Reply, Failure> {
    let connection = request.extensions().get::<Connection>().cloned().unwrap_or_default();
    let caller = service.caller(&connection)?;
    service.authorise(&caller, route.kind)?;
    let path = match path {
        Ok(params) => params.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        Err(RawPathParamsRejection::MissingPathParams(_)) => Vec::new(),
        Err(error) => return Err(Failure::malformed(error.to_string())),
    };
    let query = query(route, request.uri())?;
    let media = media(request.headers());
    let body = match route.verb {
        Verb::Post => body(request.into_body(), limits::REST_BODY_BYTES_MAX).await?,
        Verb::Get | Verb::Delete => Bytes::new(),
    };
    let request = Request { service, caller, path, query, media, body };
    let limit = Duration::from_millis(limits::REQUEST_MS_MAX);
    match tokio::time::timeout(limit, (route.run)(request)).await {
        Ok(reply) => reply,
        Err(_) => {
            let text = format!("no answer within {} ms", limits::REQUEST_MS_MAX);
            Err(Failure::new("timed-out", text))
        }
    }
}

fn query(route: &Route, uri: &http::Uri) -> Result<Vec<(String, String)>, Failure> {
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| Failure::malformed(format!("query string: {error}")))?;
    for (name, _) in &query {
        if !route.query.iter().any(|p| p.name == name) {
            let known: Vec<&str> = route.query.iter().map(|p| p.name).collect();
            let hint = match known.is_empty() {
                true => format!("{} takes no query parameters", route.path),
                false => format!("{} takes: {}", route.path, known.join(", ")),
            };
            let text = format!("unknown query parameter {:?}", shortened(name));
            return Err(Failure::malformed(text).hint(hint));
        }
    }
    Ok(query)
}

/// A body, of at most `limit` bytes.
pub(crate) async fn body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let read = Limited::new(body, limit).collect();
    match tokio::time::timeout(Duration::from_millis(limits::BODY_MS_MAX), read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Failure::new("too-large", format!("the body is larger than {limit} bytes")))
        }
        Ok(Err(error)) => Err(Failure::malformed(format!("the body broke off: {error}"))),
        Err(_) => Err(Failure::new("timed-out", "the body did not arrive in time")
            .hint("send the request again over a better connection")),
    }
}

/// The answer in HTTP.
pub(crate) fn respond(outcome: Result<Reply, Failure>) -> http::Response<Body> {
    let reply = match outcome {
        Ok(reply) => reply,
        Err(failure) => failed(&failure),
    };
    let mut response = http::Response::new(Body::from(reply.body));
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if reply.retry_after_s > 0 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(reply.retry_after_s));
    }
    response
}

fn failed(failure: &Failure) -> Reply {
    let body = serde_json::to_vec(&ErrorBody::from(failure))
        .unwrap_or_else(|_| br#"{"error":{"code":"internal"}}"#.to_vec());
    Reply {
        status: failure.code.http,
        media: route::JSON,
        body: body.into(),
        retry_after_s: failure.retry_after_ms.div_ceil(1000),
    }
}

fn filter(verb: Verb) -> MethodFilter {
    match verb {
        Verb::Get => MethodFilter::GET,
        Verb::Post => MethodFilter::POST,
        Verb::Delete => MethodFilter::DELETE,
    }
}

fn media(headers: &http::HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// What a caller sent may be quoted back, but not at any length.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

const QUOTED_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::refusal::Refusal;

    /// A full queue answers 429, says when to come back in header and body, and is not cached.
    #[test]
    fn busy_answers_429_with_retry_after() {
        let busy = Refusal::Busy { what: "the mempool", retry_after_ms: 1200 };
        let response = respond(Err(busy.into()));
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }

    /// What a caller sent is quoted at a bounded length, on character boundaries.
    #[test]
    fn quotes_are_bounded() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"\u{e9}".repeat(500)).chars().count(), QUOTED_CHARS_MAX + 3);
    }

    /// No two rows share method and path, so that none hides another.
    #[test]
    fn routes_are_distinct() {
        let mut seen: Vec<(Verb, &str)> = routes().map(|r| (r.verb, r.path)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), routes().count());
    }
}
