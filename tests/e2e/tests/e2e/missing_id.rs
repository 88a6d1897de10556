//! A message that a response cannot name fails the invocation, and says why.

use std::time::Duration;

use e2e::events::{body, event};
use e2e::stack::Stack;
use microbatch_local::runtime_api::InvocationResult;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_an_id_fails_the_invocation_before_any_item_starts() {
    let stack = Stack::scripted(&[]).await;
    for (what, id) in
        [("none", None), ("empty", Some(json!(""))), ("null", Some(Value::Null)), ("a number", Some(json!(7)))]
    {
        let mut batch: Value =
            serde_json::from_str(&event(&[body("k-0", "ok"), body("k-1", "ok"), body("k-2", "ok")])).expect("JSON");
        let record = batch["Records"][1].as_object_mut().expect("a record");
        record.remove("messageId");
        record.extend(id.map(|id| ("messageId".to_owned(), id)));
        let result = stack.invoke(batch.to_string(), Duration::from_secs(10)).await;
        let Ok(InvocationResult::FunctionError(error)) = result else { panic!("{what}: {result:?}") };
        assert_eq!(error.error_type, "MissingMessageId", "{what}");
        assert!(error.message.contains("record 1"), "{what}: {}", error.message);
    }
    assert!(stack.effects().await.is_empty());
    assert!(stack.records().await.is_empty());
}
