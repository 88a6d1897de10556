//! Locks between processes, on files. The system drops them with their holder, however that ends.

use std::fs::File;
use std::io;
use std::path::Path;

/// Waits until no other process holds the lock file, and holds it alone until the answer is dropped.
pub(crate) fn exclusive(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    file.lock()?;
    Ok(file)
}

/// Waits until no other process holds the lock file alone, and keeps all from doing so until the answer is dropped.
pub(crate) fn shared(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    file.lock_shared()?;
    Ok(file)
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}
