//! The shape of an answer, checked before the protocol crate decodes it.
//!
//! `kafka-protocol` believes an array's length before it has seen the elements: a lying one aborts the process. So every
//! answer to our own client is walked first, along a shape: a short text with one letter a field. All shapes are of flexible
//! versions (KIP-482).
//!
//! | letter | field |
//! |---|---|
//! | `1` `2` `4` `8` `u` | fixed, so many bytes; `u` is a uuid of 16 |
//! | `s` | compact string or compact bytes, nullable |
//! | `[`…`]` | compact array, nullable, of what is inside |
//! | `t` | tagged fields, skipped by their sizes |
//! | `t<`number`=`shape`,`…`>` | tagged fields, of which these are known: such a field is of its shape and exactly of its size |
//!
//! Every tagged field that the crate decodes in that version must be named: it decodes such a field without looking at its size, and so would read on at
//! another place than was checked here.

/// An answer that does not have the shape it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is cut short or malformed")]
pub struct Misshapen;

/// Checks that `bytes` begin with a value of `shape` (see the module's table).
///
/// # Errors
/// [`Misshapen`] if a length points behind the end. Never allocates.
///
/// # Panics
/// On a letter that is not in the table: shapes are ours, not a peer's.
pub fn check(shape: &str, bytes: &[u8]) -> Result<(), Misshapen> {
    let mut rest = bytes;
    walk(shape.as_bytes(), &mut rest)
}

fn walk(shape: &[u8], rest: &mut &[u8]) -> Result<(), Misshapen> {
    let mut at = 0;
    while at < shape.len() {
        match shape[at] {
            b'1' => skip(rest, 1)?,
            b'2' => skip(rest, 2)?,
            b'4' => skip(rest, 4)?,
            b'8' => skip(rest, 8)?,
            b'u' => skip(rest, 16)?,
            b's' => {
                let length = uvarint(rest)?;
                skip(rest, length.saturating_sub(1))?;
            }
            b't' => {
                let known = known_fields(shape, at);
                for _ in 0..uvarint(rest)? {
                    let number = uvarint(rest)?;
                    let size = uvarint(rest)?;
                    let mut field = rest.get(..size).ok_or(Misshapen)?;
                    skip(rest, size)?;
                    if let Some(inside) = known_field(known, number) {
                        walk(inside, &mut field)?;
                        if !field.is_empty() {
                            return Err(Misshapen);
                        }
                    }
                }
                if !known.is_empty() {
                    // And the brackets.
                    at += known.len() + 2;
                }
            }
            b'[' => {
                let inside = &shape[at + 1..closing(shape, at)];
                for _ in 1..uvarint(rest)? {
                    walk(inside, rest)?;
                }
                at = closing(shape, at);
            }
            other => panic!("no such letter in a shape: {}", char::from(other)),
        }
        at += 1;
    }
    Ok(())
}

/// What stands in angle brackets behind the `t` at `at`.
fn known_fields(shape: &[u8], at: usize) -> &[u8] {
    match shape.get(at + 1..) {
        Some([b'<', list @ ..]) => list.split(|letter| *letter == b'>').next().unwrap_or_default(),
        _ => &[],
    }
}

/// The shape of a tagged field, if it is known. Numbers have one digit.
fn known_field(known: &[u8], number: usize) -> Option<&[u8]> {
    known.split(|letter| *letter == b',').find_map(|field| match field {
        [digit, b'=', inside @ ..] if number == usize::from(digit.wrapping_sub(b'0')) => Some(inside),
        _ => None,
    })
}

/// The index of the bracket that closes the one at `open`.
fn closing(shape: &[u8], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in shape.iter().enumerate().skip(open) {
        match letter {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a shape has an open bracket")
}

fn skip(rest: &mut &[u8], bytes: usize) -> Result<(), Misshapen> {
    *rest = rest.get(bytes..).ok_or(Misshapen)?;
    Ok(())
}

fn uvarint(rest: &mut &[u8]) -> Result<usize, Misshapen> {
    let mut value = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *rest.first().ok_or(Misshapen)?;
        *rest = &rest[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| Misshapen);
        }
    }
    Err(Misshapen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_shape_passes() {
        // i16, an array of two {string, nullable string}, tags with one field.
        let bytes = [0, 1, 3, 2, b'a', 0, 1, 0, 1, 5, 2, 9, 9];
        assert_eq!(check("2[ss]t", &bytes), Ok(()));
    }

    #[test]
    fn a_lying_length_is_found_at_every_level() {
        assert_eq!(check("[4]", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1]), Err(Misshapen));
        assert_eq!(check("s", &[9, b'a']), Err(Misshapen));
        assert_eq!(check("t", &[1, 0, 4, 1]), Err(Misshapen));
        assert_eq!(check("t", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err(Misshapen));
        assert_eq!(check("[[8]t]", &[2, 3, 0, 0, 0, 0, 0, 0, 0, 1]), Err(Misshapen));
    }

    #[test]
    fn a_known_tagged_field_is_of_its_shape_and_size() {
        let shape = "t<0=2,2=4t>1";
        assert_eq!(check(shape, &[0, 9]), Ok(()));
        assert_eq!(check(shape, &[3, 0, 2, 7, 7, 1, 1, 5, 2, 5, 0, 0, 0, 1, 0, 9]), Ok(()));
        assert_eq!(check(shape, &[1, 0, 3, 7, 7, 7, 9]), Err(Misshapen));
        assert_eq!(check(shape, &[1, 0, 1, 7, 9]), Err(Misshapen));
        assert_eq!(check(shape, &[1, 2, 5, 0, 0, 0, 1, 1, 9]), Err(Misshapen));
        assert_eq!(check("[t<0=2>]1", &[3, 0, 1, 0, 2, 7, 7, 9]), Ok(()));
    }

    #[test]
    fn a_null_array_or_string_is_empty() {
        assert_eq!(check("[8]s2", &[0, 0, 7, 7]), Ok(()));
    }
}
