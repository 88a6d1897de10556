//! How a command ends that was told to.

use crate::exit::Exit;

/// Waits until the user or the system wants the command to end.
pub(crate) async fn interrupted() -> Exit {
    Exit::Signal(microbatch_local::interrupt::interrupted().await)
}
