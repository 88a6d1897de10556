//! The SQS server of a local stack: ministack, in a virtual environment of its own under the target folder.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::exit::Failure;
use crate::terminal;

/// What is installed. Another version makes it be installed anew.
const PIN: &str = "ministack==1.5.33";
/// What it takes on disk, with what it needs and pip.
const SIZE_MB: u32 = 100;
/// Written last into the folder.
const STAMP_FILE: &str = "installed";

const START_PATIENCE: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(50);
/// How many of the server's last lines an error shows.
const LINES_SHOWN: usize = 10;

const INSTEAD: &str = "or name an SQS that runs already by --sqs-endpoint-url URL";

/// Runs a program and, beside it, waits for the end of standard input, which comes when this process has ended in any way:
/// then all of the group are killed.
const GUARD: &str = r#"exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & "$@" </dev/null 3<&-"#;

/// Installs the server if it is not there yet. Gives its program.
pub(crate) async fn install(tools: &Path) -> Result<PathBuf, Failure> {
    let folder = tools.join("local-sqs");
    let unusable = |error: io::Error| Failure::environment(format!("{} cannot be used: {error}", tools.display()));
    fs::create_dir_all(tools).map_err(unusable)?;
    let _lock = lock(tools.join("local-sqs.lock")).await.map_err(unusable)?;
    // Programs of a virtual environment hold its path: one that was moved does not count.
    let stamp = format!("{PIN}\n{}\n", folder.display());
    let program = folder.join("bin/ministack");
    if fs::read_to_string(folder.join(STAMP_FILE)).is_ok_and(|found| found == stamp) && program.is_file() {
        return Ok(program);
    }
    terminal::line(&format!("Installing {PIN} into {}, once ({SIZE_MB} MB)", folder.display()));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }
    let venv = [OsStr::new("-m"), OsStr::new("venv"), folder.as_os_str()];
    let hint = "install Python 3.10 or newer with its venv module (Debian and Ubuntu: apt install python3-venv)";
    run(Path::new("python3"), &venv, hint).await?;
    let pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", PIN].map(OsStr::new);
    let hint = "check that pip reaches a package index (its own settings apply), and try again";
    run(&folder.join("bin/python"), &pip, hint).await?;
    if !program.is_file() {
        return Err(Failure::environment(format!("{PIN} was installed, but {} is not there", program.display())));
    }
    fs::write(folder.join(STAMP_FILE), stamp).map_err(unusable)?;
    Ok(program)
}

/// Waits for another installation to end.
async fn lock(path: PathBuf) -> io::Result<File> {
    let locking = tokio::task::spawn_blocking(move || {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        if file.try_lock().is_err() {
            terminal::line("Waiting for another installation to end");
            file.lock()?;
        }
        Ok(file)
    });
    locking.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Runs a step of the installation, whose words go to standard error.
async fn run(program: &Path, arguments: &[&OsStr], hint: &str) -> Result<(), Failure> {
    let name = program.display();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(io::stderr()).kill_on_drop(true);
    let status = command.status().await.map_err(|error| {
        Failure::environment(format!("SQS cannot be installed: {name} cannot be started: {error}\n{hint}, {INSTEAD}"))
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::environment(format!(
        "SQS cannot be installed: {name} failed ({status}); it said why\n{hint}, {INSTEAD}"
    )))
}

/// A running server. It and all that it started are killed when this is dropped, and when this process ends without that.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    pub(crate) endpoint_url: String,
}

impl Server {
    /// Starts one on this port of the loopback, or on a free one, and waits until it listens. What it prints goes to the
    /// file `log`.
    pub(crate) async fn start(program: &Path, port: Option<u16>, log: PathBuf) -> Result<Self, Failure> {
        let address = free_address(port.unwrap_or_default()).map_err(|error| {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            Failure::environment(format!("SQS cannot listen on 127.0.0.1{port}: {error}; name another port by --port"))
        })?;
        let unusable = |error| Failure::environment(format!("{} cannot be written: {error}", log.display()));
        let output = File::create(&log).map_err(unusable)?;
        let errors = output.try_clone().map_err(unusable)?;
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(program);
        command.env("MINISTACK_HOST", address.ip().to_string()).env("GATEWAY_PORT", address.port().to_string());
        command.stdin(Stdio::piped()).stdout(output).stderr(errors).kill_on_drop(true);
        // A group of its own: it is killed as a whole, and Ctrl-C, which goes to the terminal's group, is for us alone.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            Failure::environment(format!("sh, which runs SQS, cannot be started: {error}; {INSTEAD}"))
        })?;
        let mut server = Self { child, log, endpoint_url: format!("http://{address}") };
        server.until_listening(address).await?;
        Ok(server)
    }

    async fn until_listening(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let end = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if matches!(self.child.try_wait(), Ok(Some(_))) || Instant::now() > end {
                return Err(self.failure("SQS did not start"));
            }
            sleep(START_POLL).await;
        }
        Ok(())
    }

    /// Waits until the server has ended by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> Failure {
        // Its standard input is its guard: `wait` would close it, and end the server.
        while matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_secs(1)).await;
        }
        self.failure("SQS has ended by itself")
    }

    fn failure(&self, what: &str) -> Failure {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<String> = said.lines().map(|line| format!("\n  {}", terminal::tame(line, 500))).collect();
        let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].concat();
        Failure::environment(format!("{what}; the last lines of {}:{last}", self.log.display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only the process itself is killed by its handle, not its group. Closing its standard input makes its guard kill
        // the group; this is for a guard that was killed.
        if let Some(id) = self.child.id() {
            let group = format!("-{id}");
            let mut kill = std::process::Command::new("kill");
            let _ = kill.args(["-KILL", "--", &group]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// An address of the loopback that is free; port 0 is any.
fn free_address(port: u16) -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()
}
