//! Finds the bytes that mean something in JSON text, eight at a time: bodies are JSON within JSON, where quotes and backslashes
//! stand so close that a search for each costs more in setting out than in finding.
//!
//! A mark is the high bit of a byte's place in a word. Marks above the lowest may be wrong, as a subtraction may borrow from
//! the byte before; the lowest is right, and is the only one that counts ("Bit Twiddling Hacks", "Determine if a word has a
//! zero byte", <https://graphics.stanford.edu/~seander/bithacks.html>).

/// Bytes in a word.
const WORD_BYTES: usize = 8;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
/// Means nothing in a string.
const FILLER: u8 = b'_';

/// How many bytes stand before the first backslash: all, where there is none.
pub(crate) fn before_backslash(bytes: &[u8]) -> usize {
    before(bytes, |word| equal(word, b'\\'))
}

/// How many bytes stand before the first quote, backslash or control character: all, where there is none.
pub(crate) fn before_special(bytes: &[u8]) -> usize {
    before(bytes, |word| equal(word, b'"') | equal(word, b'\\') | below_space(word))
}

/// Copies what stands before the first backslash to the start of `to`, which is at least as long as `from`, and says how many
/// bytes that is. What is in `to` behind them is of no use.
///
/// In the pass that looks, word by word: runs are too short to be worth a call that copies each.
pub(crate) fn copy_before_backslash(from: &[u8], to: &mut [u8]) -> usize {
    let mut copied = 0;
    while let Some(word) = word_at(from, copied) {
        to[copied..copied + WORD_BYTES].copy_from_slice(&word.to_le_bytes());
        let marks = equal(word, b'\\');
        if marks != 0 {
            return copied + first(marks);
        }
        copied += WORD_BYTES;
    }
    let rest = &from[copied..];
    let length = rest.iter().position(|byte| *byte == b'\\').unwrap_or(rest.len());
    to[copied..copied + length].copy_from_slice(&rest[..length]);
    copied + length
}

fn before(bytes: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    let mut at = 0;
    while let Some(word) = word_at(bytes, at) {
        let marks = marks(word);
        if marks != 0 {
            return at + first(marks);
        }
        at += WORD_BYTES;
    }
    let rest = &bytes[at..];
    let mut last = [FILLER; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    let marks = marks(u64::from_le_bytes(last));
    if marks == 0 { bytes.len() } else { at + first(marks) }
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The place of the lowest mark.
fn first(marks: u64) -> usize {
    (marks.trailing_zeros() / u8::BITS) as usize
}

/// Marks the bytes that are this one.
fn equal(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (LOW_BITS * u64::from(byte));
    zero_where_equal.wrapping_sub(LOW_BITS) & !zero_where_equal & HIGH_BITS
}

/// Marks the bytes below the space: control characters.
fn below_space(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS * u64::from(b' ')) & !word & HIGH_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_eight_at_a_time_is_what_is_found_one_by_one(
            bytes in prop::collection::vec(prop_oneof![Just(b'\\'), Just(b'"'), Just(b'\n'), any::<u8>()], 0..40),
            plain in 0_usize..24,
        ) {
            // Much plain text before, so that the first is met in any place of any word.
            let bytes = [vec![b'a'; plain], bytes].concat();
            let before = |found: fn(&u8) -> bool| bytes.iter().position(found).unwrap_or(bytes.len());
            let before_first = before(|byte| *byte == b'\\');
            prop_assert_eq!(before_backslash(&bytes), before_first);
            prop_assert_eq!(before_special(&bytes), before(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)));
            let mut to = vec![0; bytes.len()];
            prop_assert_eq!(copy_before_backslash(&bytes, &mut to), before_first);
            prop_assert_eq!(&to[..before_first], &bytes[..before_first]);
        }
    }
}
