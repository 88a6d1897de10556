//! P15: the roles in the template hold the statements of `infra/policies`, with this stack's resources, and nothing else.

use std::collections::BTreeMap;
use std::fs;

use e2e::stack::need;
use serde_json::{Value, json};

use super::template::{Template, UNITS, Unit, infra, list, text};

const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/0a";

/// The policies that a function needs, with the resources that their placeholders stand for.
fn expected(template: &Template, unit: Unit) -> BTreeMap<String, Value> {
    let arn = |id: String| text(&template.resolve(&json!({"Fn::GetAtt": [id, "Arn"]})).unwrap_or_default());
    let queue = arn(unit.id("Queue"));
    let mut files = vec!["lambda-itself", "tracing", "kms", "idempotency-table", "backoff", unit.name];
    // On a FIFO queue nothing is parked.
    files.extend((!unit.fifo).then_some("park-queue"));
    let resources = [
        ("${QueueArn}", queue),
        // The ARN of a log group, as CloudFormation gives it, ends in `:*`: its streams.
        ("${LogGroupArn}:*", arn(unit.id("LogGroup"))),
        ("${ParkQueueArn}", arn(unit.id("DeadLetterQueue"))),
        ("${IdempotencyTableArn}", arn("IdempotencyTable".to_owned())),
        ("${OrdersTableArn}", arn("OrdersTable".to_owned())),
        ("${TelemetryTableArn}", arn("TelemetryTable".to_owned())),
        ("${LedgerTableArn}", arn("LedgerTable".to_owned())),
        ("${BalancesTableArn}", arn("BalancesTable".to_owned())),
        ("${KmsKeyArn}", KEY.to_owned()),
        ("${Region}", "eu-west-1".to_owned()),
    ];
    let mut statements = Vec::new();
    for file in files {
        let mut policy = need(fs::read_to_string(infra().join("policies").join(format!("{file}.json"))));
        for (placeholder, resource) in &resources {
            policy = policy.replace(placeholder, resource);
        }
        assert!(!policy.contains("${"), "{file}.json has a placeholder that nothing here stands for");
        let policy: Value = need(serde_json::from_str(&policy));
        statements.extend(list(&policy["Statement"]).to_vec());
    }
    by_sid(statements)
}

/// The statements of a function's role in the template.
fn found(template: &Template, unit: Unit) -> BTreeMap<String, Value> {
    let role = template.properties(&unit.id("Role"));
    assert_eq!(role["ManagedPolicyArns"], json!(["FunctionPolicy"]), "AWS's own policies cover the whole account");
    let shared = template.properties("FunctionPolicy");
    let own = list(&role["Policies"]).iter().map(|policy| &policy["PolicyDocument"]);
    let documents = own.chain([&shared["PolicyDocument"]]);
    by_sid(documents.flat_map(|document| list(&document["Statement"]).to_vec()).collect())
}

/// Statements by their names, with the actions in order.
fn by_sid(statements: Vec<Value>) -> BTreeMap<String, Value> {
    let count = statements.len();
    let named = statements.into_iter().map(|mut statement| {
        if let Some(actions) = statement["Action"].as_array_mut() {
            actions.sort_by_key(text);
        }
        (text(&statement["Sid"]), statement)
    });
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), count, "two statements have one name");
    named
}

/// P15
#[test]
fn p15_the_roles_in_the_template_are_the_policies() {
    let template = Template::read().with(&[("KmsKeyArn", KEY)]);
    for unit in UNITS {
        assert_eq!(found(&template, unit), expected(&template, unit), "{}", unit.name);
    }
}

/// P15
#[test]
fn p15_without_a_key_no_role_may_use_one_and_only_tracing_names_no_resource() {
    let template = Template::read();
    for unit in UNITS {
        let found = found(&template, unit);
        assert!(!found.contains_key("UseKey"));
        for (sid, statement) in found {
            assert_eq!(statement["Resource"] == "*", sid == "Trace", "{sid}");
            assert!(list(&statement["Action"]).iter().all(|action| !text(action).contains('*')), "{sid}");
        }
    }
}

#[test]
fn a_permissions_boundary_bounds_every_role() {
    let boundary = "arn:aws:iam::123456789012:policy/boundary";
    for (gradual, more) in [("false", 0), ("true", 1)] {
        // The transform adds roles where the template names none.
        let parameters = [("PermissionsBoundaryArn", boundary), ("GradualDeployment", gradual)];
        let template = Template::transformed(&parameters);
        let roles = template.ids("AWS::IAM::Role");
        assert_eq!(roles.len(), UNITS.len() + more, "{roles:?}");
        for role in roles {
            assert_eq!(template.properties(role)["PermissionsBoundary"], boundary, "{role}");
            assert_eq!(Template::read().properties(role)["PermissionsBoundary"], Value::Null);
        }
    }
}
