//! `microbatch resolve`: an operator's word on a key.

use microbatch::Key;
use microbatch::decode::Identity;
use microbatch::record::Record;
use microbatch::resolve::{self, Resolution, Resolve as _, ResolveAnswer, ResolveRequest, Trace, Untouched};

use crate::args::{Records, Resolve};
use crate::exit::{Exit, Failure};
use crate::explain::status::Status;
use crate::operate::ask::{ask, check};
use crate::operate::stop::Stop;
use crate::operate::store::{self, Table};
use crate::operate::times::{now_ms, when_and_ago};
use crate::terminal;

/// Longest name in a trace.
const NAME_CHARS_MAX: usize = 100;

/// Runs the subcommand.
pub(crate) async fn run(args: Resolve, stop: &Stop) -> Result<Exit, Failure> {
    let key = args.key.trim().to_owned();
    let Some((namespace, _)) =
        key.split_once('#').filter(|(namespace, digest)| !namespace.is_empty() && !digest.is_empty())
    else {
        return Err(Failure::usage("expected a key of the form namespace#digest; `explain` and `dlq show` print it"));
    };
    let by = name(args.by.as_deref())?;
    check(args.yes)?;
    let records = Records {
        table: args.table.clone(),
        function: Some(args.function.clone().unwrap_or_else(|| namespace.to_owned())),
        ..Records::default()
    };
    let table = store::open(&records, &args.places, None).await?;
    let table = table.ok_or_else(|| Failure::usage(store::WHICH_TABLE))?;
    let to =
        if args.completed { Resolution::Completed } else { Resolution::Retry { undo_completed: args.undo_completed } };
    let key = Key::from_stored(key);
    let shown = show(&table, &key).await?;
    if let Err(untouched) = resolve::decide(shown.as_ref(), to, 0, now_ms()) {
        return leave(untouched);
    }
    if shown.is_none() && !is_digest(key.as_str()) {
        let message = "nothing was changed: there is no record of this key, and it does not look like one that a function makes \
                       (namespace#, then 64 hexadecimal digits); is it mistyped?";
        return Err(Failure::usage(message));
    }
    if !args.yes && !ask(&question(to, shown.as_ref()), stop).await? {
        terminal::line("nothing was changed");
        return Ok(stop.heard().unwrap_or(Exit::Done));
    }
    write(&table, key, shown, to, &by).await
}

/// Whether what follows the namespace is a digest that a function makes: SHA-256, or Powertools' MD5.
fn is_digest(key: &str) -> bool {
    let digest = key.rsplit('#').next().unwrap_or_default();
    matches!(digest.len(), 32 | 64) && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Prints what is known of the key; gives its record.
async fn show(table: &Table, key: &Key) -> Result<Option<Record>, Failure> {
    let found = table.read(key).await;
    let identity = Identity { key: key.clone(), fingerprint: None, previous: None };
    if found.is_ok() {
        for line in Status::new(&identity, &found, &table.options, now_ms()).lines(now_ms()) {
            // What to do is what the operator is doing.
            if !line.starts_with("do ") {
                terminal::line(&line);
            }
        }
    }
    let found = found.map_err(|error| Failure::environment(format!("nothing was changed: {error}")))?;
    Ok(found.map(|(record, _)| record))
}

async fn write(table: &Table, key: Key, shown: Option<Record>, to: Resolution, by: &str) -> Result<Exit, Failure> {
    let now_ms = now_ms();
    let trace = Trace::new(to, now_ms, by, shown.as_ref());
    let retention_end_s = now_ms / 1_000 + table.options.retention_s;
    let request = ResolveRequest { key, shown, to, retention_end_s, trace };
    let answer = table.store.resolve(now_ms, &request).await;
    match answer.map_err(|error| Failure::environment(format!("it is not known to be changed, look again: {error}")))? {
        ResolveAnswer::Written(_) => {
            terminal::line(match to {
                Resolution::Completed => {
                    "done: deliveries of it are duplicates from now on; its messages may be redriven or purged"
                }
                Resolution::Retry { .. } => {
                    "done: the next delivery runs it; redrive its message if it is in a dead-letter queue"
                }
            });
            Ok(Exit::Done)
        }
        ResolveAnswer::Untouched(untouched) => leave(untouched),
        ResolveAnswer::Changed => Err(Failure::environment(
            "nothing was changed: the record is no longer the one that was shown; look at it again",
        )),
    }
}

/// There is nothing to write: as is well, or not as asked.
fn leave(untouched: Untouched) -> Result<Exit, Failure> {
    let words = match untouched {
        Untouched::AlreadyCompleted => "it is completed already: there is nothing to do".to_owned(),
        Untouched::AlreadyFree => "it was given back already, and the next delivery runs it: there is nothing to do".to_owned(),
        Untouched::NoRecord => "there is no record that counts, and the next delivery runs it: there is nothing to do".to_owned(),
        Untouched::Completed => {
            "nothing was changed: its work is done, and a retry would let its effect happen a second time; if that is what you \
             want, say --undo-completed too"
                .to_owned()
        }
        Untouched::Leased { until_ms } => format!(
            "nothing was changed: a claim holds the key and may be working on it; its lease ends {}",
            when_and_ago(until_ms, now_ms())
        ),
        other => format!("nothing was changed: {other:?}"),
    };
    if untouched.is_as_asked() {
        terminal::line(&words);
        return Ok(Exit::Done);
    }
    Err(Failure::usage(words))
}

fn question(to: Resolution, shown: Option<&Record>) -> String {
    match (to, shown) {
        (Resolution::Completed, None) => {
            "There is no record. Make one that says its work is done, so that it never runs?"
        }
        (Resolution::Completed, Some(_)) => "Mark its work as done, so that it never runs again?",
        (Resolution::Retry { undo_completed: true }, Some(record))
            if record.status == microbatch::record::Status::Completed =>
        {
            "Its work is done. Let it run again, so that its EFFECT HAPPENS A SECOND TIME?"
        }
        (Resolution::Retry { .. }, _) => {
            "Let the next delivery run it again? Its effect happens twice if it has happened already."
        }
    }
    .to_owned()
}

/// Who does it: as named, else the login name.
fn name(by: Option<&str>) -> Result<String, Failure> {
    let login = || ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok());
    let name = by.map(str::to_owned).or_else(login).unwrap_or_default().trim().to_owned();
    if name.is_empty() {
        return Err(Failure::usage("who resolves it? Your login name is not known; name yourself by --by NAME"));
    }
    if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "--by: expected a name of at most {NAME_CHARS_MAX} characters in one line"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_of_text() {
        assert_eq!(name(Some(" maria ")).ok().as_deref(), Some("maria"));
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert!(name(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mistyped_key_does_not_look_like_one() {
        let digest = "a1".repeat(32);
        assert!(is_digest(&format!("n#{digest}")) && is_digest(&format!("n#{}", &digest[..32])));
        for mistyped in [
            "n#",
            "n#k",
            &format!("n#{digest}x"),
            &format!("n#{}", &digest[1..]),
            &format!("n#{}", digest.to_uppercase()),
        ] {
            assert!(!is_digest(mistyped), "{mistyped}");
        }
    }

    #[test]
    fn what_is_not_as_asked_is_an_error() {
        for refused in [Untouched::Leased { until_ms: 5 }, Untouched::Completed] {
            let failure = leave(refused).expect_err("it is refused");
            assert!(failure.exit == Exit::Usage && failure.message.starts_with("nothing was changed"), "{failure:?}");
        }
        for fine in [Untouched::AlreadyCompleted, Untouched::AlreadyFree, Untouched::NoRecord] {
            assert_eq!(leave(fine).expect("it is fine"), Exit::Done);
        }
    }
}
