//! Reads a process's output line by line, each line bounded.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A log line is cut beyond this; Lambda's own limit for a log event is 256 KB.
const LINE_LIMIT_BYTES: usize = 64 * 1024;

/// Calls `each` for every line until the pipe closes. Bytes that are no UTF-8 are replaced, long lines are cut.
pub(crate) async fn read_lines<R: AsyncRead + Unpin>(pipe: R, mut each: impl FnMut(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        let (used, complete) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(buffer) => {
                let end = buffer.iter().position(|&byte| byte == b'\n');
                let part = &buffer[..end.unwrap_or(buffer.len())];
                let room = LINE_LIMIT_BYTES - line.len();
                line.extend_from_slice(&part[..part.len().min(room)]);
                (end.map_or(buffer.len(), |end| end + 1), end.is_some())
            }
        };
        reader.consume(used);
        if complete {
            each(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            line.clear();
        }
    }
    if !line.is_empty() {
        each(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        read_lines(bytes, |line| lines.push(line.to_owned())).await;
        lines
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_at_the_end() {
        assert_eq!(lines_of(b"one\r\n\ntwo").await, ["one", "", "two"]);
        assert!(lines_of(b"").await.is_empty());
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 3 * LINE_LIMIT_BYTES];
        text.extend_from_slice(b"\nnext\n");
        let lines = lines_of(&text).await;
        assert_eq!(lines[0].len(), LINE_LIMIT_BYTES);
        assert_eq!(lines[1], "next");
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(lines_of(b"\xff\xfe\n").await, ["\u{fffd}\u{fffd}"]);
    }
}
