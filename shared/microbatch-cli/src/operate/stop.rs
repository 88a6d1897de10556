//! Ctrl-C for commands that must tidy up: the first one asks for the end, the second one is the end.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;

/// Whether the command is to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Exit>>);

impl Stop {
    /// The signal that was heard.
    pub(crate) fn heard(&self) -> Option<Exit> {
        *self.0.borrow()
    }

    /// Waits until there is one.
    pub(crate) async fn wait(&self) -> Exit {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await.map(|heard| *heard) {
            Ok(Some(exit)) => exit,
            _ => std::future::pending().await,
        }
    }

    /// Waits this long, or until there is one.
    pub(crate) async fn sleep(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.wait()).await;
    }
}

/// Runs a command that hears the first signal itself. A second one ends it where it is.
pub(crate) async fn stoppable<F>(command: impl FnOnce(Stop) -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    let (sender, receiver) = watch::channel(None);
    let running = std::pin::pin!(command(Stop(receiver)));
    let signals = async {
        let first = interrupted().await;
        // The command may be at its end already.
        let _ = sender.send(Some(first));
        interrupted().await
    };
    tokio::select! {
        ended = running => ended,
        second = signals => Ok(second),
    }
}
