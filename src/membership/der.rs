//! The little DER (X.690) that certificates of this house need beside their parser: strict reading
//! of nested values, and writing.
//!
//! Lengths are definite and minimal, at most 65,535. Nothing here panics on any bytes.

pub const SEQUENCE: u8 = 0x30;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const UTF8_STRING: u8 = 0x0C;

/// One value: tag, length, content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 4);
    out.push(tag);
    let len = u16::try_from(content.len()).expect("certificates stay below their limit");
    match len.to_be_bytes() {
        [0, low @ 0..=0x7F] => out.push(low),
        [0, low] => out.extend_from_slice(&[0x81, low]),
        long => {
            out.push(0x82);
            out.extend_from_slice(&long);
        }
    }
    out.extend_from_slice(content);
    out
}

/// An unsigned integer from big-endian bytes.
pub fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let mut content = Vec::with_capacity(bytes.len() + 1);
    if bytes.get(start).is_none_or(|first| first & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(&bytes[start..]);
    value(INTEGER, &content)
}

/// Takes the content of a value with this tag from the front of `input`; `None` where there is
/// none in its one encoding.
pub fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7F => (usize::from(*first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    let minimal = match first {
        0x81 => len > 0x7F,
        0x82 => len > 0xFF,
        _ => true,
    };
    if *found != tag || !minimal || rest.len() < len {
        return None;
    }
    let (content, rest) = rest.split_at(len);
    *input = rest;
    Some(content)
}

/// An unsigned integer of at most 32 bytes as 32 bytes, big-endian.
pub fn take_unsigned_32(input: &mut &[u8]) -> Option<[u8; 32]> {
    let content = take(input, INTEGER)?;
    let digits = match content {
        [0, second, ..] if second & 0x80 == 0 => return None,
        [0, digits @ ..] => digits,
        [first, ..] if first & 0x80 == 0 => content,
        _ => return None,
    };
    let mut out = [0; 32];
    out[32usize.checked_sub(digits.len())?..].copy_from_slice(digits);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aim: what is written is read back, and no second encoding of it is accepted.
    #[test]
    fn lengths_are_minimal() {
        for len in [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF] {
            let der = value(SEQUENCE, &vec![7; len]);
            let mut input = &der[..];
            assert_eq!(take(&mut input, SEQUENCE).map(<[u8]>::len), Some(len));
            assert!(input.is_empty());
        }
        for padded in [&[0x30, 0x81, 1, 0][..], &[0x30, 0x82, 0, 1, 0], &[0x30, 0x80], &[0x30]] {
            assert_eq!(take(&mut &padded[..], SEQUENCE), None);
        }
    }

    /// Aim: integers have one encoding, and a negative or oversize one is refused.
    #[test]
    fn integers_are_minimal_and_unsigned() {
        let mut number = [0; 32];
        for top in [0, 1, 0x7F, 0x80, 0xFF] {
            number[0] = top;
            let der = unsigned(&number);
            assert_eq!(take_unsigned_32(&mut &der[..]), Some(number));
        }
        for bad in [&[2, 0][..], &[2, 1, 0x80], &[2, 2, 0, 1]] {
            assert_eq!(take_unsigned_32(&mut &bad[..]), None);
        }
        assert_eq!(take_unsigned_32(&mut &value(INTEGER, &[1; 33])[..]), None);
    }
}
