//! From the command line to a binary and what it needs: a package is found and built, a path is taken as it is.

use std::path::{Path, PathBuf};

use microbatch_local::package::{FunctionPackage, LocalNeeds, PackageError, Workspace};

use crate::exit::Failure;

/// The function when none is named, in a workspace that has it.
const DEFAULT_FUNCTION: &str = "process-orders";

/// A function: what is to be built, or was.
pub(crate) enum Target {
    /// A package of the workspace.
    Package {
        package: FunctionPackage,
        /// The package whose dependencies a local build shares.
        alongside: Option<&'static str>,
    },
    /// A binary, of which nothing is known.
    Binary { name: String, program: PathBuf },
}

/// The workspace of the current folder; without one only paths can be used.
pub(crate) async fn workspace() -> Result<Workspace, PackageError> {
    Workspace::find(Path::new(".")).await
}

/// Finds the function of that name or path, or the default one.
pub(crate) fn find(function: Option<&str>, workspace: Result<&Workspace, &PackageError>) -> Result<Target, Failure> {
    if let Some(path) = function.filter(|function| is_path(function)) {
        return binary(Path::new(path));
    }
    let workspace =
        workspace.map_err(|error| Failure::usage(format!("{error}; name a built function by --function PATH")))?;
    let name = match function {
        Some(name) => name.to_owned(),
        None => default_function(workspace.functions())?,
    };
    let package = workspace.function(&name).map_err(Failure::usage)?;
    // A local build shares its dependencies with this command, where that comes from the same workspace.
    let own = env!("CARGO_PKG_NAME");
    Ok(Target::Package { package, alongside: workspace.contains(own).then_some(own) })
}

fn default_function(mut functions: Vec<String>) -> Result<String, Failure> {
    if functions.iter().any(|name| name == DEFAULT_FUNCTION) {
        return Ok(DEFAULT_FUNCTION.to_owned());
    }
    match functions.len() {
        0 => Err(Failure::usage(
            "which function? No package here has a [package.metadata.microbatch]; name a package, or the path of a built \
             binary, by --function",
        )),
        1 => Ok(functions.remove(0)),
        _ => Err(Failure::usage(format!("which function? Name one by --function: {}", functions.join(", ")))),
    }
}

impl Target {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Package { package, .. } => &package.name,
            Self::Binary { name, .. } => name,
        }
    }

    /// What its package says; nothing of a binary.
    pub(crate) fn needs(&self) -> LocalNeeds {
        match self {
            Self::Package { package, .. } => package.needs.clone(),
            Self::Binary { .. } => LocalNeeds::default(),
        }
    }

    /// Builds a package; gives the path of the binary.
    pub(crate) async fn build(&self, release: bool) -> Result<PathBuf, Failure> {
        match self {
            // A release build is the function's alone, as it is deployed.
            Self::Package { package, alongside } => {
                package.build(release, alongside.filter(|_| !release)).await.map_err(Failure::environment)
            }
            Self::Binary { program, .. } => Ok(program.clone()),
        }
    }
}

/// A built binary that runs as the function of that name.
pub(crate) fn binary_named(name: &str, path: &Path) -> Result<Target, Failure> {
    binary(path).map(|target| match target {
        Target::Binary { program, .. } => Target::Binary { name: name.to_owned(), program },
        other @ Target::Package { .. } => other,
    })
}

fn is_path(function: &str) -> bool {
    function.contains(['/', std::path::MAIN_SEPARATOR]) || Path::new(function).is_file()
}

fn binary(path: &Path) -> Result<Target, Failure> {
    if !path.is_file() {
        let what = if path.exists() { "is no file" } else { "does not exist" };
        return Err(Failure::usage(format!("the function {} {what}; expected a built binary", path.display())));
    }
    // A bare name would be looked for in PATH.
    let program = std::path::absolute(path).map_err(Failure::usage)?;
    Ok(Target::Binary { name: function_name(&program), program })
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
    fn the_default_is_the_example_or_the_only_function() {
        let default = |names: &[&str]| default_function(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(default(&["a", "process-orders"]).ok().as_deref(), Some("process-orders"));
        assert_eq!(default(&["a"]).ok().as_deref(), Some("a"));
        assert!(default(&["a", "b"]).is_err_and(|failure| failure.message.ends_with("--function: a, b")));
        assert!(default(&[]).is_err());
    }

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
