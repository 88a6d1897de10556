//! Our own event source mapping: polls a real SQS API, makes batches, invokes a function's real process, and deletes what
//! its answer lets it delete, by the rules of Lambda's.
//!
//! The rules are pure and are told the time: [`settings`], [`batching`], [`verdict`], [`scaling`], and [`planner`], which
//! puts them together. [`poller`] does what the planner says. Where AWS gives no number, the page of that module says that
//! the number is ours.
//!
//! Left out: filters, provisioned pollers, and the wait of up to 20 s that Lambda may add to a batching window while there is
//! little traffic.

pub mod batching;
mod calls;
mod environments;
pub mod event;
pub mod planner;
pub mod poller;
pub mod progress;
pub mod scaling;
pub mod settings;
pub mod verdict;

pub use self::calls::{CallError, loopback_client};
pub use self::poller::{Mapping, MappingError, MappingSpec};
pub use self::progress::{Counts, MappingEvent, Observer};
pub use self::settings::{MappingInput, MappingSettings, Queue, SettingsError, SettingsProblem};
