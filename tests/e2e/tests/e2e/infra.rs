//! What is deployed: `infra/template.yaml`, its `samconfig.toml`, the policies and the Terraform example.
//!
//! The linters of AWS and others look at them, ministack's `CloudFormation` deploys the template, and what depends on each other
//! in it is compared: queues with functions, variables with what microbatch reads, roles with the policies, alarms and dashboards
//! with the metrics and the runbooks.

mod alarms;
mod dashboards;
mod lint;
mod math;
pub(crate) mod metrics;
mod policies;
mod resources;
mod runbooks;
mod settings;
mod stack;
pub(crate) mod template;
mod terraform;
