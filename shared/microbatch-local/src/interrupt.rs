//! Ctrl-C and its kin: functions are in process groups of their own and do not hear them, so that whoever runs functions must.

/// Waits until the user or the system wants this process to end, and gives the signal's number.
#[cfg(unix)]
pub async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        // Without handlers the signals do what they do by default, which ends the process as well.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    }
}

/// Waits until the user wants this process to end, and gives the signal's number.
#[cfg(not(unix))]
pub async fn interrupted() -> u8 {
    match tokio::signal::ctrl_c().await {
        Ok(()) => 2,
        Err(_) => std::future::pending().await,
    }
}
