//! Where the workspace and cargo's target folder are.

use std::path::{Path, PathBuf};

/// The file that cargo leaves in the root of every target folder.
const TARGET_TAG: &str = "CACHEDIR.TAG";

/// The workspace's root folder.
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_owned()
}

/// Cargo's target folder: the one that this program runs from, else the workspace's own.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .find(|folder| folder.join(TARGET_TAG).is_file())
        .map_or_else(|| workspace_root().join("target"), Path::to_owned)
}

/// The sample events.
pub fn events_dir() -> PathBuf {
    workspace_root().join("events")
}
