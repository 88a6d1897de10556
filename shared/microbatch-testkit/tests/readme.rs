//! The README's section "Testing your processor" holds the first test of this file as it stands here.

// README
use microbatch::{Outcome, Pipeline};
use microbatch_testkit::{TestPipeline, message};

#[tokio::test(start_paused = true)]
async fn what_is_no_order_is_rejected_and_what_was_declined_comes_again() {
    let bench = TestPipeline::new(Pipeline::builder(ChargeOrder).key("order_id"));
    let batch = bench.send([r#"{"order_id":"1"}"#, "not json"]).await;
    assert_eq!(batch.outcomes(), [Outcome::Processed, Outcome::Rejected]);

    let declined = message(r#"{"order_id":"2","card":"empty"}"#).id("m-2").receive_count(3);
    let batch = bench.send([declined, r#"{"order_id":"1"}"#.into()]).await;
    assert_eq!(batch.outcomes(), [Outcome::Failed, Outcome::Duplicate]);
    assert_eq!((batch.of("m-2").code, batch.reported()), (Some("declined"), &["m-2".to_owned()][..]));
    assert_eq!(bench.redeliver().await.outcomes(), [Outcome::Rejected, Outcome::Failed]);
}
// end

use charge::ChargeOrder;

/// The processor that the README means.
mod charge {
    use microbatch::{Done, ItemContext, NoWrites, ProcessError, Processor};

    #[derive(serde::Deserialize)]
    pub(crate) struct Order {
        order_id: String,
        card: Option<String>,
    }

    pub(crate) struct ChargeOrder;

    impl Processor for ChargeOrder {
        type Item = Order;
        type Output = String;
        type Write = NoWrites;

        async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<String>, ProcessError> {
            if order.card.as_deref() == Some("empty") {
                return Err(ProcessError::transient(std::fmt::Error).code("declined"));
            }
            Ok(Done::new(order.order_id))
        }
    }
}

#[test]
fn the_readme_holds_this_test() {
    let (_, rest) = include_str!("readme.rs").split_once("// README\n").expect("a beginning");
    let (code, _) = rest.split_once("// end\n").expect("an end");
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    assert!(readme.contains(code), "the README must hold:\n{code}");
}
