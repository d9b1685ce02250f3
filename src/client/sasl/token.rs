//! Tokens for OAUTHBEARER: those that somebody else renews, and those that are asked for (the client credentials grant).
//!
//! A token that was asked for is used for all connections, until four fifths of its time are over or a broker has refused it.
//!
//! # References
//! RFC 6749 sections 2.3.1 and 4.4; RFC 7519 (claims).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::endpoint::{self, Endpoint, Unanswered};
use super::exchange::words;
use crate::config::{Secret, SecretError};

/// After an endpoint has failed, or a broker has refused a new token, the next one is asked for no sooner than this.
const ASK_SPACING: Duration = Duration::from_secs(2);
/// How long a token is used whose endpoint does not say how long it lasts.
const LIFETIME: Duration = Duration::from_secs(300);

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The place where it should be does not hold it.
    #[error("{0}")]
    Place(String),
    /// The endpoint can't be asked.
    #[error("the token endpoint {endpoint} can't be asked: {reason}; see that it is up and can be reached from here")]
    Silent {
        /// Its URL.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// It is not sure that the endpoint is the one that is meant.
    #[error("the token endpoint {endpoint} is not asked: {reason}; nothing is sent to it before that is put right")]
    Untrusted {
        /// Its URL.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The endpoint gives none.
    #[error("the token endpoint {endpoint} gives no token: {reason}; correct client_id, client_secret or scope")]
    Refused {
        /// Its URL.
        endpoint: String,
        /// What it says.
        reason: String,
    },
}

impl From<SecretError> for TokenError {
    fn from(error: SecretError) -> Self {
        TokenError::Place(error.to_string())
    }
}

/// Where tokens come from.
#[derive(Debug)]
pub enum Tokens {
    /// A file or a variable, read each time.
    Kept(Secret),
    /// An endpoint.
    Asked(Box<Asked>),
}

/// Who is asked, as what, and what was answered last.
#[derive(Debug)]
pub struct Asked {
    endpoint: Endpoint,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    /// Held while the endpoint is asked: one question for all connections.
    last: Mutex<Option<Last>>,
}

struct Last {
    at: Instant,
    result: Result<(String, Duration), TokenError>,
    refused: bool,
}

impl std::fmt::Debug for Last {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Last").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Last {
    fn is_good(&self) -> bool {
        let age = self.at.elapsed();
        match &self.result {
            // Asking too often would only put load on an endpoint that is in trouble.
            Err(_) => age < ASK_SPACING,
            Ok(_) if self.refused => age < ASK_SPACING,
            Ok((_, lifetime)) => age < *lifetime * 4 / 5,
        }
    }
}

impl Tokens {
    /// Tokens from `endpoint`.
    pub fn asked(endpoint: Endpoint, client_id: String, client_secret: Secret, scope: Option<String>) -> Self {
        Tokens::Asked(Box::new(Asked { endpoint, client_id, client_secret, scope, last: Mutex::default() }))
    }

    /// A token that should be good now.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn token(&self) -> Result<String, TokenError> {
        match self {
            Tokens::Kept(secret) => Ok(secret.read()?.trim().to_owned()),
            Tokens::Asked(asked) => asked.token().await,
        }
    }

    /// A broker has refused this token: another one is asked for, where that is possible.
    pub async fn refused(&self, token: &str) {
        if let Tokens::Asked(asked) = self
            && let Some(last) = &mut *asked.last.lock().await
            && last.result.as_ref().is_ok_and(|(known, _)| known == token)
        {
            last.refused = true;
        }
    }
}

impl Asked {
    /// Who is asked.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn token(&self) -> Result<String, TokenError> {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.is_good()) {
            return last.result.clone().map(|(token, _)| token);
        }
        let result = self.ask().await;
        *last = Some(Last { at: Instant::now(), result: result.clone(), refused: false });
        result.map(|(token, _)| token)
    }

    fn unanswered(&self, unanswered: Unanswered) -> TokenError {
        let endpoint = self.endpoint.to_string();
        match unanswered {
            Unanswered::Untrusted(reason) => TokenError::Untrusted { endpoint, reason },
            Unanswered::Silent(reason) => TokenError::Silent { endpoint, reason },
        }
    }

    async fn ask(&self) -> Result<(String, Duration), TokenError> {
        let secret = self.client_secret.read()?;
        let in_form = encoded(&secret);
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.scope {
            form.push_str("&scope=");
            form.push_str(&encoded(scope));
        }
        let user = STANDARD.encode(format!("{}:{in_form}", encoded(&self.client_id)));
        let (status, body) = endpoint::post(&self.endpoint, &format!("Basic {user}"), form)
            .await
            .map_err(|unanswered| self.unanswered(unanswered))?;
        let refused = |reason: String| TokenError::Refused { endpoint: self.endpoint.to_string(), reason };
        if status != 200 {
            return Err(refused(format!("status {status}: {}", complaint(&body, &[&secret, &in_form, &user]))));
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| refused("its answer is no token response (RFC 6749)".into()))?;
        if !is_token(&answer.access_token) {
            return Err(refused("its token has characters that no token has (RFC 6750)".into()));
        }
        let lifetime = answer.expires_in.filter(|seconds| *seconds > 0.0 && seconds.is_finite());
        let lifetime = lifetime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LIFETIME);
        Ok((answer.access_token, lifetime))
    }
}

/// The token response, as far as it matters.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// What the endpoint says is wrong (RFC 6749 section 5.2), or the start of what it says at all.
fn complaint(body: &[u8], secrets: &[&str]) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        error: String,
        error_description: Option<String>,
    }
    match serde_json::from_slice(body) {
        Ok(Complaint { error, error_description: Some(description) }) => {
            words(format!("{error}: {description}").as_bytes(), secrets)
        }
        Ok(Complaint { error, error_description: None }) => words(error.as_bytes(), secrets),
        Err(_) => words(body, secrets),
    }
}

/// Whether these are the characters of a bearer token (RFC 6750 section 2.1).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/=".contains(c))
}

/// For a form (application/x-www-form-urlencoded).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What a token says about itself, if it is a JWT: not verified, for messages only.
#[derive(Debug, Default, Deserialize)]
pub struct Claims {
    /// Who it is for: what brokers take for the user, unless they are told otherwise (`sasl.oauthbearer.sub.claim.name`).
    pub sub: Option<String>,
    exp: Option<f64>,
}

impl Claims {
    /// The claims of a token; none, if it is no JWT.
    pub fn of(token: &str) -> Self {
        let payload =
            token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok());
        payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
    }

    /// For how long it has been too old; `None` if it is not, or does not say.
    pub fn expired_for(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = Duration::try_from_secs_f64(self.exp?.max(0.0)).ok()?;
        now.checked_sub(expiry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_what_it_says_about_itself_and_may_say_nothing() {
        let payload = |claims: &str| format!("e30.{}.", URL_SAFE_NO_PAD.encode(claims));
        let claims = Claims::of(&payload(r#"{"sub":"diffluent","exp":1000.5}"#));
        assert_eq!(claims.sub.as_deref(), Some("diffluent"));
        assert!(claims.expired_for().is_some());
        assert!(Claims::of(&payload(r#"{"exp":32503680000}"#)).expired_for().is_none());
        for opaque in ["", "abc", "a.b.c", "..", &payload(r#"{"exp":-1e308}"#), &payload(r#"{"exp":1e308}"#)] {
            let claims = Claims::of(opaque);
            assert!(claims.sub.is_none(), "{opaque}");
            let _ = claims.expired_for();
        }
    }

    #[test]
    fn an_endpoint_that_repeats_the_clients_secret_is_quoted_without_it() {
        let told = complaint(br#"{"error":"invalid_client","error_description":"hunter2 is wrong"}"#, &["hunter2"]);
        assert_eq!(told, "invalid_client: (a secret) is wrong");
        assert_eq!(complaint(b"Basic bWU6aA==?", &["hunter2", "bWU6aA=="]), "Basic (a secret)?");
    }

    #[test]
    fn what_goes_into_a_form_is_encoded() {
        assert_eq!(encoded("a b&c=d/é~"), "a%20b%26c%3Dd%2F%C3%A9~");
        assert!(is_token("abc-._~+/=") && !is_token("") && !is_token("a\x01b") && !is_token("a b"));
    }
}
