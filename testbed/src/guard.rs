//! Child processes that die with us, however we die.
//!
//! A test that is killed with SIGKILL runs no destructor, so its brokers would stay. Each process that uses the testbed
//! therefore has one watchdog: a shell that reads the ids of our children from a pipe. The kernel closes the pipe when we
//! end; the watchdog then kills what is left and removes our temporary directories. (PR_SET_PDEATHSIG would not do: it
//! fires when the *thread* that spawned the child ends, and tests run on short-lived threads.)

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::CommandExt;

/// Reads `add PID`, `del PID` and `dir PATH` lines until the pipe closes, then kills and removes what is left.
const WATCHDOG: &str = r#"
pids=
while read -r verb what; do
  case $verb in
    add) pids="$pids $what" ;;
    del) left=; for pid in $pids; do [ "$pid" = "$what" ] || left="$left $pid"; done; pids=$left ;;
    dir) set -- "$@" "$what" ;;
  esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
[ $# -eq 0 ] || { sleep 1; rm -rf -- "$@"; }
"#;

fn watchdog() -> Option<&'static Mutex<ChildStdin>> {
    static WATCHDOG_PIPE: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    WATCHDOG_PIPE
        .get_or_init(|| {
            let mut child = Command::new("sh")
                .args(["-c", WATCHDOG, "diffluent-testbed-watchdog"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // A group of its own: Ctrl-C on the terminal must not end it before its work is done.
                .process_group(0)
                .spawn()
                .ok()?;
            child.stdin.take().map(Mutex::new)
        })
        .as_ref()
}

fn tell_watchdog(line: &str) {
    if let Some(pipe) = watchdog()
        && let Ok(mut pipe) = pipe.lock()
    {
        // Without a watchdog the destructors still clean up; only SIGKILL would leave something behind.
        let _ = pipe.write_all(line.as_bytes());
    }
}

/// A temporary directory that is removed on drop, and also when this process is killed.
#[derive(Debug)]
pub struct TempDir {
    dir: tempfile::TempDir,
}

impl TempDir {
    /// Makes a directory whose name begins with `prefix` under the system's temporary directory.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn new(prefix: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir()
            .context("cannot make a temporary directory for testbed")?;
        tell_watchdog(&format!("dir {}\n", dir.path().display()));
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A child process with its output in files; killed on drop, and by the watchdog when this process is killed.
#[derive(Debug)]
pub struct Guarded {
    what: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Guarded {
    /// Starts `command` in a process group of its own, appending both its outputs to the file `log`.
    ///
    /// # Errors
    /// When the log can't be opened or the program can't be started.
    pub fn spawn(what: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {what}'s log {}", log.display()))?;
        let err = out.try_clone().context("cannot duplicate a log's descriptor")?;
        // The watchdog must be there before its first child is.
        let _ = watchdog();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {what} ({})", command.get_program().to_string_lossy()))?;
        tell_watchdog(&format!("add {}\n", child.id()));
        Ok(Self { what: what.to_owned(), child, status: None, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with its output.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The exit status, or `None` while it runs.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.status = Some(status);
            tell_watchdog(&format!("del {}\n", self.child.id()));
        }
        self.status
    }

    /// Sends a signal; an ended process is left alone, because its id may be somebody else's by now.
    ///
    /// # Errors
    /// When the process has ended, or the signal can't be sent.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_status() {
            return Err(anyhow!("{} has already ended: {status}", self.what));
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("an impossible process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
    }

    /// Kills the process with SIGKILL and waits until it is gone. Nothing happens when it has ended already.
    pub fn kill(&mut self) {
        if self.try_status().is_none() {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.status = Some(status);
            }
            tell_watchdog(&format!("del {}\n", self.child.id()));
        }
    }

    /// Sends SIGTERM and waits until the process has ended; after `deadline` it is killed.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_status() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        match self.wait(deadline).await {
            Some(status) => Ok(status),
            None => {
                self.kill();
                Err(anyhow!("{} did not end within {deadline:?} after SIGTERM and was killed", self.what))
            }
        }
    }

    /// Waits until the process has ended, at most `deadline` long.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.try_status() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of the log, for an error message.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last 40 lines of a file, or why there are none.
pub fn tail(path: &Path) -> String {
    const LINES_MAX: usize = 40;
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}
