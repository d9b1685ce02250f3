//! proxy.toml: any text is read, or refused with a reason.

use arbitrary::{Result, Unstructured};

use super::messages::rest;
use crate::config::Config;

/// The annotated example, which has every key.
const ANNOTATED: &str = include_str!("../../proxy.toml");

/// What stands where a value should.
const VALUES: [&str; 24] = [
    "\"0 B\"",
    "\"99999999999999999999 GiB\"",
    "\"-1 s\"",
    "\"10 s\"",
    "\"1 h\"",
    "\"0 ms\"",
    "-1",
    "0",
    "9223372036854775808",
    "1e400",
    "nan",
    "true",
    "[]",
    "[\"a:1\", \"b:2\"]",
    "{ a = { b = [[[[]]]] } }",
    "\"\"",
    "\"[::1]:9092\"",
    "\"h:0\"",
    "\"9100-9100\"",
    "\"65535-1\"",
    "\"(a{99}){99}\"",
    "\"{topic}.{topic}\"",
    "\"\\u0000é\"",
    "\"latest\"",
];

/// The example with some of its lines changed, or any text.
fn text(u: &mut Unstructured<'_>) -> Result<String> {
    if u.ratio(1, 8)? {
        return Ok(String::from_utf8_lossy(rest(u)?).into_owned());
    }
    let mut lines: Vec<String> = ANNOTATED.lines().map(str::to_owned).collect();
    for _ in 0..u.int_in_range(0..=8)? {
        let at = u.choose_index(lines.len())?;
        let line = lines[at].clone();
        match u.int_in_range(0..=6)? {
            // Most keys are commented out.
            0 | 1 => lines[at] = line.trim_start_matches("# ").to_owned(),
            2 | 3 => {
                let key = line.trim_start_matches("# ").split('=').next().unwrap_or_default();
                lines[at] = format!("{key}= {}", u.choose(&VALUES)?);
            }
            4 => lines.insert(at, line),
            5 if lines.len() > 1 => drop(lines.remove(at)),
            _ => {
                let cut = u.choose_index(line.len() + 1)?;
                let (front, back) = line.split_at_checked(cut).unwrap_or((&line, ""));
                lines[at] = format!("{front}{}{back}", char::from(u.arbitrary::<u8>()?));
            }
        }
    }
    Ok(lines.join("\n"))
}

pub(super) fn any(u: &mut Unstructured<'_>) -> Result<()> {
    let text = text(u)?;
    match Config::parse("proxy.toml", &text) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("what was read can be written");
            let again = Config::parse("proxy.toml", &written).unwrap_or_else(|error| panic!("{error}\n{written}"));
            // Secrets are not written.
            assert_eq!(toml::to_string(&again).expect("as before"), written);
        }
        Err(error) => {
            for line in error.to_string().lines().filter(|line| !line.starts_with(' ')) {
                assert!(line.starts_with("proxy.toml"), "without the file: {error}");
            }
        }
    }
    Ok(())
}
