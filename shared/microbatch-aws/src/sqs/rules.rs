//! What SQS takes, by its API reference and the developer guide's page on message attributes.

/// Most message attributes of one message.
pub(super) const ATTRIBUTES_MAX: usize = 10;
/// Longest name of an attribute, and longest data type, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest message group id and deduplication id, in characters.
const ID_CHARS_MAX: usize = 128;

/// The name of the queue that a URL names: its last part. It holds no secret, unlike the rest of a URL may.
///
/// ```
/// use microbatch_aws::sqs::queue_name;
///
/// assert_eq!(queue_name("https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo"), "orders.fifo");
/// ```
pub fn queue_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether the queue that a URL names is a FIFO queue: the name of every FIFO queue ends in `.fifo`, and of no other.
pub fn is_fifo(url: &str) -> bool {
    queue_name(url).as_bytes().ends_with(b".fifo")
}

/// Whether a body or a string attribute is taken unchanged: not empty, and only characters that XML 1.0 can hold. Others
/// are refused or, by a part of the documentation, replaced.
pub(super) fn is_text(text: &str) -> bool {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    !text.is_empty() && text.chars().all(allowed)
}

/// Whether an attribute may have this name.
pub(super) fn is_attribute_name(name: &str) -> bool {
    let reserved = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !reserved("AWS.")
        && !reserved("Amazon.")
}

/// Whether this is a data type for a value that is text, or one that is bytes: with or without a label, as `Number.int`.
pub(super) fn is_data_type(data_type: &str, binary: bool) -> bool {
    let kind = data_type.split('.').next().unwrap_or_default();
    let fits = if binary { kind == "Binary" } else { matches!(kind, "String" | "Number") };
    fits && data_type.len() <= NAME_BYTES_MAX && is_text(data_type)
}

/// Whether this can be a message group id or a deduplication id: up to 128 ASCII letters, digits and punctuation marks.
pub(super) fn is_id(id: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_the_url() {
        for (url, name) in [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "orders"),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", "orders.fifo"),
            ("http://user:secret@127.0.0.1:4566/000000000000/orders/?token=secret#secret", "orders"),
            ("orders", "orders"),
            ("", ""),
            ("https://", "https:"),
        ] {
            assert_eq!(queue_name(url), name, "{url}");
        }
    }

    #[test]
    fn only_the_suffix_of_the_name_makes_a_fifo_queue() {
        for (url, fifo) in [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", true),
            ("orders.fifo/", true),
            ("orders.fifo?x=1", true),
            ("https://sqs.fifo/123456789012/orders", false),
            ("orders.FIFO", false),
            ("orders-fifo", false),
            ("orders?x=.fifo", false),
            ("", false),
        ] {
            assert_eq!(is_fifo(url), fifo, "{url}");
        }
    }

    #[test]
    fn the_characters_that_sqs_takes_are_those_of_xml() {
        for text in ["a", "\t\n\r ~", "\u{7f}\u{85}", "\u{d7ff}\u{e000}\u{fffd}", "\u{10000}\u{1f600}\u{10ffff}"] {
            assert!(is_text(text), "{text:?}");
        }
        for text in ["", "\0", "a\u{8}", "\u{b}", "\u{c}", "\u{1f}", "\u{fffe}", "a\u{ffff}"] {
            assert!(!is_text(text), "{text:?}");
        }
    }

    #[test]
    fn attribute_names_and_types_are_those_that_sqs_takes() {
        for name in ["a", "a.b-c_9", "awsome", "AmazonIan", "AWS", &"x".repeat(256)] {
            assert!(is_attribute_name(name), "{name}");
        }
        for name in ["", ".a", "a.", "a..b", "aws.x", "AmaZon.x", "a b", "é", &"x".repeat(257)] {
            assert!(!is_attribute_name(name), "{name}");
        }
        for (data_type, binary) in [("String", false), ("Number", false), ("Number.int", false), ("Binary.gif", true)] {
            assert!(is_data_type(data_type, binary) && !is_data_type(data_type, !binary), "{data_type}");
        }
        for data_type in ["", "string", "Bool", "Stringy", "StringList", &format!("String.{}", "x".repeat(250))] {
            assert!(!is_data_type(data_type, false), "{data_type}");
        }
    }

    #[test]
    fn ids_are_graphic_ascii() {
        for id in ["a", "a-1!~", &"x".repeat(128)] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "a b", "é", "\n", &"x".repeat(129)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
