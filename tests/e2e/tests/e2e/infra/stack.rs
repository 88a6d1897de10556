//! The template as a stack: `sam deploy` with both stages of `samconfig.toml` on ministack's `CloudFormation`, which applies the SAM
//! transform and the template's rules.
//!
//! ministack has no `CodeDeploy`, so nothing is deployed gradually. It keeps neither the TTL nor the backups of a table, and drops a
//! mapping's metrics and pollers: those are compared in the template only. Its `CloudFormation` knows neither metric math nor
//! composite alarms, so the alarms are made by the calls of its CloudWatch, which does judge the composite ones.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::paths::target_dir;
use e2e::process::{Foreign, free_address, guarded};
use e2e::stack::need;
use e2e::tools::{ministack, sam_cli_bin};
use serde_json::{Value, json};

use super::alarms::{TELLING, alarms};
use super::settings::settings;
use super::template::{Template, UNITS, Unit, infra, list, map, number, output_of, python, quiet, text};

/// The account that ministack's resources are in.
const ACCOUNT: &str = "000000000000";

/// ministack, and a folder with what `sam build` would have made.
struct Cloud {
    address: SocketAddr,
    folder: PathBuf,
    _server: Foreign,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Cloud {
    async fn start() -> Self {
        let address = need(free_address());
        let mut command = guarded(need(ministack()));
        command.env("MINISTACK_HOST", address.ip().to_string()).env("GATEWAY_PORT", address.port().to_string());
        let mut server = need(Foreign::start(command, "infra-ministack"));
        need(server.until_listening(address).await);

        let folder = target_dir().join("e2e").join(format!("infra.{}.{}", std::process::id(), address.port()));
        need(fs::create_dir_all(folder.join("code")));
        // No message is sent, so nothing runs it.
        let bootstrap = folder.join("code/bootstrap");
        need(fs::write(&bootstrap, "#!/bin/sh\nexit 1\n"));
        need(fs::set_permissions(&bootstrap, fs::Permissions::from_mode(0o755)));
        copy(Path::new("template.yaml"), &folder, |line| match line.split_once("CodeUri:") {
            Some((indent, _)) => format!("{indent}CodeUri: code"),
            None => line.to_owned(),
        });
        copy(Path::new("samconfig.toml"), &folder, |line| match line.trim_start() {
            "\"GradualDeployment=true\"," => String::new(),
            stage if stage.starts_with("\"Stage=") => format!("{line} \"Alarms=false\","),
            _ => line.to_owned(),
        });
        for nested in ["alarms.yaml", "dashboards.yaml"] {
            need(fs::copy(infra().join(nested), folder.join(nested)));
        }
        Self { address, folder, _server: server }
    }

    /// Points a command at ministack, and lets it run in the folder.
    fn enter(&self, command: &mut Command) {
        command.env("AWS_ENDPOINT_URL", format!("http://{}", self.address)).current_dir(&self.folder);
    }

    fn deploy(&self, stage: &str) {
        let mut command = quiet(need(sam_cli_bin()).join("sam"));
        command.args(["deploy", "--template-file", "template.yaml", "--config-file", "samconfig.toml"]);
        command.args(["--config-env", stage, "--no-confirm-changeset", "--no-progressbar"]);
        self.enter(&mut command);
        output_of(&mut command);
    }

    fn describe(&self, stack: &str) -> Value {
        python("stack.py", |command| self.enter(command.args(["describe", stack])))
    }

    /// The errors of updates, each with these parameters; null for one that is accepted.
    fn updates(&self, stack: &str, cases: &[Value]) -> Value {
        let cases = cases.iter().map(ToString::to_string);
        python("stack.py", |command| self.enter(command.args(["update", stack]).args(cases)))
    }
}

/// Copies a file of `infra` with its lines changed.
fn copy(name: &Path, folder: &Path, change: impl Fn(&str) -> String) {
    let original = need(fs::read_to_string(infra().join(name)));
    let lines: String = original.lines().map(|line| change(line) + "\n").collect();
    assert_ne!(original, lines, "nothing to change in {}", name.display());
    need(fs::write(folder.join(name), lines));
}

/// A stage of `samconfig.toml`: its stack's name, and the template with its parameters.
fn stage(name: &str) -> (String, Template) {
    let configuration = python("read.py", |command| {
        command.args(["toml", "samconfig.toml"]);
    });
    let deploy = &configuration[name]["deploy"]["parameters"];
    let stack = text(&deploy["stack_name"]);
    let overrides: Vec<_> = list(&deploy["parameter_overrides"]).iter().map(text).collect();
    let parameters: Vec<_> = overrides.iter().filter_map(|pair| pair.split_once('=')).collect();
    assert_eq!(parameters.len(), overrides.len());
    let template = Template::read().with(&parameters).with(&[("GradualDeployment", "false"), ("Alarms", "false")]);
    (stack.clone(), template.deployed(&stack, ACCOUNT))
}

#[tokio::test]
async fn the_template_deploys_in_each_stage_and_makes_what_it_says() {
    let cloud = Cloud::start().await;
    for name in ["dev", "prod"] {
        cloud.deploy(name);
        let (stack, template) = stage(name);
        let found = cloud.describe(&stack);
        for unit in UNITS {
            queues_are(&template, unit, &found);
            mapping_is(&template, unit, &found);
            function_is(&template, unit, &found);
        }
        tables_are(&template, &found);
        assert_eq!(list(&found["log_groups"]).len(), UNITS.len());
        for group in list(&found["log_groups"]) {
            assert_eq!(text(&group["retentionInDays"]), template.parameter("LogRetentionDays"));
        }
        dashboards_are(&cloud, &stack, &template);
    }
    combinations_are_refused(&cloud);
}

fn queues_are(template: &Template, unit: Unit, found: &Value) {
    for id in [unit.id("Queue"), unit.id("DeadLetterQueue")] {
        let (said, is) = (template.properties(&id), &found["queues"][format!("{id}Url")]);
        assert!(text(&is["QueueArn"]).ends_with(&format!(":{}", text(&said["QueueName"]))), "{id}");
        assert_eq!(is["SqsManagedSseEnabled"], "true", "{id}");
        assert_eq!(is["FifoQueue"] == "true", unit.fifo, "{id}");
        for name in ["MessageRetentionPeriod", "VisibilityTimeout"] {
            if let Some(value) = said.get(name) {
                assert_eq!(text(&is[name]), text(value), "{name} of {id}");
            }
        }
        for name in ["RedrivePolicy", "RedriveAllowPolicy"] {
            if let Some(value) = said.get(name) {
                let is: Value = need(serde_json::from_str(&text(&is[name])));
                assert_eq!(is, *value, "{name} of {id}");
            }
        }
        let policy: Value = need(serde_json::from_str(&text(&is["Policy"])));
        assert_eq!(policy["Statement"][0]["Resource"], is["QueueArn"], "{id}");
    }
}

fn mapping_is(template: &Template, unit: Unit, found: &Value) {
    let said = template.properties(&unit.id("EventSource"));
    let mappings = list(&found["mappings"][unit.id("FunctionName")]);
    assert_eq!(mappings.len(), 1, "{}", unit.name);
    let is = &mappings[0];
    assert_eq!(is["State"], "Enabled");
    assert_eq!(is["EventSourceArn"], said["EventSourceArn"]);
    assert!(text(&is["FunctionArn"]).ends_with(&format!(":{}", text(&said["FunctionName"]))), "{is}");
    assert_eq!(is["FunctionResponseTypes"], json!(["ReportBatchItemFailures"]));
    assert_eq!(number(&is["BatchSize"]), number(&said["BatchSize"]));
    let window = said.get("MaximumBatchingWindowInSeconds").map_or(0, number);
    assert_eq!(number(&is["MaximumBatchingWindowInSeconds"]), window);
    let most = |mapping: &Value| number(&mapping["ScalingConfig"]["MaximumConcurrency"]);
    assert_eq!(most(is), most(&said));
}

fn function_is(template: &Template, unit: Unit, found: &Value) {
    let said = template.properties(&unit.id("Function"));
    let is = &found["functions"][unit.id("FunctionName")];
    assert_eq!(is["FunctionName"], said["FunctionName"]);
    assert_eq!(text(&is["Timeout"]), text(&said["Timeout"]));
    assert_eq!(is["MemorySize"], said["MemorySize"]);
    assert_eq!((&is["TracingConfig"]["Mode"], &is["LoggingConfig"]["LogFormat"]), (&json!("Active"), &json!("JSON")));
    assert_eq!(is["LoggingConfig"]["ApplicationLogLevel"], template.parameter("LogLevel"));
    assert_eq!(is["LoggingConfig"]["LogGroup"], said["LoggingConfig"]["LogGroup"]);

    let variables = map(&is["Environment"]["Variables"]).iter();
    let (options, settings) = settings(unit, variables.map(|(name, value)| (name.clone(), text(value))));
    assert_eq!(options.outage_budget_s.to_string(), template.parameter("OutageBudgetSeconds"));
    assert_eq!(settings.table, text(&found["outputs"]["IdempotencyTableName"]));
    let queues = settings.queues.expect("delays need the queue");
    assert_eq!(queues.source_url, text(&found["outputs"][unit.id("QueueUrl")]));
    let park = (!unit.fifo).then(|| text(&found["outputs"][unit.id("DeadLetterQueueUrl")]));
    assert_eq!(queues.park_url, park);
}

fn tables_are(template: &Template, found: &Value) {
    let tables = map(&found["tables"]);
    assert_eq!(tables.len(), template.ids("AWS::DynamoDB::Table").len());
    for (output, is) in tables {
        let said = template.properties(output.trim_end_matches("Name"));
        for name in ["KeySchema", "AttributeDefinitions"] {
            assert_eq!(is[name], said[name], "{output}");
        }
        assert_eq!(is["BillingModeSummary"]["BillingMode"], said["BillingMode"], "{output}");
        assert_eq!(text(&is["DeletionProtectionEnabled"]), text(&said["DeletionProtectionEnabled"]), "{output}");
    }
}

/// Each function's three are there, if they are wanted, and name its own function, queues, mapping, table and log group.
fn dashboards_are(cloud: &Cloud, stack: &str, template: &Template) {
    let found = python("stack.py", |command| cloud.enter(command.args(["dashboards", stack])));
    let made = template.ids("AWS::CloudFormation::Stack");
    assert_eq!(map(&found).len(), 3 * made.len(), "{made:?}");
    for id in made {
        let given = template.properties(id)["Parameters"].clone();
        let function = text(&given["FunctionName"]);
        let body = |name: &str| {
            let body = text(&found[format!("{function}-{name}")]);
            assert!(
                serde_json::from_str::<Value>(&body).is_ok_and(|body| body["widgets"].is_array()),
                "{function}-{name}"
            );
            body
        };
        let all = ["executive", "on-call", "debug"].map(body).concat();
        for of in ["QueueName", "DeadLetterQueueName", "LogGroupName"] {
            assert!(
                all.contains(&format!("\"{}\"", text(&given[of]))) || all.contains(&format!("'{}'", text(&given[of]))),
                "{of}"
            );
        }
        // What the stack makes has no name before: the table, and the mapping.
        assert!(all.contains(&format!("{stack}-IdempotencyTable-")) && !all.contains("${"), "{function}");
    }
}

#[tokio::test]
async fn composite_alarms_go_off_with_what_they_are_made_of() {
    let cloud = Cloud::start().await;
    let alarms = alarms(&[]);
    let properties = |ids: &[&str]| ids.iter().map(|id| alarms.properties(id)).collect::<Vec<_>>();
    let burns = ["batch-burn-30m", "batch-burn-5m", "item-burn-30m", "item-burn-5m"];
    let mut cases = vec![(vec![], vec![])];
    cases.extend(burns.map(|window| (vec![window], vec![])));
    for of in [vec!["batch-burn-30m", "item-burn-5m"], vec!["batch-burn-5m", "item-burn-30m"]] {
        cases.push((of, vec![]));
    }
    cases.push((vec![burns[0], burns[1]], vec!["batch-burn", "page"]));
    cases.push((vec![burns[2], burns[3]], vec!["item-burn", "page"]));
    for paged in ["batch-latency", "batch-loss", "oldest-message"] {
        cases.push((vec![paged], vec!["page"]));
    }
    cases.push((vec!["dead-letters"], vec!["dead-letters-page"]));
    cases.push((vec!["repeated-effects"], vec!["repeated-effects-page"]));
    cases.push((vec!["lost-leases"], vec!["lost-leases-ticket"]));
    for ticket in ["batch-size", "busy", "cost-per-item", "duplicates", "requeue-failures", "store-errors", "throttles"]
    {
        cases.push((vec![ticket], vec!["ticket"]));
    }
    cases.push((vec!["dead-letters", "throttles"], vec!["dead-letters-page", "ticket"]));
    cases.push((vec!["dead-letters", "batch-loss"], vec!["dead-letters-page", "page"]));

    // One that names another comes after it.
    let composite = [["BatchBurnAlarm", "ItemBurnAlarm"].as_slice(), TELLING.map(|(id, _, _)| id).as_slice()].concat();
    let named = |names: &[&str]| names.iter().map(|name| format!("orders-{name}")).collect::<Vec<_>>();
    let request = json!({
        "metric": properties(&alarms.ids("AWS::CloudWatch::Alarm")),
        "composite": properties(&composite),
        "cases": cases.iter().map(|(off, _)| named(off)).collect::<Vec<_>>(),
    });
    let found = python("stack.py", |command| cloud.enter(command.args(["alarms", &request.to_string()])));
    for ((off, expected), found) in cases.iter().zip(list(&found)) {
        assert_eq!(*found, json!(named(expected)), "{off:?}");
    }
    assert_eq!(list(&found).len(), cases.len());
}

/// A function's least and most pollers, without the limit that excludes them.
fn pollers(prefix: &str, least: &str, most: &str) -> Value {
    json!({
        format!("{prefix}MaximumConcurrency"): "0",
        format!("{prefix}MinimumPollers"): least,
        format!("{prefix}MaximumPollers"): most,
    })
}

/// What AWS would accept, or refuse only after a while, is refused before anything is changed.
fn combinations_are_refused(cloud: &Cloud) {
    let cases = [
        (json!({"Stage": "prod", "DeletionProtection": "false"}), "In prod the tables are protected"),
        (json!({"ProcessOrdersBatchSize": "11", "ProcessOrdersBatchWindow": "0"}), "set ProcessOrdersBatchWindow to 1"),
        (json!({"IngestTelemetryBatchWindow": "0"}), "set IngestTelemetryBatchWindow to 1"),
        (json!({"ProcessOrdersMaximumConcurrency": "1"}), "The least that ProcessOrdersMaximumConcurrency can be is 2"),
        (json!({"IngestTelemetryMinimumPollers": "1"}), "IngestTelemetryMinimumPollers"),
        (pollers("ProcessOrders", "5", "2"), "raise ProcessOrdersMaximumPollers"),
        (pollers("IngestTelemetry", "200", "100"), "raise IngestTelemetryMaximumPollers"),
        (pollers("PostLedger", "50", "20"), "raise PostLedgerMaximumPollers"),
        (json!({"PostLedgerMinimumPollers": "2"}), "set PostLedgerMaximumConcurrency to 0"),
        (json!({"PostLedgerBatchSize": "11"}), "PostLedgerBatchSize"),
        (json!({"MaxReceiveCount": "4"}), "MaxReceiveCount"),
        (json!({"MaxReceiveCount": "61"}), "MaxReceiveCount"),
        (json!({"OutageBudgetSeconds": "112001"}), "OutageBudgetSeconds"),
        (json!({"ProcessOrdersBatchWindow": "301"}), "ProcessOrdersBatchWindow"),
        (json!({"ProcessOrdersTimeout": "901"}), "ProcessOrdersTimeout"),
        // It matches nothing, so that everything would be deleted.
        (json!({"ProcessOrdersFilter": r#"{"currency":["EUR"]}"#}), "ProcessOrdersFilter"),
    ];
    let (stack, _) = stage("prod");
    let parameters: Vec<_> = cases.iter().map(|(parameters, _)| parameters.clone()).collect();
    let errors = cloud.updates(&stack, &parameters);
    for ((parameters, reason), error) in cases.iter().zip(list(&errors)) {
        let error = error.as_str().unwrap_or_else(|| panic!("{parameters} is accepted"));
        assert!(error.contains(reason), "{parameters}: {error}");
    }
}
