//! Installs what a test needs under cargo's target folder: once, pinned, and locked against parallel runs.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lock;
use crate::paths::target_dir;

/// Written last into a tool's folder. One that is missing or different makes the tool be installed anew.
const STAMP_FILE: &str = "installed";

/// How many of a failed command's last lines an error shows.
const LINES_SHOWN: usize = 15;

/// Something to install.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// The name of its folder.
    pub(crate) name: &'static str,
    /// What is installed, each with its version. Another list makes the tool be installed anew.
    pub(crate) pins: &'static [&'static str],
    /// Fills the empty folder.
    pub(crate) steps: fn(&Installation) -> Result<(), InstallError>,
}

/// An installation under way.
#[derive(Debug)]
pub(crate) struct Installation {
    tool: Tool,
    /// The tool's folder. It is not moved later: the programs of a virtual environment hold its path.
    pub(crate) folder: PathBuf,
}

/// A tool that a test needs could not be installed.
#[derive(Debug, Clone)]
pub struct InstallError {
    tool: &'static str,
    what: String,
    last_lines: String,
    hint: String,
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tests need {}, and it cannot be installed: {}", self.tool, self.what)?;
        if !self.last_lines.is_empty() {
            write!(f, "; its last lines:\n{}", self.last_lines)?;
        }
        write!(f, "\nwhat to do: {}", self.hint)
    }
}

impl std::error::Error for InstallError {}

impl Tool {
    /// The tool's folder, installed now if it is not there yet.
    pub(crate) fn ensure(self) -> Result<PathBuf, InstallError> {
        let tools = target_dir().join("tools");
        let installation = Installation { tool: self, folder: tools.join(self.name) };
        let stamp = installation.folder.join(STAMP_FILE);
        let expected = format!("{}\n{}\n", self.pins.join("\n"), installation.folder.display());
        let in_tools = |what| move |error| installation_failed(self.name, what, &error);

        let _lock = lock::exclusive(&tools.join(format!("{}.lock", self.name))).map_err(in_tools("lock"))?;
        if fs::read_to_string(&stamp).is_ok_and(|found| found == expected) {
            return Ok(installation.folder);
        }
        match fs::remove_dir_all(&installation.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(in_tools("remove an unfinished installation from")(error));
            }
            _ => {}
        }
        fs::create_dir_all(&installation.folder).map_err(in_tools("make a folder in"))?;
        (self.steps)(&installation)?;
        fs::write(&stamp, expected).map_err(in_tools("write to"))?;
        Ok(installation.folder)
    }
}

fn installation_failed(tool: &'static str, what: &str, error: &io::Error) -> InstallError {
    let tools = target_dir().join("tools");
    InstallError {
        tool,
        what: format!("could not {what} {}: {error}", tools.display()),
        last_lines: String::new(),
        hint: "make that folder writable, with 1 GB of free space".to_owned(),
    }
}

impl Installation {
    /// What is to be installed.
    pub(crate) fn pins(&self) -> &'static [&'static str] {
        self.tool.pins
    }

    /// Makes a virtual environment in the folder and installs packages in it with pip. Its programs are in `bin`.
    pub(crate) fn venv(&self, requirements: &[&str], options: &[&str]) -> Result<(), InstallError> {
        self.empty_venv()?;
        self.pip("install", options, requirements)
    }

    /// Makes a virtual environment in the folder, with nothing but pip in it.
    pub(crate) fn empty_venv(&self) -> Result<(), InstallError> {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&self.folder);
        self.run(
            make,
            "install Python 3.10 or newer with its venv module (Debian and Ubuntu: apt install python3-venv)",
        )
    }

    /// Runs a command of the virtual environment's pip.
    pub(crate) fn pip(&self, command: &str, options: &[&str], requirements: &[&str]) -> Result<(), InstallError> {
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-input"]);
        pip.args(options).args(requirements).current_dir(&self.folder);
        self.run(pip, "check that pip reaches a package index (its own settings apply), then run the tests again")
    }

    /// The virtual environment's Python.
    pub(crate) fn python(&self) -> PathBuf {
        python_in(&self.folder)
    }

    /// Runs a program; `hint` says what to do when it fails.
    pub(crate) fn run(&self, mut command: Command, hint: &str) -> Result<(), InstallError> {
        let line = command_line(&command);
        let failed = |what: String, last_lines: String| InstallError {
            tool: self.tool.name,
            what,
            last_lines,
            hint: hint.to_owned(),
        };
        let output =
            command.output().map_err(|error| failed(format!("`{line}` cannot be started: {error}"), String::new()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(failed(format!("`{line}` failed ({})", output.status), last_lines(&said)))
    }

    /// Fails unless the file is there: a command that succeeded without it did not do what was asked.
    pub(crate) fn expect_file(&self, path: &Path) -> Result<(), InstallError> {
        if path.is_file() {
            return Ok(());
        }
        Err(InstallError {
            tool: self.tool.name,
            what: format!("{} is not there after the installation of {}", path.display(), self.pins().join(", ")),
            last_lines: String::new(),
            hint: "check that a package for this system and processor exists".to_owned(),
        })
    }
}

/// The Python of the virtual environment in a tool's folder.
pub(crate) fn python_in(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// A command as one would type it, near enough to be recognised and repeated.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The last lines of what a command printed.
pub(crate) fn last_lines(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(name: &'static str) -> Installation {
        let steps = |_: &Installation| Ok(());
        Installation { tool: Tool { name, pins: &["x==1"], steps }, folder: PathBuf::from("nowhere") }
    }

    #[test]
    fn a_failing_command_is_named_with_its_last_lines_and_what_to_do() {
        let mut command = Command::new("sh");
        command.args(["-c", "for n in $(seq 40); do echo line $n; done; echo no such package >&2; exit 3"]);
        let error = installation("thing").run(command, "ask for another").expect_err("it fails").to_string();
        for part in ["thing", "sh -c", "exit status: 3", "line 40\nno such package", "what to do: ask for another"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!error.contains("line 20\n"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let command = Command::new("no-such-program-here");
        let error = installation("thing").run(command, "install it").expect_err("it fails").to_string();
        assert!(error.contains("`no-such-program-here` cannot be started"), "{error}");
    }

    #[test]
    fn an_interrupted_installation_is_done_again_and_a_finished_one_is_not() {
        // The first leaves its traces and fails, as one that is interrupted does; the second must find an empty folder.
        fn interrupted(installation: &Installation) -> Result<(), InstallError> {
            fs::write(installation.folder.join("left-over"), "").expect("a file");
            installation.expect_file(Path::new("no/such/file"))
        }
        fn finished(installation: &Installation) -> Result<(), InstallError> {
            assert!(!installation.folder.join("left-over").exists());
            fs::write(installation.folder.join("tool"), "").expect("a file");
            installation.expect_file(&installation.folder.join("tool"))
        }
        fn forbidden(_: &Installation) -> Result<(), InstallError> {
            panic!("it is installed already");
        }
        let tool = |pins, steps| Tool { name: "test-of-install", pins, steps };
        let first = tool(&["x==1"], interrupted).ensure();
        assert!(first.expect_err("interrupted").to_string().contains("no/such/file"));
        let folder = tool(&["x==1"], finished).ensure().expect("installed");
        assert!(folder.join("tool").is_file());
        tool(&["x==1"], forbidden).ensure().expect("installed before");
        tool(&["x==2"], finished).ensure().expect("another version");
        fs::remove_dir_all(folder).expect("the folder can be removed");
    }
}
