//! The environment of a function's process: what Lambda sets, what the machine needs, and where `DynamoDB` is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The region that local functions see.
pub const LOCAL_REGION: &str = "eu-west-1";
/// The account in local ARNs: the one that AWS's documentation uses.
const LOCAL_ACCOUNT: &str = "123456789012";
const MEMORY_MB: &str = "512";

/// The name of the idempotency table unless `MICROBATCH_TABLE` says otherwise.
pub const DEFAULT_TABLE: &str = "idempotency";
/// The variable that names the idempotency table.
pub const TABLE_VARIABLE: &str = "MICROBATCH_TABLE";

/// Variables of this process that a function's process keeps: without them programs fail to start, to write temporary files, to
/// find certificates, or to print a backtrace where one was asked for.
const INHERITED: [&str; 12] = [
    "PATH",
    "TMPDIR",
    "TMP",
    "TEMP",
    "LANG",
    "LC_ALL",
    "TZ",
    "SYSTEMROOT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// What an SDK needs to act for the user on a `DynamoDB` that is not on this machine.
const AWS_IDENTITY: [&str; 14] = [
    "HOME",
    "USERPROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CA_BUNDLE",
];

/// The variables that a function's process inherits. Everything else of the caller's environment stays out, so that a local run
/// does not depend on it.
pub fn inherited() -> BTreeMap<String, String> {
    taken(&INHERITED)
}

/// What Lambda itself sets for a process whose Runtime API is at `runtime_api`.
pub fn runtime(function_name: &str, runtime_api: SocketAddr) -> BTreeMap<String, String> {
    let log_group = format!("/aws/lambda/{function_name}");
    variables([
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string().as_str()),
        ("AWS_LAMBDA_FUNCTION_NAME", function_name),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MB),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", &log_group),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "local"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_REGION", LOCAL_REGION),
    ])
}

/// What a local run adds: the `DynamoDB` at `endpoint_url`, the idempotency table, and a log line an item.
///
/// On a loopback endpoint the keys are dummies and the SDK is kept from the user's profile and from instance metadata; on another
/// endpoint the function gets the user's AWS identity.
pub fn local(endpoint_url: &str, loopback: bool) -> BTreeMap<String, String> {
    let mut env = variables([
        ("AWS_ENDPOINT_URL_DYNAMODB", endpoint_url),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        (TABLE_VARIABLE, DEFAULT_TABLE),
        ("MICROBATCH_ITEM_LOG", "all"),
    ]);
    if loopback {
        env.extend(variables([("AWS_ACCESS_KEY_ID", "local"), ("AWS_SECRET_ACCESS_KEY", "local")]));
    } else {
        env.remove("AWS_EC2_METADATA_DISABLED");
        env.extend(taken(&AWS_IDENTITY));
    }
    env
}

/// The ARN that a function of this name is invoked under.
pub fn function_arn(function_name: &str) -> String {
    format!("arn:aws:lambda:{LOCAL_REGION}:{LOCAL_ACCOUNT}:function:{function_name}")
}

fn taken(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
}

fn variables<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
