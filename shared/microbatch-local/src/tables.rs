//! The tables that a function needs, made where they are missing.
//!
//! On the loopback a missing table is made. Anywhere else it is an error that names the command: a local run must not leave
//! tables in an account by accident.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription, TableStatus,
};
use axum::http::Uri;
use tokio::time::{Instant, sleep};

use crate::environment::LOCAL_REGION;

/// How long a new table may take to become active.
const ACTIVE_TIMEOUT: Duration = Duration::from_secs(30);
const ACTIVE_POLL: Duration = Duration::from_millis(200);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A table: its name and its key attributes, all strings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableSpec {
    /// The table's name.
    pub name: String,
    /// The partition key's name.
    pub partition_key: String,
    /// The sort key's name, if the table has one.
    pub sort_key: Option<String>,
}

impl TableSpec {
    /// The idempotency table: partition key `id`, no sort key, as Powertools' default.
    pub fn idempotency(name: impl Into<String>) -> Self {
        Self { name: name.into(), partition_key: "id".to_owned(), sort_key: None }
    }

    /// A table from its name and `partition_key` or `partition_key,sort_key`.
    pub fn from_keys(name: &str, keys: &str) -> Result<Self, TableSpecError> {
        let mut keys = keys.split(',').map(str::trim);
        let partition_key = keys.next().unwrap_or_default();
        let sort_key = keys.next();
        if name.is_empty() || partition_key.is_empty() || sort_key == Some("") || keys.next().is_some() {
            return Err(TableSpecError { name: name.to_owned() });
        }
        Ok(Self {
            name: name.to_owned(),
            partition_key: partition_key.to_owned(),
            sort_key: sort_key.map(str::to_owned),
        })
    }

    fn create_command(&self, endpoint_url: &str) -> String {
        let mut attributes = format!("AttributeName={},AttributeType=S", self.partition_key);
        let mut schema = format!("AttributeName={},KeyType=HASH", self.partition_key);
        if let Some(sort_key) = &self.sort_key {
            // Writing to a string cannot fail.
            let _ = write!(attributes, " AttributeName={sort_key},AttributeType=S");
            let _ = write!(schema, " AttributeName={sort_key},KeyType=RANGE");
        }
        format!(
            "aws dynamodb create-table --endpoint-url {endpoint_url} --table-name {} --billing-mode PAY_PER_REQUEST \
             --attribute-definitions {attributes} --key-schema {schema}",
            self.name
        )
    }

    fn keys(&self) -> String {
        self.sort_key
            .as_ref()
            .map_or_else(|| self.partition_key.clone(), |sort| format!("{},{sort}", self.partition_key))
    }
}

/// `NAME=PARTITION_KEY` or `NAME=PARTITION_KEY,SORT_KEY`.
impl FromStr for TableSpec {
    type Err = TableSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, keys) = text.split_once('=').unwrap_or((text, ""));
        Self::from_keys(name.trim(), keys)
    }
}

/// A table's description is not of the expected form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpecError {
    /// The table's name, as far as it could be read.
    pub name: String,
}

impl fmt::Display for TableSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "table \"{}\": expected a name and a partition key, or a partition key and a sort key: orders=order_id, ledger=account_id,entry_id",
            self.name
        )
    }
}

impl std::error::Error for TableSpecError {}

/// Why the tables are not there.
#[derive(Debug)]
pub enum TableError {
    /// Neither `http://` nor `https://` and a host.
    BadEndpoint {
        /// The URL as given.
        endpoint_url: String,
    },
    /// The endpoint is not on this machine, and the user has no AWS credentials.
    NoCredentials {
        /// The URL.
        endpoint_url: String,
        /// The SDK's reason, in one line.
        reason: String,
    },
    /// No answer from the endpoint.
    Unreachable {
        /// The URL.
        endpoint_url: String,
        /// The SDK's reason.
        reason: String,
    },
    /// The endpoint answered with an error.
    Refused {
        /// The table.
        table: String,
        /// The service's error code and message.
        reason: String,
    },
    /// The table is not there, and the endpoint is not on this machine.
    Missing {
        /// The table.
        table: String,
        /// The command that makes it.
        command: String,
    },
    /// A table of that name has other keys.
    OtherKeys {
        /// The table.
        table: String,
        /// What the function needs.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The table did not become active in time.
    NotActive {
        /// The table.
        table: String,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadEndpoint { endpoint_url } => {
                write!(f, "\"{endpoint_url}\" is no endpoint: expected http://HOST:PORT or https://HOST")
            }
            Self::NoCredentials { endpoint_url, reason } => write!(
                f,
                "no AWS credentials were found, which {endpoint_url} needs: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY; only 127.0.0.1, ::1 and localhost need none ({reason})"
            ),
            Self::Unreachable { endpoint_url, reason } => {
                write!(f, "no DynamoDB answers at {endpoint_url}: {reason}; is the URL right, and is it running?")
            }
            Self::Refused { table, reason } => {
                write!(f, "DynamoDB refuses access to the table {table}: {reason}")
            }
            Self::Missing { table, command } => write!(
                f,
                "the table {table} does not exist, and tables are made only on this machine; make it with\n  {command}"
            ),
            Self::OtherKeys { table, expected, found } => {
                write!(f, "the table {table} has the key {found}; expected {expected}")
            }
            Self::NotActive { table } => {
                write!(f, "the table {table} did not become active within {} s", ACTIVE_TIMEOUT.as_secs())
            }
        }
    }
}

impl std::error::Error for TableError {}

/// A `DynamoDB` endpoint, named by its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    loopback: bool,
}

impl Endpoint {
    /// Checks the URL and whether it is on this machine.
    pub fn parse(url: &str) -> Result<Self, TableError> {
        let bad = || TableError::BadEndpoint { endpoint_url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad());
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        Ok(Self { url: url.to_owned(), loopback })
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// A client for it: with dummy keys on the loopback, else with the user's AWS identity.
    pub async fn client(&self) -> Client {
        if self.loopback {
            // Built without aws-config: whatever the user's profile says is not for the loopback.
            let config = aws_sdk_dynamodb::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .endpoint_url(&self.url)
                .region(Region::new(LOCAL_REGION))
                .credentials_provider(Credentials::new("local", "local", None, None, "local"))
                .timeout_config(timeouts())
                .retry_config(retries());
            return Client::from_conf(config.build());
        }
        Client::new(&self.users_config().await)
    }

    async fn users_config(&self) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .endpoint_url(&self.url)
            .timeout_config(timeouts())
            .retry_config(retries());
        if std::env::var_os("AWS_REGION").is_none() {
            loader = loader.region(Region::new(LOCAL_REGION));
        }
        loader.load().await
    }

    /// Looked for before the first request, whose error would name every place that was tried and blame the endpoint.
    async fn check_credentials(&self) -> Result<(), TableError> {
        if self.loopback {
            return Ok(());
        }
        let missing = |reason| TableError::NoCredentials { endpoint_url: self.url.clone(), reason };
        let config = self.users_config().await;
        let provider = config.credentials_provider().ok_or_else(|| missing("no provider".to_owned()))?;
        let found = provider.provide_credentials().await;
        found.map(drop).map_err(|error| {
            // On further lines the SDK lists every provider.
            let reason = causes(&error).lines().next().unwrap_or_default().trim_end_matches(" Attempted:").to_owned();
            missing(reason)
        })
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(OPERATION_TIMEOUT).build()
}

fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(2)
}

/// Makes the missing tables, pay per request, and checks the keys of those that are there.
pub async fn ensure(endpoint: &Endpoint, tables: &[TableSpec]) -> Result<(), TableError> {
    endpoint.check_credentials().await?;
    let client = endpoint.client().await;
    for table in tables {
        if let Some(found) = describe(&client, endpoint, table).await? {
            check_keys(table, &found)?;
        } else if endpoint.loopback {
            create(&client, endpoint, table).await?;
        } else {
            return Err(TableError::Missing {
                table: table.name.clone(),
                command: table.create_command(&endpoint.url),
            });
        }
        wait_until_active(&client, endpoint, table).await?;
    }
    Ok(())
}

async fn describe(
    client: &Client,
    endpoint: &Endpoint,
    table: &TableSpec,
) -> Result<Option<TableDescription>, TableError> {
    match client.describe_table().table_name(&table.name).send().await {
        Ok(output) => Ok(output.table),
        Err(error) if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) => {
            Ok(None)
        }
        Err(error) => Err(failure(endpoint, table, &error)),
    }
}

async fn create(client: &Client, endpoint: &Endpoint, table: &TableSpec) -> Result<(), TableError> {
    let keys = [(Some(&table.partition_key), KeyType::Hash), (table.sort_key.as_ref(), KeyType::Range)];
    let mut request = client.create_table().table_name(&table.name).billing_mode(BillingMode::PayPerRequest);
    for (name, key_type) in keys {
        let Some(name) = name else { continue };
        let attribute =
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
        let element = KeySchemaElement::builder().attribute_name(name).key_type(key_type).build();
        let (Ok(attribute), Ok(element)) = (attribute, element) else {
            unreachable!("both builders have all their fields");
        };
        request = request.attribute_definitions(attribute).key_schema(element);
    }
    match request.send().await {
        Ok(_) => Ok(()),
        // Another run made it meanwhile.
        Err(error) if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) => Ok(()),
        Err(error) => Err(failure(endpoint, table, &error)),
    }
}

async fn wait_until_active(client: &Client, endpoint: &Endpoint, table: &TableSpec) -> Result<(), TableError> {
    let end = Instant::now() + ACTIVE_TIMEOUT;
    loop {
        let found = describe(client, endpoint, table).await?;
        if found.is_some_and(|found| matches!(found.table_status, Some(TableStatus::Active | TableStatus::Updating))) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(TableError::NotActive { table: table.name.clone() });
        }
        sleep(ACTIVE_POLL).await;
    }
}

fn check_keys(table: &TableSpec, found: &TableDescription) -> Result<(), TableError> {
    let key = |key_type: KeyType| {
        found
            .key_schema()
            .iter()
            .find(|element| element.key_type == key_type)
            .map(|element| element.attribute_name.clone())
    };
    let is_text = |name: &str| {
        found
            .attribute_definitions()
            .iter()
            .any(|definition| definition.attribute_name == name && definition.attribute_type == ScalarAttributeType::S)
    };
    let (partition, sort) = (key(KeyType::Hash).unwrap_or_default(), key(KeyType::Range));
    let all_text = is_text(&partition) && sort.as_deref().is_none_or(is_text);
    if partition == table.partition_key && sort == table.sort_key && all_text {
        return Ok(());
    }
    let found = TableSpec { name: table.name.clone(), partition_key: partition, sort_key: sort };
    let of_type = if all_text { "" } else { " (not all strings)" };
    Err(TableError::OtherKeys {
        table: table.name.clone(),
        expected: format!("{} (strings)", table.keys()),
        found: format!("{}{of_type}", found.keys()),
    })
}

fn failure<E>(endpoint: &Endpoint, table: &TableSpec, error: &SdkError<E>) -> TableError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let metadata = context.err().meta();
            let reason = format!(
                "{}: {}",
                metadata.code().unwrap_or("unknown error"),
                metadata.message().unwrap_or("no message")
            );
            TableError::Refused { table: table.name.clone(), reason }
        }
        other => TableError::Unreachable { endpoint_url: endpoint.url.clone(), reason: causes(other) },
    }
}

/// An error and its causes in one line; the SDK's own text names only the outermost.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors print their cause themselves.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_from_its_short_form() {
        let ledger: TableSpec = "ledger=account_id,entry_id".parse().expect("a table");
        assert_eq!(ledger.sort_key.as_deref(), Some("entry_id"));
        assert_eq!(TableSpec::from_keys("orders", "order_id").expect("a table").sort_key, None);
        for bad in ["orders", "orders=", "=id", "orders=a,", "orders=a,b,c"] {
            assert!(bad.parse::<TableSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_the_loopback() {
        for (url, loopback) in [
            ("http://127.0.0.1:8000", true),
            ("http://localhost:8000/", true),
            ("http://[::1]:8000", true),
            ("https://dynamodb.eu-west-1.amazonaws.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(Endpoint::parse(url).expect(url).is_loopback(), loopback, "{url}");
        }
        for bad in ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "not a url"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_for_a_missing_table_is_whole() {
        let table = TableSpec::from_keys("ledger", "account_id,entry_id").expect("a table");
        let command = table.create_command("https://db.example.com");
        assert!(
            command.contains("--table-name ledger") && command.contains("AttributeName=entry_id,KeyType=RANGE"),
            "{command}"
        );
    }
}
