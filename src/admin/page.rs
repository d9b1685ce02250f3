//! The dashboard page and what it is made of: files in the binary, nothing from anywhere else.

use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::answer::error;

/// Scripts, styles and data from here only; nothing in a frame, no form, no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Name, type, content.
const FILES: [(&str, &str, &str); 7] = [
    ("page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("table.js", "text/javascript; charset=utf-8", include_str!("page/table.js")),
    ("page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("uplot.js", "text/javascript; charset=utf-8", include_str!("page/uplot.js")),
    ("uplot.LICENSE", "text/plain; charset=utf-8", include_str!("page/uplot.LICENSE")),
    ("uplot.css", "text/css; charset=utf-8", include_str!("page/uplot.css")),
];

fn served(kind: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The next version of diffluent has other files under the same names.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// `GET /`.
pub(super) fn page<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    get(|| async { served("text/html; charset=utf-8", include_str!("page/index.html")) })
}

/// `GET /page/{file}`.
pub(super) fn file<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    get(|Path(name): Path<String>| async move {
        match FILES.iter().find(|(known, ..)| *known == name) {
            Some((_, kind, content)) => served(kind, content),
            None => error(StatusCode::NOT_FOUND, format!("the page has no file {name:?}")),
        }
    })
}
