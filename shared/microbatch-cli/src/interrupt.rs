//! Ctrl-C and its kin.

use crate::exit::Exit;

/// Waits until the user or the system wants the command to end.
#[cfg(unix)]
pub(crate) async fn interrupted() -> Exit {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        // Without handlers the signals do what they do by default, which ends the command as well.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Exit::Signal(2),
        _ = terminate.recv() => Exit::Signal(15),
        _ = hang_up.recv() => Exit::Signal(1),
    }
}

/// Waits until the user wants the command to end.
#[cfg(not(unix))]
pub(crate) async fn interrupted() -> Exit {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Exit::Signal(2),
        Err(_) => std::future::pending().await,
    }
}
