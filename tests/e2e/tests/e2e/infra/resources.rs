//! The resources of the template, for what AWS would accept otherwise too.

use serde_json::{Value, json};

use super::template::{Template, UNITS, Unit, list, map, number, text};

const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/0a";

fn arn_of_queue(template: &Template, id: &str) -> Value {
    template.resolve(&json!({"Fn::GetAtt": [id, "Arn"]})).unwrap_or_default()
}

#[test]
fn each_queue_has_its_own_dead_letter_queue_of_its_kind() {
    let template = Template::read();
    for unit in UNITS {
        let (queue_id, dead_id) = (unit.id("Queue"), unit.id("DeadLetterQueue"));
        let (queue, dead) = (template.properties(&queue_id), template.properties(&dead_id));
        assert_eq!(queue["RedrivePolicy"]["deadLetterTargetArn"], arn_of_queue(&template, &dead_id));
        let allowed = json!({"redrivePermission": "byQueue", "sourceQueueArns": [arn_of_queue(&template, &queue_id)]});
        assert_eq!(dead["RedriveAllowPolicy"], allowed, "{}", unit.name);
        for queue in [queue, dead] {
            assert_eq!(queue["FifoQueue"] == true, unit.fifo);
            assert_eq!(text(&queue["QueueName"]).as_bytes().ends_with(b".fifo"), unit.fifo);
        }
    }
}

#[test]
fn every_queue_is_encrypted_and_refuses_what_is_not() {
    let own = Template::read();
    let ours = Template::read().with(&[("KmsKeyArn", KEY)]);
    let queues = own.ids("AWS::SQS::Queue");
    assert_eq!(queues.len(), 2 * UNITS.len());
    for id in queues {
        let encryption = |template: &Template| {
            let queue = template.properties(id);
            (queue["SqsManagedSseEnabled"].clone(), queue["KmsMasterKeyId"].clone())
        };
        assert_eq!(encryption(&own), (json!(true), Value::Null), "{id}");
        assert_eq!(encryption(&ours), (Value::Null, json!(KEY)), "{id}");

        let policy = own.properties(&format!("{id}Policy"));
        assert_eq!(policy["Queues"], json!([own.resolve(&json!({"Ref": id}))]));
        let only_tls = json!([{
            "Sid": "OnlyTls",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": arn_of_queue(&own, id),
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }]);
        assert_eq!(policy["PolicyDocument"]["Statement"], only_tls, "{id}");
    }
}

#[test]
fn every_table_is_backed_up_protected_and_kept() {
    let template = Template::read();
    let tables = template.ids("AWS::DynamoDB::Table");
    assert_eq!(tables.len(), 5);
    for id in tables {
        let table = template.properties(id);
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{id}");
        assert_eq!(table["PointInTimeRecoverySpecification"], json!({"PointInTimeRecoveryEnabled": true}), "{id}");
        assert_eq!(table["DeletionProtectionEnabled"], "true", "{id}");
        assert_eq!(table["SSESpecification"], Value::Null, "{id}");
        let of_key = Template::read().with(&[("KmsKeyArn", KEY), ("DeletionProtection", "false")]).properties(id);
        let specification = json!({"SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": KEY});
        assert_eq!(of_key["SSESpecification"], specification, "{id}");
        assert_eq!(of_key["DeletionProtectionEnabled"], "false", "{id}");
        let resource = &template.body()["Resources"][id];
        assert_eq!(
            (&resource["DeletionPolicy"], &resource["UpdateReplacePolicy"]),
            (&json!("Retain"), &json!("Retain"))
        );
    }
}

#[test]
fn the_idempotency_table_is_what_the_store_expects_and_is_warmed_when_asked() {
    let template = Template::read();
    let table = template.properties("IdempotencyTable");
    assert_eq!(table["KeySchema"], json!([{"AttributeName": "id", "KeyType": "HASH"}]));
    assert_eq!(table["TimeToLiveSpecification"], json!({"AttributeName": "expiration", "Enabled": true}));
    assert_eq!(table["WarmThroughput"], Value::Null);
    for (reads, writes) in [("12000", "40000"), ("20000", "4000"), ("20000", "40000")] {
        let warm = [("WarmReadUnitsPerSecond", reads), ("WarmWriteUnitsPerSecond", writes)];
        let table = Template::read().with(&warm).properties("IdempotencyTable");
        assert_eq!(table["WarmThroughput"], json!({"ReadUnitsPerSecond": reads, "WriteUnitsPerSecond": writes}));
    }
}

#[test]
fn every_function_runs_traced_on_the_asked_processor_and_logs_json_that_ends() {
    for architecture in ["x86_64", "arm64"] {
        let template = Template::read().with(&[("Architecture", architecture), ("LogRetentionDays", "7")]);
        let globals = template.resolve(&template.body()["Globals"]["Function"]).unwrap_or_default();
        assert_eq!(globals["Architectures"], json!([architecture]));
        assert_eq!((&globals["Runtime"], &globals["Handler"]), (&json!("provided.al2023"), &json!("bootstrap")));
        assert_eq!(globals["Tracing"], "Active");
        assert_eq!(globals["LoggingConfig"], json!({"LogFormat": "JSON", "ApplicationLogLevel": "INFO"}));
        for unit in UNITS {
            let function = template.properties(&unit.id("Function"));
            let group = template.properties(&unit.id("LogGroup"));
            assert_eq!(function["LoggingConfig"]["LogGroup"], group["LogGroupName"]);
            assert_eq!(number(&group["RetentionInDays"]), 7);
            let metadata = &template.body()["Resources"][unit.id("Function")]["Metadata"];
            assert_eq!(
                (&metadata["BuildMethod"], &metadata["BuildProperties"]),
                (&json!("rust-cargolambda"), &json!({"Binary": unit.name}))
            );
        }
    }
}

fn mapping(unit: Unit, parameters: &[(String, &str)]) -> Value {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    Template::read().with(&parameters).properties(&unit.id("EventSource"))
}

#[test]
fn every_mapping_asks_which_messages_failed_and_is_limited_in_one_way() {
    for unit in UNITS {
        let limited = mapping(unit, &[(unit.id("MaximumConcurrency"), "7")]);
        assert_eq!(limited["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]));
        assert_eq!(limited["MetricsConfig"], json!({"Metrics": ["EventCount"]}));
        assert_eq!(limited["EventSourceArn"], arn_of_queue(&Template::read(), &unit.id("Queue")));
        assert_eq!(limited["ScalingConfig"], json!({"MaximumConcurrency": "7"}));
        assert_eq!(limited["ProvisionedPollerConfig"], Value::Null);

        let provisioned = mapping(unit, &[(unit.id("MaximumConcurrency"), "0"), (unit.id("MinimumPollers"), "5")]);
        assert_eq!(provisioned["ScalingConfig"], Value::Null);
        assert_eq!(provisioned["ProvisionedPollerConfig"], json!({"MinimumPollers": "5", "MaximumPollers": "200"}));

        assert_eq!(limited["FilterCriteria"], Value::Null, "what does not match is deleted");
        let filtered = mapping(unit, &[(unit.id("Filter"), r#"{"body":{"a":[1]}}"#)]);
        assert_eq!(filtered["FilterCriteria"], json!({"Filters": [{"Pattern": r#"{"body":{"a":[1]}}"#}]}));
    }
}

#[test]
fn batches_are_within_what_their_queue_gives() {
    let template = Template::read();
    for unit in UNITS {
        let parameter = |of: &str| &template.body()["Parameters"][unit.id(of)];
        let mapping = template.properties(&unit.id("EventSource"));
        let most = if unit.fifo { 10 } else { 10_000 };
        assert_eq!(
            (number(&parameter("BatchSize")["MinValue"]), number(&parameter("BatchSize")["MaxValue"])),
            (1, most)
        );
        assert_eq!(mapping.get("MaximumBatchingWindowInSeconds").is_none(), unit.fifo, "a FIFO queue knows no window");
    }
    let telemetry = template.properties("IngestTelemetryEventSource");
    assert_eq!(number(&telemetry["BatchSize"]), 10_000);
}

#[test]
fn gradual_deployment_shifts_the_alias_and_watches_dead_letters_and_errors() {
    let template = Template::transformed(&[("GradualDeployment", "true")]);
    assert_eq!(template.ids("AWS::CodeDeploy::Application").len(), 1);
    for unit in UNITS {
        let group = template.properties(&unit.id("FunctionDeploymentGroup"));
        let alarms = ["DeadLettersAlarm", "ErrorsAlarm"].map(|of| unit.id(of));
        let watched = json!({"Enabled": true, "Alarms": alarms.each_ref().map(|id| json!({"Name": id}))});
        assert_eq!(group["AlarmConfiguration"], watched);
        assert_eq!(group["ServiceRoleArn"], "DeploymentRole.Arn");
        let rolls_back = list(&group["AutoRollbackConfiguration"]["Events"]);
        assert!(rolls_back.contains(&json!("DEPLOYMENT_STOP_ON_ALARM")), "{rolls_back:?}");
        let alias = &template.body()["Resources"][unit.id("FunctionAliaslive")];
        assert!(map(&alias["UpdatePolicy"]).contains_key("CodeDeployLambdaAliasUpdate"));
        let invoked = template.properties(&unit.id("EventSource"));
        assert_eq!(invoked["FunctionName"], format!("stack-{}:live", unit.name));
        let made = template.ids("AWS::CloudWatch::Alarm");
        assert!(alarms.iter().all(|id| made.contains(&id.as_str())), "{made:?}");
        let errors = template.properties(&unit.id("ErrorsAlarm"));
        let of_alias = json!([
            {"Name": "FunctionName", "Value": format!("stack-{}", unit.name)},
            {"Name": "Resource", "Value": invoked["FunctionName"]},
        ]);
        assert_eq!(errors["Dimensions"], of_alias);
        assert_eq!((&errors["MetricName"], &errors["Statistic"]), (&json!("Errors"), &json!("Sum")));
    }
}

#[test]
fn without_gradual_deployment_there_is_nothing_of_it_and_a_change_counts_at_once() {
    let template = Template::transformed(&[]);
    for of_type in ["AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup", "AWS::CloudWatch::Alarm"] {
        assert!(template.ids(of_type).is_empty(), "{of_type}");
    }
    for unit in UNITS {
        // An alias would keep the variables of its version when only a parameter changes.
        let invoked = template.properties(&unit.id("EventSource"));
        assert_eq!(invoked["FunctionName"], format!("stack-{}", unit.name));
    }
}
