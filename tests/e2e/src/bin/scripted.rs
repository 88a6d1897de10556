//! A function for tests: each message says what is to happen to it.
//!
//! A body is `{"id": "k-1", "act": "ok"}`, the key is `id`, and the acts are those of [`Act`]. Before it acts, the processor
//! writes a row to the effects table, one for each *run* of a key: tests count effects by these rows.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::{Done, ItemContext, NoWrites, Pipeline, ProcessError, Processor};
use microbatch_aws::lambda::{self, BoxError};
use microbatch_aws::sdk;
use serde::Deserialize;
use uuid::Uuid;

/// The time-out of one write to the effects table. `MICROBATCH_EFFECT_TIMEOUT_MS` must not be below it.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a message says.
#[derive(Debug, Deserialize)]
struct Item {
    id: String,
    act: Act,
    /// For `slow`: how long, in milliseconds.
    #[serde(default)]
    ms: u64,
}

/// What is to happen, after the effect.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// It succeeds.
    Ok,
    /// It succeeds after `ms`.
    Slow,
    /// It fails, and may be tried again.
    Fail,
    /// It fails for good.
    Permanent,
    /// It panics, with the item's id in the text.
    Panic,
    /// It never ends.
    Hang,
    /// It never ends, and panics when it is cancelled.
    PanicOnDrop,
}

#[derive(Debug)]
struct Told(&'static str);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the message says: {}", self.0)
    }
}

impl std::error::Error for Told {}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

struct Scripted {
    dynamodb: Client,
    effects_table: String,
}

impl Processor for Scripted {
    type Item = Item;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, item: Item, cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        self.write_effect(&item, cx).await?;
        match item.act {
            Act::Ok => {}
            Act::Slow => tokio::time::sleep(Duration::from_millis(item.ms)).await,
            Act::Fail => return Err(ProcessError::transient(Told("fail")).code("told_to_fail")),
            Act::Permanent => return Err(ProcessError::permanent(Told("permanent")).code("told_to_fail")),
            Act::Panic => panic!("told to panic: {}", item.id),
            Act::Hang => match pending::<Infallible>().await {},
            Act::PanicOnDrop => {
                let _guard = PanicsWhenDropped;
                match pending::<Infallible>().await {}
            }
        }
        Ok(().into())
    }
}

impl Scripted {
    /// A new row each time this is called: a second run of a key within one claim must show as well.
    async fn write_effect(&self, item: &Item, cx: &ItemContext) -> Result<(), ProcessError> {
        self.dynamodb
            .put_item()
            .table_name(&self.effects_table)
            .item("id", AttributeValue::S(item.id.clone()))
            .item("run", AttributeValue::S(Uuid::now_v7().to_string()))
            .item("key", AttributeValue::S(cx.idempotency_key().unwrap_or_default().to_owned()))
            .item("message_id", AttributeValue::S(cx.message_id.to_string()))
            .item("attempt", AttributeValue::N(cx.attempt.to_string()))
            .send()
            .await?;
        Ok(())
    }
}

fn main() -> Result<(), BoxError> {
    lambda::main(async {
        if let Ok(told) = std::env::var("PANIC_IN_INIT") {
            panic!("{told}");
        }
        let timeouts = TimeoutConfig::builder().operation_timeout(EFFECT_TIMEOUT).build();
        let config = aws_sdk_dynamodb::config::Builder::from(&sdk::sdk_config().await).timeout_config(timeouts);
        let scripted = Scripted {
            dynamodb: Client::from_conf(config.build()),
            effects_table: std::env::var("EFFECTS_TABLE").unwrap_or_else(|_| "effects".to_owned()),
        };
        Ok(Pipeline::builder(scripted).key("id"))
    })
}
