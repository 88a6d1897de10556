//! The cost, as text and as JSON.

use serde_json::{Value, json};

use super::load::{Figure, Workload};
use super::model::{Part, fixed_per_month, millions_per_month, parts, what_ifs};
use super::prices::Prices;
use crate::numbers::{grouped, percent, short};
use crate::terminal;

/// What the model leaves out.
const NOT_MODELLED: [&str; 9] = [
    "free tiers, discounts and savings plans",
    "data transfer",
    "X-Ray and other traces",
    "alarms, dashboards and the storage of logs",
    "KMS requests of a key of your own",
    "provisioned pollers and provisioned concurrency",
    "receives that find nothing (five pollers: up to 0.7 million requests a month)",
    "the surcharge of fair queues (message groups on a standard queue)",
    "what the processor itself calls, but for --writes-per-item; backups of tables",
];
/// Characters of a page's title.
const SOURCE_CHARS: usize = 200;
/// Changes that are shown.
const CHANGES_SHOWN: usize = 6;

/// A workload with all that its cost is told by.
pub(super) struct Costed {
    pub(super) title: String,
    pub(super) names: Option<(String, String)>,
    pub(super) measured_on: Option<String>,
    pub(super) workload: Workload,
    pub(super) rate: Option<Rate>,
    /// Items whose cost is told too.
    pub(super) items: Option<u64>,
}

/// How many items come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) items_per_s: f64,
    pub(super) is_measured: bool,
}

/// The sums.
struct Totals {
    per_million: f64,
    /// Of the metrics, whatever is processed.
    fixed_per_month: f64,
    /// Items of a month in millions, and what they cost with the fixed part.
    month: Option<(f64, f64)>,
}

impl Costed {
    fn parts(&self, prices: &Prices) -> Vec<Part> {
        parts(&self.workload.load, prices)
    }

    fn totals(&self, prices: &Prices) -> Totals {
        let per_million = self.parts(prices).iter().map(|part| part.per_million).sum();
        let fixed_per_month = fixed_per_month(&self.workload.load, prices);
        let month = self.rate.map(|rate| {
            let millions = millions_per_month(rate.items_per_s);
            (millions, per_million * millions + fixed_per_month)
        });
        Totals { per_million, fixed_per_month, month }
    }
}

/// All workloads, then what goes for all of them.
pub(super) fn text(costed: &[Costed], prices: &Prices) -> String {
    let mut lines: Vec<String> = costed.iter().flat_map(|costed| costed_text(costed, prices)).collect();
    let Prices { currency, date, region, sources, .. } = prices;
    lines.push(format!("prices in {currency} of {date}, {region}, on demand; --prices FILE for others; from:"));
    lines.extend(sources.iter().map(|source| format!("  {}", terminal::tame(source, SOURCE_CHARS))));
    lines.push("not in it:".to_owned());
    lines.extend(NOT_MODELLED.map(|what| format!("  {what}")));
    lines.join("\n")
}

fn costed_text(costed: &Costed, prices: &Prices) -> Vec<String> {
    let currency = &prices.currency;
    let totals = costed.totals(prices);
    let on = costed.measured_on.as_ref().map_or_else(String::new, |on| format!(" ({on})"));
    let mut lines = vec![format!("{}{on}", costed.title)];
    lines.push(format!("  {:<22} {:>14} {:<12} {:>12} {:>8}", "", "a million items", "", currency, "share"));
    for part in costed.parts(prices) {
        // What does not occur would only hide what does.
        if part.units_per_item <= 0.0 {
            continue;
        }
        let (units, cost) = (units(part.units_per_item * 1e6), money(part.per_million));
        let share = percent(part.per_million, totals.per_million);
        lines.push(format!("  {:<22} {units:>15} {:<12} {cost:>12} {share:>8}", part.name, part.unit));
    }
    lines.push(format!("  {:<22} {:>15} {:<12} {:>12}", "a million items", "", "", money(totals.per_million)));
    if let Some(items) = costed.items {
        let cost = money(totals.per_million * crate::telemetry::as_f64(items) / 1e6);
        lines.push(format!("  {:<51} {cost:>12}", format!("{} items", grouped(items))));
    }
    let metrics = costed.workload.load.metrics;
    let metrics = format!("{} custom metrics, a month", short(metrics));
    lines.push(format!("  {metrics:<51} {:>12}", money(totals.fixed_per_month)));
    lines.push(match (costed.rate, totals.month) {
        (Some(rate), Some((millions, total))) => {
            let origin = if rate.is_measured { "measured" } else { "given" };
            let label =
                format!("a month, {} million at {} a second ({origin})", amount(millions), amount(rate.items_per_s));
            format!("  {label:<51} {:>12}", money(total))
        }
        _ => "  a month: give the rate by --items-per-s".to_owned(),
    });
    lines.push(String::new());
    lines.extend(changes(costed, prices, &totals));
    lines.push("  by these figures".to_owned());
    lines.extend(costed.workload.figures.iter().map(figure));
    lines.push(String::new());
    lines
}

fn changes(costed: &Costed, prices: &Prices, totals: &Totals) -> Vec<String> {
    let what_ifs = what_ifs(&costed.workload.load, prices);
    if what_ifs.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["  what would change it most, of a million items".to_owned()];
    for what_if in what_ifs.iter().take(CHANGES_SHOWN) {
        let (saving, share) = (money(what_if.saving), percent(what_if.saving, totals.per_million));
        let month = totals
            .month
            .map_or_else(String::new, |(millions, _)| format!(", {} a month", money(what_if.saving * millions)));
        lines.push(format!("    {}: saves {saving} ({share}{month})", what_if.change));
    }
    lines.push(String::new());
    lines
}

fn figure(figure: &Figure) -> String {
    format!("    {:<28} {:>14}  {}", figure.name, figure.shown, figure.origin.name())
}

/// An amount of money: cents, or more digits where it is small.
fn money(amount: f64) -> String {
    match amount {
        amount if amount >= 99.995 => {
            let cents = crate::numbers::whole(amount * 100.0).replace(',', "");
            let (whole, cents) = cents.split_at(cents.len() - 2);
            format!("{}.{cents}", grouped(whole.parse().unwrap_or(u64::MAX)))
        }
        amount if amount >= 9.999_95 || amount <= 0.0 => format!("{amount:.2}"),
        amount if amount >= 0.000_05 => format!("{amount:.4}"),
        _ => "<0.0001".to_owned(),
    }
}

/// Units of a million items.
fn units(units: f64) -> String {
    if units >= 99.95 { crate::numbers::whole(units) } else { amount(units) }
}

/// A number of any size with the digits that matter.
fn amount(number: f64) -> String {
    match number {
        number if number >= 99.95 => crate::numbers::whole(number),
        number if number >= 1.0 => short(number),
        number if number >= 0.01 => format!("{number:.2}"),
        number => format!("{number:.1e}"),
    }
}

/// The same for programs.
pub(super) fn json(costed: &[Costed], prices: &Prices) -> String {
    let workloads: Vec<Value> = costed.iter().map(|costed| costed_json(costed, prices)).collect();
    let json = json!({
        "prices": {
            "date": prices.date, "region": prices.region, "currency": prices.currency, "sources": prices.sources,
        },
        "not_modelled": NOT_MODELLED,
        "workloads": workloads,
    });
    format!("{json:#}")
}

fn costed_json(costed: &Costed, prices: &Prices) -> Value {
    let totals = costed.totals(prices);
    let parts = costed.parts(prices).into_iter().map(|part| {
        json!({
            "name": part.name,
            "unit": part.unit,
            "units_per_item": part.units_per_item,
            "per_million": part.per_million,
            "share": part.per_million / totals.per_million,
        })
    });
    let figures = costed.workload.figures.iter().map(|figure| {
        let told = json!({"value": figure.value, "origin": figure.origin.name()});
        (figure.name.replace([' ', ','], "_").replace("__", "_"), told)
    });
    let what_ifs = what_ifs(&costed.workload.load, prices).into_iter().map(|what_if| {
        json!({"change": what_if.change, "per_million": what_if.per_million, "saving_per_million": what_if.saving})
    });
    json!({
        "function": costed.names.as_ref().map(|names| &names.0),
        "queue": costed.names.as_ref().map(|names| &names.1),
        "parts": parts.collect::<Vec<_>>(),
        "per_million": totals.per_million,
        "metrics_per_month": totals.fixed_per_month,
        "month": costed.rate.zip(totals.month).map(|(rate, (millions, total))| json!({
            "items_per_s": rate.items_per_s, "million_items": millions, "total": total,
        })),
        "items": costed.items.map(|items| json!({
            "count": items, "total": totals.per_million * crate::telemetry::as_f64(items) / 1e6,
        })),
        "what_if": what_ifs.collect::<Vec<_>>(),
        "figures": figures.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_the_digits_that_matter() {
        for (amount, expected) in [
            (0.0, "0.00"),
            (0.000_001, "<0.0001"),
            (0.0341, "0.0341"),
            (0.625, "0.6250"),
            (9.999_99, "10.00"),
            (99.999, "100.00"),
            (1_234.5, "1,234.50"),
        ] {
            assert_eq!(money(amount), expected);
        }
    }

    #[test]
    fn amounts_of_any_size_are_readable() {
        for (number, expected) in [(0.000_02, "2.0e-5"), (0.25, "0.25"), (9.44, "9.4"), (1_234.0, "1,234")] {
            assert_eq!(amount(number), expected);
        }
    }
}
