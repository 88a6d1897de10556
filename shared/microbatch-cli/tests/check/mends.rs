//! What the fixes say, and what is no mistake.

use serde_json::Value;

use super::{GOOD, SEEDS, Template, report, rules};

fn report_of(text: impl AsRef<[u8]>) -> Value {
    report(&Template::new(text).path, &[]).0
}

/// The fixes of the seeds of a rule, each with its place.
fn fixes(rule: &str) -> Vec<(String, String)> {
    let fix = |seed: &super::seeds::Seed| {
        let found = report_of(seed.template());
        let fix = &found["findings"][0]["fix"];
        let text = |key: &str| fix[key].as_str().expect("text").to_owned();
        (text("in"), text("yaml"))
    };
    SEEDS.iter().filter(|seed| seed.rule == rule).map(fix).collect()
}

#[test]
fn a_queue_with_a_policy_gets_no_second_one() {
    let fixes = fixes("MB026");
    assert_eq!(fixes[0].0, "Resources");
    assert!(fixes[0].1.starts_with("OrdersQueuePolicy:\n"), "{fixes:?}");
    assert_eq!(fixes[1].0, "LedgerPolicy.Properties.PolicyDocument.Statement");
    assert!(fixes[1].1.starts_with("- Effect: Deny\n") && !fixes[1].1.contains("Type:"), "{fixes:?}");
    // An id that another resource has is not proposed.
    let found =
        report_of("Resources:\n  Jobs: { Type: AWS::SQS::Queue }\n  JobsPolicy: { Type: AWS::IAM::ManagedPolicy }\n");
    assert!(found["findings"][0]["fix"]["yaml"].as_str().expect("a fix").starts_with("JobsPolicy2:\n"), "{found:#}");
}

#[test]
fn a_dead_letter_queue_with_a_function_needs_none_of_its_own() {
    let event = "\n        Dead:\n          Type: SQS\n          Properties:\n            Queue: !GetAtt LedgerDeadLetters.Arn\n\
                 \x20           FunctionResponseTypes: [ReportBatchItemFailures]\n";
    let text = GOOD.replace(
        "FunctionResponseTypes: [ReportBatchItemFailures] # ledger\n",
        &format!("FunctionResponseTypes: [ReportBatchItemFailures]{event}"),
    );
    let found = report_of(text);
    assert!(!rules(&found).contains(&"MB020"), "{found:#}");
    assert!(rules(&found).contains(&"MB002"), "its mapping is looked at: {found:#}");
}

#[test]
fn a_reservation_of_one_is_raised_with_the_limit() {
    let fixes = fixes("MB014");
    assert!(!fixes[0].1.contains("ReservedConcurrentExecutions"), "{fixes:?}");
    assert!(fixes[1].1.contains("MaximumConcurrency: 2") && fixes[1].1.contains("ReservedConcurrentExecutions: 2"));
}

#[test]
fn recovery_of_a_global_table_is_of_its_replicas() {
    assert_eq!(fixes("MB053")[1].0, "IdempotencyTable.Properties.Replicas, in each entry");
}

#[test]
fn deliveries_outlast_any_functions_queue() {
    let template = |retention_s: u64| {
        format!(
            "Resources:\n  Dead: {{ Type: AWS::SQS::Queue, Properties: {{ MessageRetentionPeriod: 1209600 }} }}\n  Jobs:\n    \
             Type: AWS::SQS::Queue\n    Properties:\n      VisibilityTimeout: 3600\n      MessageRetentionPeriod: {retention_s}\n      \
             RedrivePolicy: {{ deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 11 }}\n  Worker:\n    \
             Type: AWS::Serverless::Function\n    Properties:\n      Events:\n        \
             Jobs: {{ Type: SQS, Properties: {{ Queue: !GetAtt Jobs.Arn }} }}\n"
        )
    };
    assert!(rules(&report_of(template(36_000))).contains(&"MB035"));
    assert!(!rules(&report_of(template(36_001))).contains(&"MB035"));
}

/// A topic's event, which goes to the function by way of a queue.
fn topic(subscription: &str) -> String {
    format!(
        "Transform: AWS::Serverless-2016-10-31\nResources:\n  Jobs: {{ Type: AWS::SQS::Queue }}\n  Worker:\n    \
         Type: AWS::Serverless::Function\n    Properties:\n      Events:\n        Topic:\n          Type: SNS\n          \
         Properties: {{ Topic: arn, SqsSubscription: {subscription} }}\n"
    )
}

#[test]
fn a_topics_event_may_be_a_mapping_of_a_queue() {
    let found = report_of(topic("{ QueueArn: !GetAtt Jobs.Arn, BatchSize: 10001 }"));
    let all = rules(&found);
    assert_eq!(found["mappings"], 1, "{found:#}");
    assert!(["MB006", "MB010", "MB020"].iter().all(|rule| all.contains(rule)), "{found:#}");
    let fix = |rule: &str| {
        let findings = found["findings"].as_array().expect("findings");
        let finding = findings.iter().find(|finding| finding["rule"] == rule).expect("a finding");
        finding["fix"]["yaml"].as_str().expect("a fix").to_owned()
    };
    assert!(fix("MB010").contains("AWS::SNS::Subscription") && fix("MB006") == "BatchSize: 10000", "{found:#}");
}

#[test]
fn a_topics_queue_that_sam_makes_is_not_checkable() {
    let unreadable = topic("false").replace("Type: SNS", "Type: !ImportValue kind");
    assert_eq!(report_of(unreadable)["not_checkable"].as_array().map(Vec::len), Some(1), "a type that is not known");
    for (subscription, gaps) in [("true", 1), ("!Ref Nothing", 1), ("false", 0)] {
        let found = report_of(topic(subscription));
        assert_eq!(found["mappings"], 0, "{found:#}");
        assert_eq!(found["not_checkable"].as_array().map(Vec::len), Some(gaps), "{subscription}: {found:#}");
    }
}
