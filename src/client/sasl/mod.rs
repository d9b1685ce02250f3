//! Logging in: how diffluent's own connections prove to a broker who they are.
//!
//! ```text
//! config ──► Sasl ──► token (OAUTHBEARER) ──► exchange ──► Connection: SaslHandshake, SaslAuthenticate
//! ```
//!
//! Owns the mechanisms, the tokens, and the words for what goes wrong. Secrets are read when they are needed and kept by nobody. What clients send when they
//! log in never comes through here: their sessions forward it.
//!
//! # References
//! KIP-152 (SaslAuthenticate), KIP-368 (re-authentication), KIP-255 and KIP-342 (OAUTHBEARER), KIP-84 (SCRAM).

pub mod endpoint;
pub mod exchange;
pub mod token;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

use super::apis::Call;
use super::error_code;
use crate::config::{self, Mechanism};
use crate::net::tls::TlsError;
use endpoint::Endpoint;
use exchange::{Credentials, Exchange, Next, words};
use token::{Claims, TokenError, Tokens};

/// Two logins of one connection are at least this far apart: a broker takes no more than one a second (KIP-368).
const LOGIN_SPACING: Duration = Duration::from_millis(1100);

/// More rounds than any mechanism has.
const ROUNDS_MAX: usize = 8;

impl Call for SaslAuthenticateRequest {
    type Message = Self;
    type Answer = SaslAuthenticateResponse;
    const NAME: &'static str = "SaslAuthenticate";
    const KEY: i16 = 36;
    const VERSION: i16 = 2;
    const SHAPE: &'static str = "2ss8t";

    fn message(&self) -> &Self {
        self
    }
}

/// Why a broker does not let diffluent in, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SaslError {
    /// A secret is not where it should be.
    #[error("[{table}] {key}: {reason}")]
    Secret {
        /// The table of proxy.toml.
        table: Arc<str>,
        /// The key.
        key: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The authorities of the token endpoint can't be used.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// There is no token.
    #[error("[{table}]: {source}")]
    Token {
        /// The table of proxy.toml.
        table: Arc<str>,
        /// Why.
        source: TokenError,
    },
    /// The listener has other mechanisms.
    #[error(
        "it does not offer {}, but {}; set `mechanism` in [{table}] to one of these, or add it to the listener's sasl.enabled.mechanisms",
        mechanism.as_str(),
        if offered.is_empty() { "none" } else { offered }
    )]
    NotOffered {
        /// The table of proxy.toml.
        table: Arc<str>,
        /// What is configured.
        mechanism: Mechanism,
        /// What the broker has, separated by commas.
        offered: String,
    },
    /// The listener does not ask for a login.
    #[error("this listener takes no SASL; name the brokers' SASL listener in bootstrap_servers, or remove [{table}]")]
    NotWanted {
        /// The table of proxy.toml.
        table: Arc<str>,
    },
    /// The credentials are not taken.
    #[error("it refuses {who} ({}): {said}; {advice}", mechanism.as_str())]
    Refused {
        /// The mechanism.
        mechanism: Mechanism,
        /// Who wanted in.
        who: String,
        /// What the broker says.
        said: String,
        /// What to do.
        advice: String,
    },
    /// What it says is not what the mechanism allows: a defect, or somebody else in the broker's place.
    #[error("what it says is no {}: {reason}; see that it is the broker that you mean", mechanism.as_str())]
    Wrong {
        /// The mechanism.
        mechanism: Mechanism,
        /// What is wrong.
        reason: String,
    },
}

/// What connections to one cluster log in with.
#[derive(Debug)]
pub struct Sasl {
    table: Arc<str>,
    config: config::Sasl,
    tokens: Option<Tokens>,
    /// What the last token said of whom it is for.
    subject: Mutex<Option<String>>,
}

/// A login under way, on one connection.
pub(super) struct Login<'a> {
    sasl: &'a Sasl,
    /// `None` only while another thread has it.
    exchange: Option<Exchange>,
    credentials: Credentials,
    rounds: usize,
}

/// What a login's next step is.
pub(super) enum Step {
    /// This goes to the broker.
    Say(Vec<u8>),
    /// Logged in; after this time, if there is one, again.
    Done(Option<Duration>),
}

impl Sasl {
    /// What `[table]` of proxy.toml says. `deadline` is for asking a token endpoint.
    pub fn new(table: &str, config: &config::Sasl, deadline: Duration) -> Self {
        let tokens = match (&config.token, &config.token_endpoint, &config.client_secret) {
            (Some(token), ..) => Some(Tokens::Kept(token.clone())),
            (None, Some(url), Some(secret)) => {
                let (url, ca) = (url.clone(), config.token_endpoint_ca.clone());
                let endpoint = Endpoint { url, ca, table: Arc::from(table), deadline };
                let client_id = config.client_id.clone().unwrap_or_default();
                Some(Tokens::asked(endpoint, client_id, secret.clone(), config.scope.clone()))
            }
            _ => None,
        };
        Self { table: Arc::from(table), config: config.clone(), tokens, subject: Mutex::default() }
    }

    /// The mechanism.
    pub fn mechanism(&self) -> Mechanism {
        self.config.mechanism
    }

    /// Who brokers take diffluent for (`User:...`), unless they are told to map names; as far as it is known here.
    pub fn principal(&self) -> String {
        let subject = || self.subject.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let user = self.config.username.clone().or_else(subject).or_else(|| self.config.client_id.clone());
        user.map_or_else(|| "User:<the token's subject>".to_owned(), |user| format!("User:{user}"))
    }

    /// Whether all secrets are where they should be, and the authorities of a token endpoint.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_files(&self) -> Result<(), SaslError> {
        let config = &self.config;
        for (key, secret) in
            [("password", &config.password), ("token", &config.token), ("client_secret", &config.client_secret)]
        {
            if let Some(secret) = secret {
                secret.read().map_err(|error| self.secret(key, &error))?;
            }
        }
        if let Some(Tokens::Asked(asked)) = &self.tokens {
            asked.endpoint().way()?;
        }
        Ok(())
    }

    fn secret(&self, key: &'static str, error: &config::SecretError) -> SaslError {
        SaslError::Secret { table: self.table.clone(), key, reason: error.to_string() }
    }

    async fn credentials(&self) -> Result<Credentials, SaslError> {
        let config = &self.config;
        if let Some(tokens) = &self.tokens {
            let token = tokens.token().await.map_err(|source| match source {
                TokenError::Place(reason) => SaslError::Secret {
                    table: self.table.clone(),
                    key: if config.token.is_some() { "token" } else { "client_secret" },
                    reason,
                },
                source => SaslError::Token { table: self.table.clone(), source },
            })?;
            *self.subject.lock().unwrap_or_else(PoisonError::into_inner) = Claims::of(&token).sub;
            let extensions = config.extensions.clone().into_iter().collect();
            return Ok(Credentials::Token { token, extensions });
        }
        let password = match &config.password {
            Some(password) => password.read().map_err(|error| self.secret("password", &error))?,
            None => String::new(),
        };
        Ok(Credentials::Password { username: config.username.clone().unwrap_or_default(), password })
    }

    /// Begins a login, and gives what is said first.
    pub(super) async fn login(&self) -> Result<(Login<'_>, Vec<u8>), SaslError> {
        let credentials = self.credentials().await?;
        let begun = Exchange::begin(self.config.mechanism, credentials.clone());
        let (exchange, first) = begun.map_err(|reason| self.unusable(&reason))?;
        Ok((Login { sasl: self, exchange: Some(exchange), credentials, rounds: 0 }, first))
    }

    /// The handshake's answer.
    pub(super) fn offered(&self, code: i16, offered: &[String]) -> Result<(), SaslError> {
        match code {
            0 => Ok(()),
            error_code::ILLEGAL_SASL_STATE => Err(SaslError::NotWanted { table: self.table.clone() }),
            error_code::UNSUPPORTED_SASL_MECHANISM => Err(SaslError::NotOffered {
                table: self.table.clone(),
                mechanism: self.config.mechanism,
                offered: words(offered.join(", ").as_bytes(), &[]),
            }),
            code => Err(self.wrong(&format!("SaslHandshake: {}", error_code::describe(code)))),
        }
    }

    fn wrong(&self, reason: &str) -> SaslError {
        SaslError::Wrong { mechanism: self.config.mechanism, reason: reason.to_owned() }
    }

    fn unusable(&self, reason: &str) -> SaslError {
        SaslError::Refused {
            mechanism: self.config.mechanism,
            who: self.who(),
            said: format!("they can't be used: {reason}"),
            advice: format!("correct [{}]", self.table),
        }
    }

    fn who(&self) -> String {
        match (&self.config.username, &self.config.client_id) {
            (Some(user), _) => format!("user {user:?}"),
            (None, Some(client)) => format!("the token of client {client:?}"),
            (None, None) => "the token".to_owned(),
        }
    }

    fn refused(&self, said: &str, token: Option<&str>) -> SaslError {
        let table = &self.table;
        let advice = match token.map(Claims::of) {
            None => format!("correct username and password in [{table}], or make the user known to the cluster"),
            Some(claims) => match claims.expired_for() {
                Some(age) => {
                    format!(
                        "the token has expired {} s ago: see that whoever writes it renews it in time",
                        age.as_secs()
                    )
                }
                None => "the brokers' logs say why; mostly it is the token's issuer, audience, scope or signature"
                    .to_owned(),
            },
        };
        SaslError::Refused { mechanism: self.config.mechanism, who: self.who(), said: said.to_owned(), advice }
    }
}

impl Login<'_> {
    /// Takes the broker's answer.
    pub(super) async fn answered(&mut self, answer: SaslAuthenticateResponse) -> Result<Step, SaslError> {
        self.rounds += 1;
        if answer.error_code != 0 {
            let said = answer.error_message.as_deref().unwrap_or_default();
            let said = words(said.as_bytes(), &[self.credentials.secret()]);
            let said = if said.is_empty() { error_code::describe(answer.error_code) } else { said };
            return Err(self.refuse(&said).await);
        }
        if self.rounds > ROUNDS_MAX {
            return Err(self.sasl.wrong("it never comes to an end"));
        }
        // Hashing a password takes milliseconds, or more if the broker wants more: no client's session waits for that.
        let (challenge, mechanism) = (answer.auth_bytes, self.sasl.mechanism());
        let Some(mut exchange) = self.exchange.take() else { return Err(self.sasl.wrong("it goes on after the end")) };
        let stepped = tokio::task::spawn_blocking(move || (exchange.next(&challenge), exchange)).await;
        let Ok((next, exchange)) = stepped else { return Err(self.sasl.wrong("it makes the exchange fail")) };
        self.exchange = Some(exchange);
        match next {
            Ok(Next::Say(said)) => Ok(Step::Say(said)),
            Ok(Next::Done) => Ok(Step::Done(again_after(answer.session_lifetime_ms))),
            Err(reason) if mechanism == Mechanism::OauthBearer => Err(self.refuse(&reason).await),
            Err(reason) => Err(self.sasl.wrong(&reason)),
        }
    }

    async fn refuse(&self, said: &str) -> SaslError {
        let token = self.credentials.token();
        if let (Some(tokens), Some(token)) = (&self.sasl.tokens, token) {
            tokens.refused(token).await;
        }
        self.sasl.refused(said, token)
    }
}

/// After which time a session of this lifetime is to be renewed; `None`: it lasts.
fn again_after(lifetime_ms: i64) -> Option<Duration> {
    let lifetime = Duration::from_millis(u64::try_from(lifetime_ms).ok().filter(|ms| *ms > 0)?);
    Some((lifetime * 4 / 5).max(LOGIN_SPACING))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    #[tokio::test]
    async fn a_broker_that_repeats_the_password_is_quoted_without_it() {
        let config = toml::from_str("mechanism = \"PLAIN\"\nusername = \"me\"\npassword = \"hunter2\"");
        let sasl = Sasl::new("local.sasl", &config.expect("a table"), Duration::from_secs(1));
        let (mut login, _) = sasl.login().await.expect("a login");
        let said = StrBytes::from_static_str("bad credentials: me/hunter2");
        let answer = SaslAuthenticateResponse::default().with_error_code(58).with_error_message(Some(said));
        let refused = login.answered(answer).await.err().expect("refused").to_string();
        assert!(refused.contains("bad credentials: me/(a secret)") && !refused.contains("hunter2"), "{refused}");
    }
}
