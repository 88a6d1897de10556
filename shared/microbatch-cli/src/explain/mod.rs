//! `microbatch explain`: what the idempotency table knows of a key or a message, and what to do.

pub(crate) mod status;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_sdk_sqs::types::Message;
use microbatch::Key;
use microbatch::decode::Identity;
use serde_json::json;

use self::status::Status;
use crate::args::{Explain, Format};
use crate::dlq::letter::Letter;
use crate::dlq::sweep::{Selection, look};
use crate::exit::{Exit, Failure};
use crate::operate::place;
use crate::operate::stop::Stop;
use crate::operate::store::{self, Keys, Table};
use crate::operate::times::now_ms;
use crate::terminal;

/// Most messages that are looked at to find one.
const LOOK_MAX: usize = 10_000;
/// Bytes of a body that is read: the most that SQS takes.
const BODY_BYTES_MAX: u64 = 1_048_576;

/// Runs the subcommand.
pub(crate) async fn run(args: Explain, stop: &Stop) -> Result<Exit, Failure> {
    let subject = args.subject.as_deref().unwrap_or_default().trim();
    if let Some((namespace, digest)) = subject.split_once('#') {
        if namespace.is_empty() || digest.is_empty() {
            return Err(Failure::usage("expected a key of the form namespace#digest, as the table holds it"));
        }
        // SHA-256 or, in Powertools' format, MD5.
        if ![64, 32].contains(&digest.len()) || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            terminal::note("what follows # is no digest of 64 or 32 hex digits: is the key whole?");
        }
        let mut records = args.records.clone();
        // A function's default namespace is its name.
        records.function.get_or_insert_with(|| namespace.to_owned());
        let table = table(&records, &args, None).await?;
        return tell(&table, &of_key(subject), None, args.format).await;
    }
    if let Some(path) = &args.body {
        let message = Message::builder().message_id("-").receipt_handle("-").body(read(path)?).build();
        let table = table(&args.records, &args, None).await?;
        let keys = keys(&args, &table, None).await?;
        return tell(&table, &of_message(&keys, &message)?, None, args.format).await;
    }
    let Some(queue) = &args.queue else {
        let message =
            "expected a key (namespace#digest); for a message's id name the dead-letter queue that holds it by --queue";
        return Err(Failure::usage(message));
    };
    let place = place::find(queue, &args.places).await?;
    let selection = Selection::new(&crate::args::Filter::default(), &[subject.to_owned()]);
    let looked = look(&place, stop, &selection, LOOK_MAX).await?;
    let Some(letter) = looked.letters.first() else {
        if let Some(exit) = stop.heard() {
            return Ok(exit);
        }
        let (seen, name) = (looked.seen, place.name());
        return Err(Failure::usage(format!("{name} holds no message of this id, of {seen} looked at")));
    };
    let table = table(&args.records, &args, Some(&place)).await?;
    let keys = keys(&args, &table, Some(&place)).await?;
    tell(&table, &of_message(&keys, &letter.as_first_received())?, Some(letter), args.format).await
}

async fn table(records: &crate::args::Records, args: &Explain, place: Option<&place::Place>) -> Result<Table, Failure> {
    let table = store::open(records, &args.places, place).await?;
    table.ok_or_else(|| Failure::usage(store::WHICH_TABLE))
}

async fn keys(args: &Explain, table: &Table, place: Option<&place::Place>) -> Result<Keys, Failure> {
    store::keys(&args.records, place, &table.options).await?.map_err(Failure::usage)
}

fn of_key(key: &str) -> Identity {
    Identity { key: Key::from_stored(key), fingerprint: None, previous: None }
}

fn of_message(keys: &Keys, message: &Message) -> Result<Identity, Failure> {
    let identity = keys.identify(message).map_err(|why| Failure::usage(format!("the message has no key: {why}")))?;
    identity.ok_or_else(|| Failure::usage("the message has no key, and runs without idempotency"))
}

/// Reads the key's record and says what it means.
async fn tell(table: &Table, identity: &Identity, letter: Option<&Letter>, format: Format) -> Result<Exit, Failure> {
    let found = table.read(&identity.key).await;
    if let Err(error) = &found
        && error.kind() != microbatch::store::StoreErrorKind::Malformed
    {
        return Err(Failure::environment(format!("the table {} cannot be read: {error}", table.name)));
    }
    let mut status = Status::new(identity, &found, &table.options, now_ms());
    if let Some(letter) = letter {
        status = status.of(letter);
    }
    let text = match format {
        Format::Text => status.lines(now_ms()).join("\n"),
        Format::Json => json!({"message_id": letter.map(|letter| &letter.id), "record": status.to_json()}).to_string(),
    };
    terminal::output(text.as_bytes()).map_err(Failure::environment)?;
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let done = if is_stdin {
        io::stdin().lock().take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    done.map_err(|error| Failure::usage(format!("{name} cannot be read: {error}")))?;
    if bytes.len() as u64 > BODY_BYTES_MAX {
        return Err(Failure::usage(format!("{name}: expected a body of at most {BODY_BYTES_MAX} bytes, found more")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{name}: expected a body in UTF-8, found other bytes")))
}
