//! From the command line to a binary and what it needs: a package is found and built, a path is taken as it is.

use std::path::{Path, PathBuf};

use microbatch_local::package::{LocalNeeds, PackageError, Workspace};

use crate::exit::Failure;

/// A function that can be started.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) needs: LocalNeeds,
}

/// The workspace of the current folder; without one only paths can be used.
pub(crate) async fn workspace() -> Result<Workspace, PackageError> {
    Workspace::find(Path::new(".")).await
}

/// Finds the function and, if it is a package, builds it.
pub(crate) async fn resolve(
    function: &str,
    release: bool,
    workspace: Result<&Workspace, &PackageError>,
) -> Result<Target, Failure> {
    if is_path(function) {
        return built(Path::new(function));
    }
    let workspace = workspace.map_err(|error| Failure::usage(format!("{error}; name a built function by its path")))?;
    let package = workspace.function(function).map_err(Failure::usage)?;
    // A local build shares its dependencies with this command, where that comes from the same workspace. A release build is the
    // function's alone, as it is deployed.
    let own = env!("CARGO_PKG_NAME");
    let alongside = (!release && workspace.contains(own)).then_some(own);
    let program = package.build(release, alongside).await.map_err(Failure::environment)?;
    Ok(Target { name: package.name, program, needs: package.needs })
}

fn is_path(function: &str) -> bool {
    function.contains(['/', std::path::MAIN_SEPARATOR]) || Path::new(function).is_file()
}

fn built(path: &Path) -> Result<Target, Failure> {
    if !path.is_file() {
        let what = if path.exists() { "is no file" } else { "does not exist" };
        return Err(Failure::usage(format!("the function {} {what}; expected a built binary", path.display())));
    }
    // A bare name would be looked for in PATH.
    let program = std::path::absolute(path).map_err(Failure::usage)?;
    Ok(Target { name: function_name(&program), program, needs: LocalNeeds::default() })
}

/// The file's name; for cargo-lambda's `target/lambda/NAME/bootstrap` the folder's.
fn function_name(program: &Path) -> String {
    let text = |name: Option<&std::ffi::OsStr>| name.map(|name| name.to_string_lossy().into_owned());
    let own = text(program.file_stem()).unwrap_or_default();
    let folder = text(program.parent().and_then(Path::file_name));
    let name = if own == "bootstrap" { folder.unwrap_or(own) } else { own };
    // It stands in an ARN and in headers.
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_function_is_named_after_its_file_or_folder() {
        for (path, name) in [
            ("/t/debug/process-orders", "process-orders"),
            ("/t/lambda/process-orders/bootstrap", "process-orders"),
            ("/t/my function.x", "my-function"),
        ] {
            assert_eq!(function_name(Path::new(path)), name);
        }
    }
}
