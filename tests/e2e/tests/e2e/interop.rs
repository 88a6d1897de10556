//! One table shared with the real Powertools for AWS Lambda (Python): what one side has done or is doing, the other
//! does not do again.

mod bench;
mod payloads;

use microbatch::Outcome;
use microbatch::key::{KeyFormat, KeyMaker, Selector};
use microbatch::record::Fingerprint;
use microbatch_aws::dynamodb::StoreCalls;

use self::bench::{Act, Ask, Bench, Ours, PREFIX, TableLayout, our_result, problem_with_key, their_result};

/// A body, another one with the same key, and that of which validation takes notice.
const BODY: &str = r#"{"id": "o-1", "v": {"amount": 12.50, "note": "café"}}"#;
const SAME: &str = r#"{"v":{"note":"caf\u00e9","amount":12.5},"id":"o-1","sent":"again"}"#;
const OTHER: &str = r#"{"id": "o-1", "v": {"amount": 12.75, "note": "café"}}"#;

/// How both sides are set up, with and without payload validation.
fn setups() -> [(Ask<'static>, Ours<'static>); 2] {
    [None, Some("v")].map(|validation| {
        (Ask { key: "id", validation, ..Ask::default() }, Ours { key: "id", validation, ..Ours::default() })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_powertools_has_completed_is_a_duplicate() {
    let mut bench = Bench::start().await;
    for (ask, ours) in setups() {
        for layout in [TableLayout::Default, TableLayout::Composite] {
            bench.next_table(layout).await;
            let theirs = bench.handle(&ask, BODY);
            assert_eq!((theirs.outcome.as_str(), theirs.runs), ("ran", 1));
            for calls in [StoreCalls::Batched, StoreCalls::Single] {
                let microbatch = bench.microbatch(&Ours { calls, ..ours });
                assert_eq!(microbatch.outcome(BODY).await, Outcome::Duplicate);
                assert_eq!(microbatch.outcome(SAME).await, Outcome::Duplicate);
                let other = if ours.validation.is_some() { Outcome::Conflict } else { Outcome::Duplicate };
                assert_eq!(microbatch.outcome(OTHER).await, other);
                assert_eq!(microbatch.runs(), 0);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_microbatch_has_completed_powertools_replays() {
    let mut bench = Bench::start().await;
    for (ask, ours) in setups() {
        for layout in [TableLayout::Default, TableLayout::Composite] {
            bench.next_table(layout).await;
            // Two to a request, and one.
            let more = ["o-2", "o-3"].map(|id| BODY.replace("o-1", id));
            let report = bench.microbatch(&ours).send(&[BODY, &more[0]]).await;
            assert!(report.items.iter().all(|item| item.outcome == Outcome::Processed), "{report:?}");
            let single = bench.microbatch(&Ours { calls: StoreCalls::Single, ..ours });
            assert_eq!(single.outcome(&more[1]).await, Outcome::Processed);
            for body in [BODY, SAME, &more[0], &more[1]] {
                let theirs = bench.handle(&ask, body);
                assert_eq!((theirs.outcome.as_str(), theirs.runs), ("replayed", 0));
                assert_eq!(theirs.result, our_result());
            }
            let other = bench.handle(&ask, OTHER);
            let expected = if ask.validation.is_some() { "IdempotencyValidationError" } else { "replayed" };
            assert_eq!((other.outcome.as_str(), other.runs), (expected, 0));
        }
    }
}

/// The recipe of Powertools' pages for a batch: one SQS record at a time, the key below the decoded body.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_processor_of_powertools_shares_its_keys() {
    let mut bench = Bench::start().await;
    let ask = Ask {
        key: "powertools_json(body).id",
        validation: Some("powertools_json(body).v"),
        recipe: Some("orders"),
        ..Ask::default()
    };
    let theirs = bench.handle(&ask, BODY);
    assert_eq!((theirs.outcome.as_str(), theirs.runs, theirs.result), ("ran", 1, their_result()));
    let microbatch =
        bench.microbatch(&Ours { key: "id", validation: Some("v"), prefix: Some("orders"), ..Ours::default() });
    assert_eq!(microbatch.outcome(SAME).await, Outcome::Duplicate);
    assert_eq!(microbatch.outcome(OTHER).await, Outcome::Conflict);
    let next = BODY.replace("o-1", "o-2");
    assert_eq!(microbatch.outcome(&next).await, Outcome::Processed);
    let theirs = bench.handle(&ask, &next);
    assert_eq!((theirs.outcome.as_str(), theirs.runs), ("replayed", 0));
}

/// With validation on one side only, records of the other are told apart, and not all of them work.
#[tokio::test(flavor = "multi_thread")]
async fn validation_on_one_side_only_is_not_compared_by_us_and_refused_by_them() {
    let [(plain_ask, plain), (validating_ask, validating)] = setups();
    let mut bench = Bench::start().await;
    assert_eq!(bench.handle(&validating_ask, BODY).outcome, "ran");
    let microbatch = bench.microbatch(&plain);
    let report = microbatch.send(&[OTHER]).await;
    assert_eq!((report.items[0].outcome, report.counts.fingerprints_not_compared), (Outcome::Duplicate, 1));

    let (ours, theirs) = (BODY.replace("o-1", "o-2"), BODY.replace("o-1", "o-3"));
    assert_eq!(microbatch.outcome(&ours).await, Outcome::Processed);
    assert_eq!(bench.handle(&validating_ask, &ours).outcome, "IdempotencyValidationError");
    assert_eq!(bench.handle(&plain_ask, &theirs).outcome, "ran");
    let report = bench.microbatch(&validating).send(&[&theirs]).await;
    assert_eq!((report.items[0].outcome, report.counts.fingerprints_not_compared), (Outcome::Duplicate, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_powertools_is_doing_is_busy_until_its_expiry() {
    let mut bench = Bench::start().await;
    for (ask, ours) in setups() {
        bench.next_table(TableLayout::Default).await;
        // While the handler runs, whatever the payload.
        bench.begin(&ask, BODY);
        let microbatch = bench.microbatch(&ours);
        assert_eq!(microbatch.outcome(SAME).await, Outcome::Busy);
        assert_eq!(microbatch.outcome(OTHER).await, Outcome::Busy);
        assert_eq!(bench.end("").outcome, "ran");
        assert_eq!(microbatch.outcome(SAME).await, Outcome::Duplicate);

        // After it was killed, until the expiry that it had announced.
        let body = BODY.replace("o-1", "o-2");
        let dies = Ask { act: "die", remaining_ms: Some(60_000), ..ask.clone() };
        assert_eq!(bench.handle(&dies, &body).outcome, "Killed");
        let at = |clock_ahead_ms| bench.microbatch(&Ours { clock_ahead_ms, ..ours });
        assert_eq!(at(50_000).outcome(&body).await, Outcome::Busy);
        let late = at(61_000);
        let other = body.replace("12.50", "13");
        let conflict = if ours.validation.is_some() { Outcome::Conflict } else { Outcome::Processed };
        assert_eq!(late.outcome(&other).await, conflict);
        let same = if ours.validation.is_some() { Outcome::Processed } else { Outcome::Duplicate };
        assert_eq!(late.outcome(&body).await, same);
        assert_eq!(late.runs(), 1);
        assert_eq!(bench.handle(&ask, if same == Outcome::Processed { &body } else { &other }).outcome, "replayed");

        // It deletes the record of what fails.
        let body = BODY.replace("o-1", "o-3");
        assert_eq!(bench.handle(&Ask { act: "fail", ..ask }, &body).outcome, "ValueError");
        assert_eq!(microbatch.outcome(&body).await, Outcome::Processed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_microbatch_is_doing_is_in_progress_for_powertools_until_its_lease_ends() {
    let mut bench = Bench::start().await;
    for (ask, ours) in setups() {
        bench.next_table(TableLayout::Default).await;
        let holding = bench.microbatch(&Ours { act: Act::Hold, ..ours });
        let run = tokio::spawn({
            let holding = holding.clone();
            async move { holding.outcome(BODY).await }
        });
        holding.started().await;
        let theirs = bench.handle(&ask, SAME);
        assert_eq!((theirs.outcome.as_str(), theirs.runs), ("IdempotencyAlreadyInProgressError", 0));
        holding.go_on();
        assert_eq!(run.await.expect("it runs to its end"), Outcome::Processed);
        assert_eq!(bench.handle(&ask, SAME).outcome, "replayed");

        // Killed in the middle, an hour ago by its own clock: its lease is over.
        let body = BODY.replace("o-1", "o-2");
        let killed = bench.microbatch(&Ours { act: Act::Hold, clock_ahead_ms: -3_600_000, ..ours });
        let run = tokio::spawn({
            let (killed, body) = (killed.clone(), body.clone());
            async move { killed.outcome(&body).await }
        });
        killed.started().await;
        run.abort();
        assert!(run.await.expect_err("it was killed").is_cancelled());
        let theirs = bench.handle(&ask, &body);
        assert_eq!((theirs.outcome.as_str(), theirs.runs), ("ran", 1));
        assert_eq!(bench.microbatch(&ours).outcome(&body).await, Outcome::Duplicate);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_microbatch_has_released_powertools_takes_at_once() {
    let mut bench = Bench::start().await;
    for (ask, ours) in setups() {
        bench.next_table(TableLayout::Default).await;
        assert_eq!(bench.microbatch(&Ours { act: Act::Fail, ..ours }).outcome(BODY).await, Outcome::Failed);
        // Another payload, too: what was released has left nothing to compare with.
        let theirs = bench.handle(&ask, OTHER);
        assert_eq!((theirs.outcome.as_str(), theirs.runs), ("ran", 1));
        assert_eq!(bench.microbatch(&ours).outcome(OTHER).await, Outcome::Duplicate);
    }
}

/// What sharing a table costs: their completion and deletion are unconditional, so an attempt of theirs that has lost its
/// lease changes our record. Nothing is acknowledged that was not recorded, but the effect happens once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_of_powertools_costs_a_run_and_no_message() {
    let (ask, ours) = setups()[1].clone();
    let mut bench = Bench::start().await;
    for (end, outcome) in [("fail", Outcome::Failed), ("", Outcome::Processed)] {
        let body = BODY.replace("o-1", &format!("late-{end}"));
        bench.begin(&Ask { remaining_ms: Some(-1_000), ..ask.clone() }, &body);
        let holding = bench.microbatch(&Ours { act: Act::Hold, ..ours });
        let run = tokio::spawn({
            let (holding, body) = (holding.clone(), body.clone());
            async move { holding.outcome(&body).await }
        });
        holding.started().await;
        bench.end(end);
        holding.go_on();
        assert_eq!(run.await.expect("it runs to its end"), outcome, "theirs ended with {end:?}");
    }
}

/// Every payload has the same key and hash on both sides, or microbatch refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_equal_or_refused() {
    let body = |value: &str| format!("{{\"id\":{value},\"v\":[{value}]}}");
    let mut equal = payloads::equal();
    equal.extend(payloads::random(300));
    let equal: Vec<String> = equal.iter().map(|value| body(value)).collect();
    let refused: Vec<(String, &str)> =
        payloads::refused().into_iter().map(|(value, code)| (body(&value), code)).collect();
    assert!(equal.len() >= 400);

    let mut bench = Bench::start().await;
    let ask = Ask { key: "id", validation: Some("v"), ..Ask::default() };
    let equal: Vec<&str> = equal.iter().map(String::as_str).collect();
    let theirs = bench.handle_all(&ask, &equal);
    let select = |path| Selector::parse(path).expect("a path");
    let maker = KeyMaker::new(PREFIX, select("id"), Some(select("v"))).with_format(KeyFormat::PowertoolsPython);
    for (body, theirs) in equal.iter().zip(&theirs) {
        let shown: String = body.chars().take(200).collect();
        let (key, fingerprint) = maker.make(body).unwrap_or_else(|error| panic!("{error:?}: {shown}"));
        assert_eq!(Some(key.as_str()), theirs.key.as_deref(), "{shown}");
        assert_eq!(fingerprint.as_ref().map(Fingerprint::as_str), theirs.validation.as_deref(), "{shown}");
    }

    // In batches, so that claims go out 25 to a request: all were done, and what is refused says why.
    let ours = bench.microbatch(&Ours { key: "id", validation: Some("v"), ..Ours::default() });
    let report = ours.send(&equal).await;
    assert!(report.items.iter().all(|item| item.outcome == Outcome::Duplicate), "{report:?}");
    let bodies: Vec<&str> = refused.iter().map(|(body, _)| body.as_str()).collect();
    let report = ours.send(&bodies).await;
    for (item, (body, code)) in report.items.iter().zip(&refused) {
        let shown: String = body.chars().take(200).collect();
        assert_eq!((item.outcome, item.code), (Outcome::Rejected, Some(*code)), "{shown}");
    }
    assert_eq!(ours.runs(), 0);

    // What we call missing, they find no key in.
    let missing: Vec<&str> =
        refused.iter().filter(|(_, code)| *code == "missing_key").map(|(body, _)| body.as_str()).collect();
    assert_eq!(missing.len(), 6);
    assert!(bench.handle_all(&ask, &missing).iter().all(|theirs| theirs.outcome == "ran" && theirs.key.is_none()));
}

/// JMESPath selects the same on both sides, in all that [`Selector::check`] lets pass.
#[tokio::test(flavor = "multi_thread")]
async fn selectors_select_the_same() {
    let body = r#"{
        "id": "o-1", "n": 100, "f": 1e2, "z": -0.0, "none": null, "empty": [], "no": false, "text": "x",
        "customer": {"id": 7, "tags": ["b", "a", null], "name": "Zoë \ud83d\ude00"},
        "lines": [
            {"sku": "s-1", "kind": "book", "price": 0.30000000000000004, "sizes": [[1, 2], [3]]},
            {"sku": "s-2", "kind": "cd", "price": 12, "sizes": []},
            {"sku": null, "kind": "book", "price": 1e16},
            {"sku": "s-4", "price": 18446744073709551615, "sizes": [4, [5, [6]]]}
        ]
    }"#;
    let selectors = [
        "@",
        "id",
        "customer",
        "customer.id",
        "\"customer\".\"name\"",
        "[id, customer.id]",
        "[id, none, customer.none]",
        "{b: id, a: customer.tags, c: f}",
        "[n, f, z]",
        "lines[0]",
        "lines[-1].sku",
        "lines[].sku",
        "lines[*].price",
        "lines[].sizes[]",
        "lines[].sizes[][]",
        "lines[*].sizes[0]",
        "lines[1:3].sku",
        "lines[::-1].sku",
        "lines[-2:].price",
        "lines[3:0:-2].sku",
        "[lines[:100].sku, lines[-100:1].sku]",
        "lines[?kind == 'book'].sku",
        "lines[?kind != 'book'].[sku, price]",
        "lines[?'cd' == kind || !kind].price",
        "lines[?sku && sizes].sku",
        "lines[?sku].{s: sku, p: price}",
        "lines[*].sizes | [0]",
        "(none || empty || no || text)",
        "[none || id, empty && id, n && f, !n, !empty, !none]",
        "[!customer.none, !(id && no)]",
        "['v1', id]",
        "[`\"v2\"`, id]",
        "customer.tags[?@ == 'a'] | [0]",
        "[id, customer.tags[5], text.none, id[0], lines.sku, customer[0], n[]]",
    ];
    let mut bench = Bench::start().await;
    for key in selectors {
        let theirs = bench.handle(&Ask { key, validation: Some(key), ..Ask::default() }, body);
        let selector = || Selector::parse(key).unwrap_or_else(|error| panic!("{error}"));
        selector().check(KeyFormat::PowertoolsPython).unwrap_or_else(|error| panic!("{error}"));
        let maker = KeyMaker::new(PREFIX, selector(), Some(selector())).with_format(KeyFormat::PowertoolsPython);
        let (made, fingerprint) = maker.make(body).unwrap_or_else(|error| panic!("{key}: {error:?}"));
        assert_eq!(Some(made.as_str()), theirs.key.as_deref(), "{key}");
        assert_eq!(fingerprint.as_ref().map(Fingerprint::as_str), theirs.validation.as_deref(), "{key}");
    }
}

/// What Python's JMESPath evaluates otherwise is refused when the pipeline is built, not found out by an effect that ran
/// twice. The last column is what it selects, for the record: neither is what ours would.
#[tokio::test(flavor = "multi_thread")]
async fn selectors_that_diverge_are_refused() {
    let body = r#"{"o": {"b": 2, "a": 1}, "n": [1, 2], "s": ["b", "a"], "t": true}"#;
    let mut bench = Bench::start().await;
    for (key, same_as) in [
        ("o.*", "[o.b, o.a]"),
        ("keys(o)", "['b', 'a']"),
        ("sum(n)", "n[2] || `3`"),
        ("[n[0] == `1.0`]", "[t]"),
        ("[s[0] > s[1]]", "[t]"),
    ] {
        let problem = problem_with_key(key).expect(key);
        assert!(problem.contains("Powertools for Python may evaluate") && problem.contains(key), "{problem}");
        let of = |bench: &mut Bench, key| bench.handle(&Ask { key, ..Ask::default() }, body).key;
        let theirs = of(&mut bench, key);
        assert!(theirs.is_some() && theirs == of(&mut bench, same_as), "{key}");
    }
    assert_eq!(problem_with_key("[o.b, s[-1]]"), None);
}
