//! Who asks for something: for the journal.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

/// What a reverse proxy in front calls the person that it has asked for a password, and `diffluent`'s own commands call themselves. Nobody proves it here: the
/// address is told beside it.
pub const USER_HEADER: &str = "x-forwarded-user";
/// The longest name that is told.
const NAME_CHARS_MAX: usize = 64;

/// `127.0.0.1:50123`, or `ann at 127.0.0.1:50123`.
#[derive(Clone, Debug)]
pub(super) struct Who(pub String);

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        let name = parts.headers.get(USER_HEADER).and_then(|name| name.to_str().ok());
        Ok(Self(named(name, peer)))
    }
}

fn named(name: Option<&str>, peer: Option<SocketAddr>) -> String {
    let address = peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string());
    let name: String = name.unwrap_or_default().chars().filter(|c| c.is_ascii_graphic()).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { address } else { format!("{name} at {address}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_beside_the_address_and_never_without() {
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 50_123)));
        assert_eq!(named(None, peer), "127.0.0.1:50123");
        assert_eq!(named(Some("ann"), peer), "ann at 127.0.0.1:50123");
        assert_eq!(named(Some(" \u{7}"), peer), "127.0.0.1:50123");
        assert_eq!(named(Some(&"x".repeat(1000)), None).len(), 64 + " at an unknown address".len());
    }
}
