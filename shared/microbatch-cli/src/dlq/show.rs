//! `microbatch dlq show`: messages one by one, with what the idempotency table knows of each.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::letter::{Letter, Reason, Why};
use super::list::{seen, seen_max};
use super::sweep::{Selection, look};
use crate::args::{Format, Show};
use crate::exit::{Exit, Failure};
use crate::explain::status::Status;
use crate::operate::place;
use crate::operate::stop::Stop;
use crate::operate::store::{self, Keys, Table};
use crate::operate::times::{now_ms, when_and_ago};
use crate::terminal;

pub(super) async fn run(args: Show, stop: &Stop) -> Result<Exit, Failure> {
    let place = place::find(&args.letters.queue, &args.places).await?;
    let table = store::open(&args.records, &args.places, Some(&place)).await?;
    let joined = match &table {
        None => Err("no idempotency table is named: say it by --table".to_owned()),
        Some(table) => match store::keys(&args.records, Some(&place), &table.options).await? {
            Ok(keys) => Ok((table, keys)),
            Err(what) => Err(what),
        },
    };
    if let Err(what) = &joined {
        terminal::note(&format!("the store's status is not shown: {what}"));
    }
    let depth = place::depth(&place).await;
    let selection = Selection::new(&args.letters.filter, &args.letters.ids);
    let looked = look(&place, stop, &selection, seen_max(args.max)).await?;
    let limit = seen_max(args.limit);
    let mut shown = Vec::new();
    for letter in looked.letters.iter().take(limit) {
        if stop.heard().is_some() {
            break;
        }
        let status = match &joined {
            Ok((table, keys)) => Some(status(table, keys, letter).await?),
            Err(_) => None,
        };
        match args.format {
            Format::Text => print(&text(letter, status.as_ref(), args.body))?,
            Format::Json => shown.push(to_json(letter, status.as_ref(), args.body)),
        }
    }
    if matches!(args.format, Format::Json) {
        print(&json!({"queue": place.url, "seen": looked.seen, "messages": shown}).to_string())?;
    }
    let count = looked.letters.len();
    terminal::line(&seen(&place, looked.seen, count, depth, args.max));
    if count > limit {
        terminal::line(&format!("{} of them are not shown; --limit N shows more", count - limit));
    }
    if looked.missing > 0 {
        terminal::line(&format!("{} of the ids that were asked for did not come", looked.missing));
    }
    Ok(stop.heard().unwrap_or(Exit::Done))
}

fn print(text: &str) -> Result<(), Failure> {
    terminal::output(text.as_bytes()).map_err(Failure::environment)
}

/// What the table knows of a message, or why it has no key.
async fn status(table: &Table, keys: &Keys, letter: &Letter) -> Result<Result<Status, String>, Failure> {
    let identity = match keys.identify(&letter.as_first_received()) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Ok(Err("it runs without idempotency".to_owned())),
        Err(why) => return Ok(Err(why)),
    };
    let found = table.read(&identity.key).await;
    if let Err(error) = &found
        && error.kind() != microbatch::store::StoreErrorKind::Malformed
    {
        return Err(Failure::environment(format!("the table {} cannot be read: {error}", table.name)));
    }
    Ok(Ok(Status::new(&identity, &found, &table.options, now_ms()).of(letter)))
}

fn text(letter: &Letter, status: Option<&Result<Status, String>>, with_body: bool) -> String {
    let now_ms = now_ms();
    let time = |at_ms: Option<u64>| at_ms.map_or_else(|| "?".to_owned(), |at_ms| when_and_ago(at_ms, now_ms));
    let times = |count: Option<u64>| match count {
        None => "? times".to_owned(),
        Some(1) => "once".to_owned(),
        Some(count) => format!("{count} times"),
    };
    let mut lines = vec![format!("message     {}", terminal::tame(&letter.id, 200))];
    let mut add = |name: &str, text: String| lines.push(format!("  {name:<12}{text}"));
    add("code", format!("{} ({})", letter.why.code(), letter.why.words()));
    if let Some(reason) = letter.why.reason() {
        if let Some(error_type) = &reason.error_type {
            add("error type", error_type.clone());
        }
        let from = reason.queue.as_deref().and_then(|arn| arn.rsplit(':').next()).unwrap_or("?");
        let first_id = reason.message_id.as_deref().unwrap_or("?");
        let received = times(reason.receive_count);
        add("parked", format!("{} from {from}, where it was {first_id}, received {received}", time(reason.parked_ms)));
        add("first seen", time(reason.first_seen_ms));
    }
    add("sent", time(letter.sent_ms()));
    add("received", format!("{} here", times(letter.receive_count())));
    let names = letter.attribute_names();
    let names = if names.is_empty() { "no attributes".to_owned() } else { format!("attributes {}", names.join(" ")) };
    let group = if letter.group().is_some() { ", in a message group" } else { "" };
    add("content", format!("{} bytes of body, {names}{group}", letter.body().len()));
    match status {
        None => {}
        Some(Err(why)) => add("no key", why.clone()),
        Some(Ok(status)) => status.lines(now_ms).into_iter().for_each(|line| {
            let (name, text) = line.split_at(line.len().min(12));
            add(name.trim_end(), text.to_owned());
        }),
    }
    if with_body {
        add("body", shown_body(letter.body()));
    }
    lines.join("\n")
}

/// On a terminal without characters that would steer it.
fn shown_body(body: &str) -> String {
    if std::io::stdout().is_terminal() { terminal::tame(body, usize::MAX) } else { body.to_owned() }
}

fn to_json(letter: &Letter, status: Option<&Result<Status, String>>, with_body: bool) -> Value {
    let (record, no_key) = match status {
        None => (None, None),
        Some(Ok(status)) => (Some(status.to_json()), None),
        Some(Err(why)) => (None, Some(why)),
    };
    let mut value = json!({
        "message_id": letter.id,
        "code": letter.why.code(),
        "reason": letter.why.reason().map(reason_to_json),
        "readable": letter.why != Why::Unreadable,
        "sent_ms": letter.sent_ms(),
        "receive_count": letter.receive_count(),
        "body_bytes": letter.body().len(),
        "attributes": letter.attribute_names(),
        "has_group": letter.group().is_some(),
        "record": record,
        "no_key": no_key,
    });
    if with_body {
        value["body"] = letter.body().into();
    }
    value
}

fn reason_to_json(reason: &Reason) -> Value {
    let Reason { kind, code, error_type, queue, message_id, receive_count, first_seen_ms, parked_ms } = reason;
    json!({
        "kind": kind, "code": code, "error_type": error_type, "queue": queue, "message_id": message_id,
        "receive_count": receive_count, "first_seen_ms": first_seen_ms, "parked_ms": parked_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::{PARKED, letter};
    use super::*;

    /// P13: what the sender wrote is shown only where that is asked for.
    #[test]
    fn p13_bodies_are_shown_only_when_asked_for() {
        for reason in [Some(PARKED), Some("canary"), None] {
            let letter = letter("m-1", reason, 60);
            let without = format!("{}{}", text(&letter, None, false), to_json(&letter, None, false));
            assert!(!without.contains("canary"), "{without}");
            assert!(text(&letter, None, true).contains("canary"));
            assert_eq!(to_json(&letter, None, true)["body"], "canary");
        }
    }

    #[test]
    fn a_parked_message_says_why_from_where_and_under_which_id() {
        let text = text(&letter("m-1", Some(PARKED), 60), Some(&Err("no JSON".to_owned())), false);
        for part in [
            "message     m-1",
            "invalid_order (permanent)",
            "from orders, where it was m-0, received 2 times",
            "no key      no JSON",
            "6 bytes",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
