//! Who may do what on the admin port.
//!
//! | asked for | on this machine, no token | elsewhere, no token | with a token |
//! |---|---|---|---|
//! | what tells something | anybody | anybody | anybody; `token_for = "everything"`: who bears it |
//! | what changes something | anybody, but no other site's page | nobody | who bears it, but no other site's page |
//! | `/live`, `/ready`, `/openapi.json`, the page's files | anybody | anybody | anybody |
//!
//! A browser does for any page what it would do for ours, so what changes something must not be another site's wish: a page's origin must be the host that is
//! asked (that stops forms and scripts of others), and without a token that host must be this machine by its address or as `localhost` (that stops
//! names that lead to it for a moment, DNS rebinding). With a token neither would help an attacker, who does not know it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::answer::error;
use crate::config::{Admin, Secret, TokenFor};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Option<Secret>,
    token_for: TokenFor,
    /// Whether only this machine can connect.
    loopback: bool,
    /// The host that is configured.
    host: Arc<str>,
}

/// What is kept from whom, for the start's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openness {
    /// Only this machine can connect, or a token is needed for everything.
    Closed,
    /// Anybody who can connect can read; commands need a token.
    Reading,
    /// Anybody who can connect can read; commands are refused, because there is no token.
    ReadingWithoutCommands,
}

impl Guard {
    /// For the port that is bound to `bound`.
    pub fn new(config: &Admin, bound: SocketAddr) -> Self {
        Self {
            token: config.token.clone(),
            token_for: config.token_for,
            loopback: bound.ip().to_canonical().is_loopback(),
            host: Arc::from(config.listen.host.as_str()),
        }
    }

    /// What is kept from whom.
    pub fn openness(&self) -> Openness {
        match (self.loopback, &self.token, self.token_for) {
            (true, ..) | (false, Some(_), TokenFor::Everything) => Openness::Closed,
            (false, Some(_), TokenFor::Commands) => Openness::Reading,
            (false, None, _) => Openness::ReadingWithoutCommands,
        }
    }

    /// The answer that says no, if it is one.
    fn refusal(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        let no = |what: &str| Some(error(StatusCode::FORBIDDEN, what));
        if changes && is_foreign(headers) {
            return no("this was asked for by another site's page; use diffluent's own, or its command line");
        }
        if changes && is_form(headers) {
            let what = "this was asked for by a form; diffluent's commands take JSON or nothing";
            return Some(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let Some(token) = &self.token else {
            if changes && !self.loopback {
                return no(
                    "commands are taken from elsewhere only with a token, and there is none; set `token` in [admin] of proxy.toml",
                );
            }
            if changes && !self.is_here(headers) {
                return no(
                    "this host's name could be anybody's; ask by the address or as localhost, or set `token` in [admin] of proxy.toml",
                );
            }
            return None;
        };
        let needed = changes || (self.token_for == TokenFor::Everything && !is_open(path));
        if !needed {
            return None;
        }
        match token.read() {
            Ok(token) if bears(headers, &token) => None,
            Ok(_) => {
                let what = "this takes the token of [admin] in proxy.toml (Authorization: Bearer ...)";
                let mut answer = error(StatusCode::UNAUTHORIZED, what);
                let scheme = HeaderValue::from_static("Bearer realm=\"diffluent\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                Some(answer)
            }
            Err(failed) => Some(error(StatusCode::SERVICE_UNAVAILABLE, format!("[admin] token: {failed}"))),
        }
    }

    /// Whether the host that is asked is this machine beyond doubt.
    fn is_here(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(&self.host)
    }
}

/// What is told to anybody: whether the process lives, for those who watch over it, and files that hold nothing of it.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/live" | "/openapi.json" | "/ready") || path.starts_with("/page/")
}

/// Lets a request through, or not.
pub(super) async fn guarded(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    match guard.refusal(method, path, request.headers()) {
        None => next.run(request).await,
        Some(answer) => {
            tracing::info!(%peer, %method, path, status = answer.status().as_u16(), "refused on the admin port");
            answer
        }
    }
}

/// Whether a browser says that the request comes from another origin. What is no browser says nothing.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match headers.get(header::ORIGIN) {
        Some(origin) => {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
            origin.is_none() || origin != text(header::HOST)
        }
        None => text(header::HeaderName::from_static("sec-fetch-site"))
            .is_some_and(|site| site != "same-origin" && site != "none"),
    }
}

/// Whether the body is what a page's form can send without asking first.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
        .iter()
        .any(|form| kind.eq_ignore_ascii_case(form))
}

/// Whether the request bears this token.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok()).unwrap_or_default();
    let Some((scheme, given)) = given.split_once(' ') else { return false };
    scheme.eq_ignore_ascii_case("bearer") && is_equal(given.trim().as_bytes(), token.as_bytes())
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_equal(given: &[u8], known: &[u8]) -> bool {
    given.len() == known.len() && given.iter().zip(known).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &Method = &Method::POST;
    const GET: &Method = &Method::GET;

    fn guard(token: Option<&str>, token_for: TokenFor, bound: &str) -> Guard {
        let token = token.map(|token| Secret::Text(token.into()));
        let config = Admin { token, token_for, ..Admin::default() };
        Guard::new(&config, bound.parse().unwrap())
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(header).collect()
    }

    fn status(guard: &Guard, method: &Method, path: &str, pairs: &[(&'static str, &'static str)]) -> u16 {
        guard.refusal(method, path, &headers(pairs)).map_or(200, |answer| answer.status().as_u16())
    }

    #[test]
    fn without_a_token_commands_are_taken_on_this_machine_only_and_from_no_other_page() {
        let here = guard(None, TokenFor::Commands, "127.0.0.1:9644");
        let host = ("host", "127.0.0.1:9644");
        for (pairs, expected) in [
            (&[host][..], 200),
            (&[("host", "localhost:9644")], 200),
            (&[("host", "[::1]:9644")], 200),
            (&[host, ("content-type", "application/json")], 200),
            (&[host, ("origin", "http://127.0.0.1:9644")], 200),
            (&[host, ("origin", "http://evil.example")], 403),
            (&[host, ("origin", "null")], 403),
            (&[host, ("sec-fetch-site", "cross-site")], 403),
            (&[host, ("content-type", "text/plain;charset=UTF-8")], 415),
            (&[host, ("content-type", "Application/X-WWW-Form-Urlencoded")], 415),
            // A name that leads here for a moment: origin and host are the same then.
            (&[("host", "evil.example:9644"), ("origin", "http://evil.example:9644")], 403),
            (&[("host", "evil.example")], 403),
            (&[("host", "127.0.0.1.evil.example")], 403),
            (&[("host", "127.0.0.1@evil.example")], 403),
            (&[], 403),
        ] {
            assert_eq!(status(&here, POST, "/x", pairs), expected, "{pairs:?}");
        }
        assert_eq!(status(&here, GET, "/lag", &[("host", "evil.example"), ("origin", "http://evil.example")]), 200);
        assert_eq!(here.openness(), Openness::Closed);
        let elsewhere = guard(None, TokenFor::Commands, "0.0.0.0:9644");
        assert_eq!(status(&elsewhere, POST, "/x", &[host]), 403);
        assert_eq!(status(&elsewhere, &Method::DELETE, "/x", &[host]), 403);
        assert_eq!(status(&elsewhere, GET, "/lag", &[host]), 200);
        assert_eq!(elsewhere.openness(), Openness::ReadingWithoutCommands);
        assert_eq!(guard(None, TokenFor::Commands, "[::ffff:127.0.0.1]:1").openness(), Openness::Closed);
    }

    #[test]
    fn with_a_token_what_needs_it_is_done_for_who_bears_it() {
        let host = ("host", "diffluent.example:9644");
        let right = ("authorization", "Bearer s3cret");
        for bound in ["0.0.0.0:9644", "127.0.0.1:9644"] {
            let commands = guard(Some("s3cret"), TokenFor::Commands, bound);
            assert_eq!(status(&commands, POST, "/x", &[host, right]), 200);
            assert_eq!(status(&commands, POST, "/x", &[host, ("authorization", "bearer  s3cret ")]), 200);
            for wrong in
                ["s3cret", "Basic s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3cret"]
            {
                assert_eq!(status(&commands, POST, "/x", &[host, ("authorization", wrong)]), 401, "{wrong}");
            }
            assert_eq!(status(&commands, POST, "/x", &[host, right, ("origin", "http://evil.example")]), 403);
            assert_eq!(status(&commands, GET, "/lag", &[host]), 200);
            let everything = guard(Some("s3cret"), TokenFor::Everything, bound);
            for open in ["/", "/live", "/ready", "/page/page.js"] {
                assert_eq!(status(&everything, GET, open, &[host]), 200, "{open}");
            }
            for closed in ["/lag", "/metrics", "/config", "/stream", "/nothing", "//live"] {
                assert_eq!(status(&everything, GET, closed, &[host]), 401, "{closed}");
                assert_eq!(status(&everything, GET, closed, &[host, right]), 200, "{closed}");
            }
        }
        assert_eq!(guard(Some("s3cret"), TokenFor::Commands, "0.0.0.0:1").openness(), Openness::Reading);
        assert_eq!(guard(Some("s3cret"), TokenFor::Everything, "0.0.0.0:1").openness(), Openness::Closed);
        let gone = Admin { token: Some(Secret::File("/no/such/file".into())), ..Admin::default() };
        let gone = Guard::new(&gone, "127.0.0.1:1".parse().unwrap());
        assert_eq!(status(&gone, POST, "/x", &[host, right]), 503, "no token that can't be read is the right one");
    }
}
