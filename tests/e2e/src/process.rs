//! Foreign programs that a test starts, and the wait until they are there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::install::{command_line, last_lines};
use crate::paths::target_dir;

/// How long a foreign program may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(20);

/// Runs a program and, beside it, waits for the end of standard input, which comes when the test process has ended in any way:
/// then all of the group are killed. Else an interrupted test would leave its servers behind.
const GUARD: &str = r#"exec 3<&0; (cat <&3 >/dev/null; kill -KILL 0) & "$@" </dev/null 3<&-"#;

/// A command that runs a program under the guard; its arguments, folder and variables are still to be added.
pub fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh"]).arg(program);
    command
}

/// A program that runs beside a test, with all the processes that it starts. All of them are killed when this is dropped, and
/// when the test process ends without doing so.
#[derive(Debug)]
pub struct Foreign {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Foreign {
    /// Starts a [`guarded`] command. What it prints goes to a file in the target folder, named after `name`.
    pub fn start(mut command: Command, name: &str) -> io::Result<Self> {
        let folder = target_dir().join("e2e").join("logs");
        fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{name}.{}.log", std::process::id()));
        let output = File::create(&log)?;
        let line = command_line(&command).replace(GUARD, "(guard)");
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own, so that its children can be killed with it.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, line, log })
    }

    /// Waits until the program accepts connections; an error tells what it said instead.
    pub async fn until_listening(&mut self, address: SocketAddr) -> Result<(), String> {
        let end = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("`{}` ended ({status}) and said:\n{}", self.line, self.last_said()));
            }
            if Instant::now() > end {
                return Err(format!("`{}` does not listen on {address}; it said:\n{}", self.line, self.last_said()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The last lines that the program has printed.
    pub fn last_said(&self) -> String {
        last_lines(&fs::read(&self.log).unwrap_or_default())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // The standard library kills a process only, not its group. It fails where all of them have ended.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
        // What was said is of interest where the test fails.
        if !std::thread::panicking() {
            let _ = fs::remove_file(&self.log);
        }
    }
}

/// Kills a process as nothing can refuse: what a proxy's hook does to a function at a known call.
pub fn kill(process_id: u32) {
    // It fails where the process has ended already.
    let _ = Command::new("kill").args(["-KILL", &process_id.to_string()]).stderr(Stdio::null()).status();
}

/// An address of the loopback that was free a moment ago, for programs that cannot choose one themselves.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_guarded_program_ends_when_its_starter_is_gone() {
        let mut command = guarded("sleep");
        let mut child = command.arg("1000").stdin(Stdio::piped()).process_group(0).spawn().expect("it can be started");
        // What the end of this process would do.
        drop(child.stdin.take());
        assert_eq!(child.wait().expect("it ends").signal(), Some(9));
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_not_waited_for() {
        let mut command = guarded("sh");
        command.args(["-c", "echo no port for me; exit 3"]);
        let mut program = Foreign::start(command, "test-of-process").expect("it can be started");
        let error = program.until_listening(free_address().expect("an address")).await.expect_err("it has ended");
        assert!(error.contains("exit status: 3") && error.contains("no port for me"), "{error}");
    }
}
