//! What an item costs: a function of a workload and of prices, and of nothing else.
//!
//! An *item* is one delivery of a message, as the metric `Items` counts it. `b` is the mean number of items in a batch; shares are
//! of items.
//!
//! | Component | Units an item |
//! |---|---|
//! | Lambda, GB-seconds | memory / 1,024 MB x (d(b) + 1 ms + cold starts x init) / 1,000 / b |
//! | Lambda, requests | 1 / b |
//! | SQS, sends | finished x r(sends a request, message bytes) |
//! | SQS, receives | r(min(b, 10), message bytes) |
//! | SQS, deletes | finished / n(finished x b) |
//! | SQS, delays | delayed / n(delayed x b) |
//! | SQS, parks | parked x r(n(parked x b), message bytes) |
//! | DynamoDB, claims | claimed x k; a refused claim costs a write as well |
//! | DynamoDB, takeovers | failed x k: its next claim is refused, then takes the record over by a second write |
//! | DynamoDB, completions | processed x k, twice that in a transaction |
//! | DynamoDB, releases | (failed + rejected after a claim) x k |
//! | DynamoDB, the processor's own writes | processed x writes an item, twice that in a transaction |
//! | DynamoDB, read units | (refused + failed) x ceil(record bytes / 4,096) + cold starts / b |
//! | DynamoDB, storage | processed x (record bytes + 100) / 10^9 x days kept / 30.4 GB-months |
//! | CloudWatch, logs | log bytes a batch / b / 10^9 GB |
//!
//! - d(b) = s x (10 ms + item latency x max(1, b / concurrency)): items run `concurrency` at a time. s is 1, or, where the latency of
//!   batches is known, what makes d(b) that latency.
//! - r(n, bytes) = max(1 / n, bytes / 65,536): a request of n messages, billed once for each 64 KB.
//! - n(x) = x between 1 and 10: how many entries a batch request has, when a batch of items has x to send.
//! - k = ceil(record bytes / 1,024): write units are by the KB.
//! - finished = processed + duplicate + parked: those messages leave the queue; as many come in. delayed = failed + busy + abandoned.
//! - refused = duplicate + busy + conflict, as far as a claim was sent for them.
//!
//! Beside that a function and queue has custom metrics, paid for by the month.

use clap::ValueEnum;

use super::prices::Prices;
use crate::numbers::{percent, short};

/// Time that Lambda bills beside what the function measures, and the rounding up to a millisecond.
const RUNTIME_MS: f64 = 1.0;
/// Time of a batch beside its items: parsing, claims, completions.
pub(super) const BATCH_MS: f64 = 10.0;
/// Bytes of a billed part of an SQS request.
const REQUEST_BYTES: f64 = 65_536.0;
/// Messages, or entries, of an SQS request.
const ENTRIES_MAX: f64 = 10.0;
/// Bytes that DynamoDB adds to each item it stores.
const RECORD_OVERHEAD_BYTES: f64 = 100.0;
/// AWS's month has 730 hours.
const MONTH_DAYS: f64 = 730.0 / 24.0;
const MONTH_S: f64 = 730.0 * 3_600.0;
const GB: f64 = 1e9;
const MILLION: f64 = 1e6;

/// The processor that a function runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Architecture {
    /// Intel or AMD
    #[value(name = "x86_64")]
    X86_64,
    /// Graviton
    #[value(name = "arm64")]
    Arm64,
}

/// What becomes of items, as shares of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Shares {
    pub(super) processed: f64,
    pub(super) duplicate: f64,
    pub(super) busy: f64,
    pub(super) conflict: f64,
    pub(super) failed: f64,
    pub(super) rejected: f64,
    pub(super) abandoned: f64,
    /// Of the conflicting and rejected ones.
    pub(super) parked: f64,
    /// For which a claim was sent.
    pub(super) claimed: f64,
}

impl Shares {
    fn finished(&self) -> f64 {
        self.processed + self.duplicate + self.parked
    }

    fn delayed(&self) -> f64 {
        self.failed + self.busy + self.abandoned
    }

    /// Claims that found a record, and rejected items that were claimed. Neither is known when fewer were claimed than would be by
    /// their outcomes: then a duplicate followed another of its batch, and a rejected one could not be decoded.
    fn refused_and_rejected(&self) -> (f64, f64) {
        let rest = (self.claimed - self.processed - self.failed).max(0.0);
        let refused = (self.duplicate + self.busy + self.conflict).min(rest);
        (refused, self.rejected.min(rest - refused))
    }

    /// The same without one kind, for as many finished messages.
    fn without(&self, taken: f64, change: impl FnOnce(&mut Self)) -> Self {
        let mut rest = *self;
        change(&mut rest);
        let left = 1.0 - taken;
        if left <= 0.0 {
            return *self;
        }
        let scale = |share: f64| share / left;
        Self {
            processed: scale(rest.processed),
            duplicate: scale(rest.duplicate),
            busy: scale(rest.busy),
            conflict: scale(rest.conflict),
            failed: scale(rest.failed),
            rejected: scale(rest.rejected),
            abandoned: scale(rest.abandoned),
            parked: scale(rest.parked),
            claimed: (scale(rest.claimed - taken)).max(0.0),
        }
    }
}

/// A workload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    pub(super) batch_size: f64,
    pub(super) item_ms: f64,
    pub(super) concurrency: f64,
    /// s of d(b).
    pub(super) duration_scale: f64,
    pub(super) memory_mb: f64,
    pub(super) architecture: Architecture,
    /// Cold starts a batch, and the time of each.
    pub(super) cold_starts: f64,
    pub(super) init_ms: f64,
    pub(super) is_fifo: bool,
    pub(super) message_bytes: f64,
    pub(super) sends_per_request: f64,
    pub(super) shares: Shares,
    pub(super) is_transactional: bool,
    pub(super) writes_per_item: f64,
    pub(super) record_bytes: f64,
    pub(super) retention_days: f64,
    pub(super) log_bytes_per_batch: f64,
    /// Custom metrics of the function and queue.
    pub(super) metrics: f64,
}

impl Load {
    /// d(b) before its scale.
    pub(super) fn unscaled_ms(&self) -> f64 {
        BATCH_MS + self.item_ms * (self.batch_size / self.concurrency).max(1.0)
    }

    /// d(b).
    pub(super) fn duration_ms(&self) -> f64 {
        self.duration_scale * self.unscaled_ms()
    }
}

/// A part of what an item costs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) units_per_item: f64,
    pub(super) per_million: f64,
}

/// The parts in the order of the module's table.
pub(super) fn parts(load: &Load, prices: &Prices) -> Vec<Part> {
    let mut parts = lambda(load, prices);
    parts.extend(sqs(load, prices));
    parts.extend(dynamodb(load, prices));
    let log_gb = load.log_bytes_per_batch / load.batch_size / GB;
    parts.push(part("CloudWatch logs", "GB", log_gb, prices.log_gb));
    parts
}

/// A part whose price is that of one unit.
fn part(name: &'static str, unit: &'static str, units_per_item: f64, price: f64) -> Part {
    Part { name, unit, units_per_item, per_million: units_per_item * price * MILLION }
}

fn lambda(load: &Load, prices: &Prices) -> Vec<Part> {
    let gb_second = match load.architecture {
        Architecture::X86_64 => prices.lambda_gb_second_x86_64,
        Architecture::Arm64 => prices.lambda_gb_second_arm64,
    };
    let billed_s = (load.duration_ms() + RUNTIME_MS + load.cold_starts * load.init_ms) / 1_000.0;
    let gb_seconds = load.memory_mb / 1_024.0 * billed_s / load.batch_size;
    vec![
        part("Lambda duration", "GB-s", gb_seconds, gb_second),
        part("Lambda requests", "requests", 1.0 / load.batch_size, prices.lambda_million_requests / MILLION),
    ]
}

fn sqs(load: &Load, prices: &Prices) -> Vec<Part> {
    let price = if load.is_fifo { prices.sqs_million_requests_fifo } else { prices.sqs_million_requests_standard };
    let Load { batch_size, message_bytes, shares, .. } = load;
    let (finished, delayed) = (shares.finished(), shares.delayed());
    let with_bodies = |messages: f64| (1.0 / messages).max(message_bytes / REQUEST_BYTES);
    let entries = |share: f64| (share * batch_size).clamp(1.0, ENTRIES_MAX);
    let request = |name, requests| part(name, "requests", requests, price / MILLION);
    vec![
        request("SQS sends", finished * with_bodies(load.sends_per_request)),
        request("SQS receives", with_bodies(batch_size.min(ENTRIES_MAX))),
        request("SQS deletes", finished / entries(finished)),
        request("SQS delays", delayed / entries(delayed)),
        request("SQS parks", shares.parked * with_bodies(entries(shares.parked))),
    ]
}

fn dynamodb(load: &Load, prices: &Prices) -> Vec<Part> {
    let shares = &load.shares;
    let write_units = (load.record_bytes / 1_024.0).ceil();
    let read_units = (load.record_bytes / 4_096.0).ceil();
    let in_transaction = if load.is_transactional { 2.0 } else { 1.0 };
    let (refused, rejected) = shares.refused_and_rejected();
    let write = |name, units| part(name, "write units", units, prices.dynamodb_million_write_units / MILLION);
    let reads = (refused + shares.failed) * read_units + load.cold_starts / load.batch_size;
    let stored_gb = shares.processed * (load.record_bytes + RECORD_OVERHEAD_BYTES) / GB;
    let gb_months = stored_gb * load.retention_days / MONTH_DAYS;
    vec![
        write("DynamoDB claims", shares.claimed * write_units),
        write("DynamoDB takeovers", shares.failed * write_units),
        write("DynamoDB completions", shares.processed * write_units * in_transaction),
        write("DynamoDB releases", (shares.failed + rejected) * write_units),
        write("DynamoDB own writes", shares.processed * load.writes_per_item * in_transaction),
        part("DynamoDB reads", "read units", reads, prices.dynamodb_million_read_units / MILLION),
        part("DynamoDB storage", "GB-months", gb_months, prices.dynamodb_storage_gb_month),
    ]
}

/// What a month costs whatever is processed.
pub(super) fn fixed_per_month(load: &Load, prices: &Prices) -> f64 {
    load.metrics * prices.metric_month
}

pub(super) fn per_million(load: &Load, prices: &Prices) -> f64 {
    parts(load, prices).iter().map(|part| part.per_million).sum()
}

/// Items of a month at this rate, in millions.
pub(super) fn millions_per_month(items_per_s: f64) -> f64 {
    items_per_s * MONTH_S / MILLION
}

/// A change, and what it would bring.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WhatIf {
    pub(super) change: String,
    /// Of a million items as they come today.
    pub(super) per_million: f64,
    pub(super) saving: f64,
}

/// Changes that save something, the largest saving first.
pub(super) fn what_ifs(load: &Load, prices: &Prices) -> Vec<WhatIf> {
    let now = per_million(load, prices);
    let mut found: Vec<WhatIf> = changes(load)
        .into_iter()
        .map(|(change, items, changed)| {
            let then = per_million(&changed, prices) * items;
            WhatIf { change, per_million: then, saving: now - then }
        })
        .filter(|what_if| what_if.saving > now * SAVING_SHARE_MIN)
        .collect();
    found.sort_by(|left, right| right.saving.total_cmp(&left.saving));
    found
}

/// A smaller share of the whole is noise.
const SAVING_SHARE_MIN: f64 = 0.005;

/// Changes to try: each with the items that would be left of one, and the workload they would be.
fn changes(load: &Load) -> Vec<(String, f64, Load)> {
    let mut changes = Vec::new();
    let sizes: &[f64] = if load.is_fifo { &[10.0] } else { &[10.0, 100.0, 1_000.0] };
    for size in sizes.iter().filter(|size| **size > load.batch_size * 1.05) {
        let name = format!("mean batch size {} -> {}", short(load.batch_size), short(*size));
        changes.push((name, 1.0, Load { batch_size: *size, ..load.clone() }));
    }
    if load.architecture == Architecture::X86_64 {
        let name = "architecture x86_64 -> arm64, if it takes as long".to_owned();
        changes.push((name, 1.0, Load { architecture: Architecture::Arm64, ..load.clone() }));
    }
    if load.memory_mb >= 256.0 {
        let half = load.memory_mb / 2.0;
        let name = format!("memory {} -> {} MB, if it takes as long", short(load.memory_mb), short(half));
        changes.push((name, 1.0, Load { memory_mb: half, ..load.clone() }));
    }
    if load.is_transactional {
        let name = "no transaction: effect and completion no longer happen together".to_owned();
        changes.push((name, 1.0, Load { is_transactional: false, ..load.clone() }));
    }
    if load.sends_per_request < ENTRIES_MAX {
        let name = format!("sends a request {} -> 10", load.sends_per_request);
        changes.push((name, 1.0, Load { sends_per_request: ENTRIES_MAX, ..load.clone() }));
    }
    if load.record_bytes > 1_024.0 {
        let name = format!("records of {} bytes -> 1,024", short(load.record_bytes));
        changes.push((name, 1.0, Load { record_bytes: 1_024.0, ..load.clone() }));
    }
    let Shares { failed, duplicate, .. } = load.shares;
    if failed > 0.0 {
        let shares = load.shares.without(failed, |shares| shares.failed = 0.0);
        let name = format!("no failures ({} now)", percent(failed, 1.0));
        changes.push((name, 1.0 - failed, Load { shares, ..load.clone() }));
    }
    if duplicate > 0.0 {
        let shares = load.shares.without(duplicate, |shares| shares.duplicate = 0.0);
        let name = format!("no duplicates ({} now)", percent(duplicate, 1.0));
        changes.push((name, 1.0 - duplicate, Load { shares, ..load.clone() }));
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load() -> Load {
        Load {
            batch_size: 10.0,
            item_ms: 30.0,
            concurrency: 64.0,
            duration_scale: 1.0,
            memory_mb: 512.0,
            architecture: Architecture::X86_64,
            cold_starts: 0.0,
            init_ms: 0.0,
            is_fifo: false,
            message_bytes: 1_024.0,
            sends_per_request: 10.0,
            shares: Shares { processed: 1.0, claimed: 1.0, ..Shares::default() },
            is_transactional: false,
            writes_per_item: 0.0,
            record_bytes: 400.0,
            retention_days: 730.0 / 24.0,
            log_bytes_per_batch: 4_000.0,
            metrics: 31.0,
        }
    }

    /// What each part of a million items costs.
    fn costs(load: &Load) -> Vec<(&'static str, f64)> {
        parts(load, &Prices::built_in()).iter().map(|part| (part.name, part.per_million)).collect()
    }

    fn assert_costs(load: &Load, expected: &[(&str, f64)]) {
        let found = costs(load);
        for (name, cost) in expected {
            let part = found.iter().find(|part| part.0 == *name).expect(name);
            assert!((part.1 - cost).abs() < 1e-6, "{name}: {}, expected {cost}", part.1);
        }
    }

    #[test]
    fn the_page_holds_the_model() {
        const PAGE: &str = include_str!("../../../../infra/cost.md");
        let doc = include_str!("model.rs").lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
        // The first line is for the reader of the code.
        for line in doc.skip(1).filter(|line| !line.is_empty()) {
            assert!(PAGE.lines().any(|of_page| of_page.trim() == line), "infra/cost.md lacks: {line}");
        }
    }

    #[test]
    fn a_plain_workload_costs_what_a_hand_computes() {
        // 100,000 invocations of 41 ms at half a GB: 2,050 GB-s. 100,000 sends, receives and deletes. A claim and a
        // completion an item. 500 bytes for a month: 0.5 GB. 0.4 GB of log.
        assert_costs(
            &load(),
            &[
                ("Lambda duration", 2_050.0 * 0.000_016_666_7),
                ("Lambda requests", 0.02),
                ("SQS sends", 0.04),
                ("SQS receives", 0.04),
                ("SQS deletes", 0.04),
                ("SQS delays", 0.0),
                ("SQS parks", 0.0),
                ("DynamoDB claims", 0.625),
                ("DynamoDB takeovers", 0.0),
                ("DynamoDB completions", 0.625),
                ("DynamoDB releases", 0.0),
                ("DynamoDB own writes", 0.0),
                ("DynamoDB reads", 0.0),
                ("DynamoDB storage", 0.125),
                ("CloudWatch logs", 0.2),
            ],
        );
        assert!((fixed_per_month(&load(), &Prices::built_in()) - 9.3).abs() < 1e-9);
        assert!((millions_per_month(10.0) - 26.28).abs() < 1e-9);
    }

    #[test]
    fn a_transaction_counts_twice_records_by_the_kilobyte_and_bodies_by_64() {
        let large = Load {
            is_transactional: true,
            writes_per_item: 1.0,
            record_bytes: 1_025.0,
            message_bytes: 32_768.0,
            is_fifo: true,
            architecture: Architecture::Arm64,
            ..load()
        };
        assert_costs(
            &large,
            &[
                ("DynamoDB claims", 1.25),
                ("DynamoDB completions", 2.5),
                ("DynamoDB own writes", 1.25),
                // Ten messages of half a part: five parts a request.
                ("SQS sends", 0.25),
                ("SQS receives", 0.25),
                ("SQS deletes", 0.05),
                ("Lambda duration", 2_050.0 * 0.000_013_333_4),
            ],
        );
    }

    #[test]
    fn outcomes_cost_what_they_send() {
        // Of 100 items in a batch: 60 done, 10 duplicates, 10 busy, 10 failed, 10 rejected and parked.
        let shares = Shares {
            processed: 0.6,
            duplicate: 0.1,
            busy: 0.1,
            failed: 0.1,
            rejected: 0.1,
            parked: 0.1,
            claimed: 1.0,
            ..Shares::default()
        };
        let mixed = Load { batch_size: 100.0, shares, cold_starts: 0.1, init_ms: 200.0, ..load() };
        assert_costs(
            &mixed,
            &[
                // 10 + 30 x 100/64 = 56.875 ms, 1 ms and a tenth of 200 ms, in 10,000 batches at half a GB.
                ("Lambda duration", (56.875 + 21.0) * 10.0 / 2.0 * 0.000_016_666_7),
                ("SQS sends", 0.8 * 0.1 * 0.4),
                ("SQS deletes", 0.08 * 0.4),
                ("SQS delays", 0.02 * 0.4),
                ("SQS parks", 0.1 * 0.1 * 0.4),
                ("DynamoDB claims", 0.625),
                ("DynamoDB takeovers", 0.0625),
                ("DynamoDB completions", 0.375),
                ("DynamoDB releases", 0.125),
                // Two tenths are refused, a tenth fails; 10,000 batches start 1,000 processes.
                ("DynamoDB reads", 0.301 * 0.125),
            ],
        );
        // Unclaimed ones: followers of the same batch, and bodies that are no JSON.
        let fewer = Load { shares: Shares { claimed: 0.75, ..shares }, ..mixed };
        assert_costs(&fewer, &[("DynamoDB releases", 0.0625), ("DynamoDB reads", (0.15 + 0.001) * 0.125)]);
    }

    #[test]
    fn what_would_change_it_is_computed_by_the_model() {
        let prices = Prices::built_in();
        let now = per_million(&load(), &prices);
        let found = what_ifs(&load(), &prices);
        let hundred = found.iter().find(|what_if| what_if.change == "mean batch size 10 -> 100").expect("a change");
        let then = per_million(&Load { batch_size: 100.0, ..load() }, &prices);
        assert!((hundred.per_million - then).abs() < 1e-9 && (hundred.saving - (now - then)).abs() < 1e-9);
        assert!(found.is_sorted_by(|left, right| left.saving >= right.saving));
        assert!(found.iter().all(|what_if| what_if.saving > 0.0 && !what_if.change.contains("transaction")));

        let failing =
            Load { shares: Shares { processed: 0.5, failed: 0.5, claimed: 1.0, ..Shares::default() }, ..load() };
        let found = what_ifs(&failing, &prices);
        let without = found.iter().find(|what_if| what_if.change == "no failures (50.0 % now)").expect("a change");
        assert!((without.per_million - now / 2.0).abs() < 1e-9, "half as many items, each of the plain kind");
        let fifo = what_ifs(&Load { is_fifo: true, batch_size: 2.0, ..load() }, &prices);
        assert!(fifo.iter().any(|what_if| what_if.change.ends_with("2 -> 10")));
        assert!(!fifo.iter().any(|what_if| what_if.change.ends_with("100")));
    }

    fn any_load() -> impl Strategy<Value = Load> {
        let shares = prop::collection::vec(0.0_f64..1.0, 7).prop_map(|weights| {
            let total: f64 = weights.iter().sum::<f64>().max(1e-9);
            let of = |position: usize| weights[position] / total;
            let (conflict, rejected) = (of(3), of(5));
            Shares {
                processed: of(0),
                duplicate: of(1),
                busy: of(2),
                conflict,
                failed: of(4),
                rejected,
                abandoned: of(6),
                parked: f64::midpoint(conflict, rejected),
                claimed: 1.0 - of(6),
            }
        });
        let figures = (1.0..10_000.0_f64, 0.1..10_000.0_f64, 1.0..1_000.0_f64, 128.0..10_240.0_f64, 0.0..1.0_f64);
        let more = (1.0..1e6_f64, 1.0..4e5_f64, any::<bool>(), any::<bool>(), 0.0..100.0_f64, 1.0..10.0_f64);
        (shares, figures, more).prop_map(|(shares, figures, more)| Load {
            batch_size: figures.0,
            item_ms: figures.1,
            concurrency: figures.2,
            memory_mb: figures.3,
            cold_starts: figures.4,
            init_ms: 100.0,
            message_bytes: more.0,
            record_bytes: more.1,
            is_fifo: more.2,
            is_transactional: more.3,
            writes_per_item: more.4,
            sends_per_request: more.5,
            shares,
            ..load()
        })
    }

    proptest! {
        #[test]
        fn more_of_anything_never_costs_less(load in any_load(), more in 1.0..10.0_f64) {
            let prices = Prices::built_in();
            let now = per_million(&load, &prices);
            prop_assert!(now.is_finite() && now > 0.0);
            let grown = [
                Load { item_ms: load.item_ms * more, ..load.clone() },
                Load { memory_mb: load.memory_mb * more, ..load.clone() },
                Load { cold_starts: load.cold_starts * more, ..load.clone() },
                Load { message_bytes: load.message_bytes * more, ..load.clone() },
                Load { record_bytes: load.record_bytes * more, ..load.clone() },
                Load { writes_per_item: load.writes_per_item * more, ..load.clone() },
                Load { retention_days: load.retention_days * more, ..load.clone() },
                Load { log_bytes_per_batch: load.log_bytes_per_batch * more, ..load.clone() },
                Load { is_transactional: true, ..load.clone() },
                Load { is_fifo: true, ..load.clone() },
            ];
            for grown in grown {
                prop_assert!(per_million(&grown, &prices) >= now - now * 1e-12, "{:?}", grown);
            }
            // Bigger batches, more at once and fuller requests never cost more.
            let shrunk = [
                Load { batch_size: load.batch_size * more, ..load.clone() },
                Load { concurrency: load.concurrency * more, ..load.clone() },
                Load { sends_per_request: load.sends_per_request * more, ..load.clone() },
            ];
            for shrunk in shrunk {
                prop_assert!(per_million(&shrunk, &prices) <= now + now * 1e-12, "{:?}", shrunk);
            }
        }

        #[test]
        fn a_change_says_what_it_saves(load in any_load()) {
            let prices = Prices::built_in();
            let now = per_million(&load, &prices);
            for what_if in what_ifs(&load, &prices) {
                prop_assert!(what_if.saving > 0.0 && what_if.saving <= now * (1.0 + 1e-9), "{:?}", what_if);
                prop_assert!((what_if.per_million + what_if.saving - now).abs() <= now * 1e-9);
            }
        }
    }
}
