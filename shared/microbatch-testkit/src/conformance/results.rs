//! Results: rule 11 and P5.

use microbatch::{Commit, NoWrites, record::StoredResult, transition::ClaimAnswer};

use super::case::{Case, Checked, duplicate, expect, kept};

/// Each would be another text after a parser, a normaliser or a trimming store had its hands on it.
const TEXTS: [&str; 14] = [
    "null",
    "\"\"",
    "{ \"b\" : 1,\n\t\"a\":[ ] , \"a\": 2 }",
    " 1 ",
    "1.0",
    "-0",
    "1e400",
    "123456789012345678901234567890.123456789",
    r#""\u00e9 \/ \\ \" \ud83d\ude00 \u0000 \b""#,
    "\"\u{e9} e\u{301} \u{1F600}\u{200D}\u{1F525} \u{FEFF}\u{FFFD}\u{10FFFF} \u{2028}\u{7F}\"",
    "\"\u{202E}\u{5D0} \u{A0} ''; -- <&> {} :old #data\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    "{\"S\":\"text\",\"N\":\"1\",\"NULL\":true}",
    "true\r\n",
];

pub(super) async fn none_is_none<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let done = case.completed(&StoredResult::None).await?;
    expect("a duplicate's answer", case.ask(case.now_ms, &done.key).await?, duplicate(&StoredResult::None))
}

pub(super) async fn every_byte_is_kept<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for text in TEXTS {
        expect_replay(&case, text).await?;
    }
    Ok(())
}

pub(super) async fn a_large_result_is_kept<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    const BYTES: usize = 300 * 1024;
    for unit in ["a", "\u{1F600}", "\\\"", "\\u0000"] {
        let text = format!("\"{}\"", unit.repeat((BYTES - 2) / unit.len()));
        expect_replay(&case, &text).await?;
    }
    Ok(())
}

pub(super) async fn the_marker_is_kept<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let done = case.completed(&StoredResult::NotKept).await?;
    expect("a duplicate's answer", case.ask(case.now_ms, &done.key).await?, duplicate(&StoredResult::NotKept))?;
    // It goes with the record that it belongs to.
    let later_ms = (done.retention_end_s + 1) * 1_000;
    let claim = case.request_at(later_ms, &done.key);
    case.win(later_ms, &claim).await?;
    case.complete(later_ms, &claim, &StoredResult::None).await?;
    expect("the next record's duplicate", case.ask(later_ms, &done.key).await?, duplicate(&StoredResult::None))
}

async fn expect_replay<S: Commit<NoWrites>>(case: &Case<S>, text: &str) -> Checked {
    const SHOWN_CHARS: usize = 100;
    let done = case.completed(&kept(text)).await?;
    match case.ask(case.now_ms, &done.key).await? {
        ClaimAnswer::Duplicate { result: StoredResult::Kept(found), .. } if *found == *text => Ok(()),
        ClaimAnswer::Duplicate { result: StoredResult::Kept(found), .. } => {
            let start = |text: &str| text.chars().take(SHOWN_CHARS).collect::<String>();
            let (expected, length) = (start(text), text.len());
            Err(format!("expected {expected:?}, {length} bytes, found {:?}, {} bytes", start(&found), found.len()))
        }
        other => Err(format!("expected a result of {} bytes, found {other:?}", text.len())),
    }
}
