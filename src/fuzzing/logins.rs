//! What a broker, or who plays one, says when diffluent logs in.

use arbitrary::{Result, Unstructured};

use super::messages::rest;
use crate::client::sasl::exchange::{Credentials, Exchange, Next};
use crate::config::Mechanism;

/// A challenge: like SCRAM's, with some of it wrong, or anything.
fn challenge(u: &mut Unstructured<'_>, nonce: &str) -> Result<Vec<u8>> {
    if u.ratio(1, 4)? {
        return Ok(rest(u)?.to_vec());
    }
    let nonce = if u.ratio(7, 8)? { nonce } else { "another" };
    let more = u.choose(&["abc", "", "a,b", "é", "\0"])?;
    let salt = u.choose(&["c2FsdA==", "", "=", "c2FsdA", "!"])?;
    // A count that is taken costs milliseconds.
    let counts = ["4095", "1000001", "0", "-1", "4294967296", "x", "", "99999999999999999999"];
    let count = if u.ratio(1, 64)? { "4096" } else { u.choose(&counts)? };
    let said = match u.int_in_range(0..=5)? {
        0..=2 => format!("r={nonce}{more},s={salt},i={count}"),
        3 => format!("v={salt}"),
        4 => format!("e={more}"),
        _ => format!("i={count},s={salt},r={nonce}{more}"),
    };
    Ok(said.into_bytes())
}

pub(super) fn login(u: &mut Unstructured<'_>) -> Result<()> {
    let mechanism =
        *u.choose(&[Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512, Mechanism::OauthBearer])?;
    let credentials = match mechanism {
        Mechanism::OauthBearer => Credentials::Token { token: "hunter2".into(), extensions: Vec::new() },
        _ => Credentials::Password { username: "me=,".into(), password: "hunter2".into() },
    };
    let (mut exchange, first) = Exchange::begin(mechanism, credentials).expect("these credentials can be used");
    let first = String::from_utf8_lossy(&first).into_owned();
    let nonce = first.split("r=").nth(1).unwrap_or_default().to_owned();
    let is_scram = matches!(mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha512);
    assert!(!is_scram || first.starts_with("n,,n=me=3D=2C,r=") && !first.contains("hunter2"), "{first}");
    for _ in 0..4 {
        let challenge = challenge(u, &nonce)?;
        match exchange.next(&challenge) {
            Ok(Next::Done) => {
                // Nobody here knows the password, so nobody can prove that.
                assert!(!is_scram, "let in by {challenge:?}");
                assert!(mechanism == Mechanism::Plain || challenge.is_empty(), "{challenge:?}");
                return Ok(());
            }
            Ok(Next::Say(said)) => {
                assert!(!String::from_utf8_lossy(&said).contains("hunter2"));
            }
            Err(reason) => {
                assert!(!reason.is_empty() && reason.len() < 2000 && !reason.contains("hunter2"), "{reason}");
                return Ok(());
            }
        }
    }
    Ok(())
}
