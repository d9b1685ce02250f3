//! One login, as the tokens that go to and fro. No I/O: rsasl speaks the mechanisms, this file puts bounds around it.

use rsasl::callback::{CallbackError, Context, Request, SessionCallback, SessionData};
use rsasl::config::SASLConfig;
use rsasl::mechanisms::scram::properties::Iterations;
use rsasl::mechname::Mechname;
use rsasl::prelude::{Mechanism as RsaslMechanism, Registry, SASLClient, Session, SessionError, State};
use rsasl::property::{AuthId, OAuthBearerKV, OAuthBearerToken, Password};

use crate::config::Mechanism;

/// A password is hashed so often at least: Kafka's own minimum. Less would let whoever plays the broker guess the password cheaply.
pub const ITERATIONS_MIN: u32 = 4096;
/// And at most: 2 s of one core, with SHA-512. Kafka allows 16,384.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// Challenges longer than this are none. Kafka's are some hundred bytes.
const CHALLENGE_BYTES_MAX: usize = 64 * 1024;
/// So much of what a broker says is told to people.
const WORDS_CHARS_MAX: usize = 300;

/// What a login is made with.
#[derive(Clone)]
pub enum Credentials {
    /// For PLAIN and SCRAM.
    Password {
        /// The user.
        username: String,
        /// The user's password.
        password: String,
    },
    /// For OAUTHBEARER.
    Token {
        /// The token.
        token: String,
        /// Extensions (KIP-342).
        extensions: Vec<(String, String)>,
    },
}

impl Credentials {
    /// What nobody else may read.
    pub fn secret(&self) -> &str {
        match self {
            Credentials::Password { password, .. } => password,
            Credentials::Token { token, .. } => token,
        }
    }

    /// The token, if it is one.
    pub fn token(&self) -> Option<&str> {
        match self {
            Credentials::Password { .. } => None,
            Credentials::Token { token, .. } => Some(token),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// What follows a challenge.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This is said.
    Say(Vec<u8>),
    /// The login is complete on this side; with SCRAM, the broker has proven that it knows the password too.
    Done,
}

/// One login.
pub struct Exchange {
    mechanism: Mechanism,
    /// Not to be told, whoever says it.
    secret: String,
    session: Session,
    finished: bool,
}

impl Exchange {
    /// Begins a login, and gives what is said first.
    ///
    /// # Errors
    /// In words, when the credentials can't be used with the mechanism.
    pub fn begin(mechanism: Mechanism, credentials: Credentials) -> Result<(Self, Vec<u8>), String> {
        let secret = credentials.secret().to_owned();
        let registry = Registry::with_mechanisms(registry(mechanism));
        let config = SASLConfig::builder().with_registry(registry).with_callback(Callback(credentials));
        let name = Mechname::parse(mechanism.as_str().as_bytes()).map_err(|error| error.to_string())?;
        let session = config.and_then(|config| SASLClient::new(config).start_suggested(&[name]));
        let session = session.map_err(|error| error.to_string())?;
        let mut exchange = Self { mechanism, secret, session, finished: false };
        let first = exchange.step(None)?;
        Ok((exchange, first))
    }

    /// Takes what the broker says.
    ///
    /// # Errors
    /// In words, when it is not what the mechanism allows, or the broker does not know the password. Nothing more is to be said then.
    pub fn next(&mut self, challenge: &[u8]) -> Result<Next, String> {
        if challenge.len() > CHALLENGE_BYTES_MAX {
            return Err(format!("its challenge has {} bytes", challenge.len()));
        }
        if self.finished {
            return Ok(Next::Done);
        }
        if self.mechanism == Mechanism::OauthBearer && !challenge.is_empty() {
            // RFC 7628 section 3.2.2: a token that is not taken is answered with the reason.
            return Err(format!("it says {}", words(challenge, &[&self.secret])));
        }
        let is_scram = matches!(self.mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha512);
        // Each part is a letter, `=` and a value (RFC 5802); rsasl 2.3.1 panics on a shorter one.
        if is_scram && challenge.split(|byte| *byte == b',').any(|part| part.len() < 2) {
            return Err("its challenge is malformed".to_owned());
        }
        let answer = self.step(Some(challenge))?;
        Ok(if self.finished { Next::Done } else { Next::Say(answer) })
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Vec<u8>, String> {
        let mut answer = Vec::new();
        match self.session.step(challenge, &mut answer) {
            Ok(State::Running) => {}
            Ok(State::Finished(_)) => self.finished = true,
            Err(SessionError::MutualAuthenticationFailed) => return Err("it does not know the password itself".into()),
            Err(SessionError::CallbackError(_)) => {
                return Err(format!(
                    "it wants the password hashed less than {ITERATIONS_MIN} or more than {ITERATIONS_MAX} times"
                ));
            }
            // It may hold some of the challenge.
            Err(error) => return Err(words(error.to_string().as_bytes(), &[&self.secret])),
        }
        Ok(answer)
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// What a peer says, for people: printable, not too long, and without the `secrets` that it was told: it may repeat them, and this goes into logs.
pub fn words(said: &[u8], secrets: &[&str]) -> String {
    let printable = |text: &str| text.replace(char::is_control, " ");
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    // Before it is cut: a part of a secret would not be found.
    let text = secrets
        .fold(printable(&String::from_utf8_lossy(said)), |text, secret| text.replace(&printable(secret), "(a secret)"));
    text.chars().take(WORDS_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// The one mechanism that may be chosen.
fn registry(mechanism: Mechanism) -> &'static [RsaslMechanism] {
    use rsasl::mechanisms::{oauthbearer::OAUTHBEARER, plain::PLAIN, scram::SCRAM_SHA256, scram::SCRAM_SHA512};
    static ALONE: [RsaslMechanism; 4] = [PLAIN, SCRAM_SHA256, SCRAM_SHA512, OAUTHBEARER];
    let [plain, scram_sha_256, scram_sha_512, oauth_bearer] = &ALONE;
    std::slice::from_ref(match mechanism {
        Mechanism::Plain => plain,
        Mechanism::ScramSha256 => scram_sha_256,
        Mechanism::ScramSha512 => scram_sha_512,
        Mechanism::OauthBearer => oauth_bearer,
    })
}

/// Hands the credentials to rsasl.
struct Callback(Credentials);

impl SessionCallback for Callback {
    fn callback(&self, _: &SessionData, context: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        match &self.0 {
            Credentials::Password { username, password } => {
                request.satisfy::<AuthId>(username)?;
                if request.is::<Password>() {
                    if let Some(iterations) = context.get_ref::<Iterations>()
                        && !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(iterations)
                    {
                        return Err(SessionError::CallbackError(CallbackError::NoValue));
                    }
                    request.satisfy::<Password>(password.as_bytes())?;
                }
            }
            Credentials::Token { token, extensions } => {
                request.satisfy::<OAuthBearerToken>(token)?;
                if !extensions.is_empty() && request.is::<OAuthBearerKV>() {
                    let pairs: Vec<(&str, &str)> =
                        extensions.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                    request.satisfy::<OAuthBearerKV>(&pairs)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_repeats_a_secret_is_quoted_without_it() {
        assert_eq!(words(b"no hunter2\0for me, hunter2", &["hunter2"]), "no (a secret) for me, (a secret)");
        assert_eq!(words(b"no a\x07b", &["a\x07b", ""]), "no (a secret)");
        // Also where it would be cut.
        let long = format!("{}hunter2", "x".repeat(WORDS_CHARS_MAX - 3));
        assert!(!words(long.as_bytes(), &["hunter2"]).contains("hun"));
    }

    #[test]
    fn a_token_that_is_refused_in_its_own_words_is_not_told() {
        let credentials = Credentials::Token { token: "hunter2".into(), extensions: Vec::new() };
        let (mut exchange, _) = Exchange::begin(Mechanism::OauthBearer, credentials).expect("a token");
        let refused = exchange.next(br#"{"status":"invalid_token","token":"hunter2"}"#).expect_err("refused");
        assert_eq!(refused, r#"it says {"status":"invalid_token","token":"(a secret)"}"#);
    }
}
