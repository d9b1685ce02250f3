//! Java's .properties files, as `java.util.Properties.load` reads them.
//!
//! # References
//! <https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html#load(java.io.Reader)>

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// The longest file that is read: a thousand times what people write.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// A property with the line that it begins in, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its value.
    pub value: String,
    /// Where it stands.
    pub line: usize,
}

/// Reads a file's bytes, which are ISO 8859-1 as in Java: a character each. Of a key that stands there twice, the last one counts.
///
/// # Errors
/// [`Malformed`], only for a `\u` without four hexadecimal digits behind it: all else is a property.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Property>, Malformed> {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let mut properties = BTreeMap::new();
    for (line, text) in logical_lines(&text) {
        let (key, value) = split(&text).map_err(|what| Malformed { line, what })?;
        properties.insert(key, Property { value, line });
    }
    Ok(properties)
}

/// White space, as these files have it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// Lines without comments, blank ones and line ends, those that go on put together, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n').zip(1..);
    let mut logical = Vec::new();
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches(is_space);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while goes_on(&whole) {
            whole.pop();
            let Some((next, _)) = lines.next() else { break };
            whole.push_str(next.trim_start_matches(is_space));
        }
        logical.push((number, whole));
    }
    logical
}

/// Whether the line ends with a backslash that is not itself escaped.
fn goes_on(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// Key and value of a logical line.
fn split(line: &str) -> Result<(String, String), String> {
    let mut chars = line.chars().peekable();
    let key = unescaped(&mut chars, |c| is_space(c) || c == '=' || c == ':')?;
    while chars.next_if(|c| is_space(*c)).is_some() {}
    if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
        while chars.next_if(|c| is_space(*c)).is_some() {}
    }
    Ok((key, unescaped(&mut chars, |_| false)?))
}

/// What stands before the first character that `ends`, without its escapes.
fn unescaped(chars: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Result<String, String> {
    let mut units: Vec<u16> = Vec::new();
    let push = |units: &mut Vec<u16>, c: char| units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    while let Some(c) = chars.next_if(|c| !ends(*c)) {
        if c != '\\' {
            push(&mut units, c);
            continue;
        }
        match chars.next() {
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                units.push(unit.ok_or_else(|| {
                    format!("\\u{digits} is no character: four hexadecimal digits belong behind \\u")
                })?);
            }
            Some('t') => push(&mut units, '\t'),
            Some('n') => push(&mut units, '\n'),
            Some('r') => push(&mut units, '\r'),
            Some('f') => push(&mut units, '\u{c}'),
            Some(other) => push(&mut units, other),
            None => {}
        }
    }
    // Java's characters are halves of pairs, too: what is no pair can't be shown.
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text.as_bytes()).unwrap().into_iter().map(|(key, property)| (key, property.value)).collect()
    }

    fn one(text: &str, key: &str, value: &str) {
        assert_eq!(pairs(text), [(key.to_owned(), value.to_owned())], "{text:?}");
    }

    #[test]
    fn a_line_is_read_as_java_reads_it() {
        for text in
            ["a=b", "a:b", "a b", "a\tb", " a = b", "a  :  b", "\u{c}a b", "a=b\r", "a=b\r\n", "\n\n#c\n!d\n  # e\na=b"]
        {
            one(text, "a", "b");
        }
        one("a", "a", "");
        one("a=", "a", "");
        one("= b", "", "b");
        one("a = b = c : d ", "a", "b = c : d ");
        one("a==b", "a", "=b");
        one("A->B.topics = .*", "A->B.topics", ".*");
        one("a#b = c # d", "a#b", "c # d");
        one("a=1\na=2", "a", "2");
    }

    #[test]
    fn a_backslash_escapes_and_at_the_end_goes_on() {
        one("a = b, \\\n    c", "a", "b, c");
        assert_eq!(pairs("a = b\\\\\nc = d"), [("a".to_owned(), "b\\".to_owned()), ("c".to_owned(), "d".to_owned())]);
        one("a\\ b\\=c\\:d = e", "a b=c:d", "e");
        one("a = \\t\\n\\r\\f\\q\\\"", "a", "\t\n\r\u{c}q\"");
        one("a = \\u00e9\\u20AC", "a", "é€");
        one("a = \\ud83d\\ude00", "a", "😀");
        one("a = b\\", "a", "b");
        // A comment can't go on, and a line that goes on is no comment.
        one("# b \\\na = c", "a", "c");
        one("a = b\\\n# c", "a", "b# c");
    }

    #[test]
    fn a_broken_escape_is_named_by_its_line() {
        let error = parse(b"a = b\n\nc = \\u12x4").unwrap_err();
        assert_eq!((error.line, error.what.contains("\\u12x4")), (3, true), "{error}");
        assert_eq!(parse(b"a = b\\\nc\nd = \\u1").unwrap_err().line, 3);
    }

    #[test]
    fn bytes_above_127_are_latin_1() {
        assert_eq!(parse(b"a = \xe9").unwrap()["a"], Property { value: "\u{e9}".into(), line: 1 });
    }
}
