//! The command line: what `diffluent` can be told, and who does it.
//!
//! Owns the arguments and the exit codes; one file a family of commands. It may call every room that does something for a
//! person, and prints what came of it: answers on standard output, complaints on standard error. It decides nothing that a room could.

mod check;
mod import;
mod run;
mod shell;
mod skip;
mod status;
mod steer;
mod told;
mod verify;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Admin, Config, HostPort, Secret};
use crate::log_filter::LogFilter;
use crate::operator::AdminPort;

/// The command line or a file that it names can't be used (EX_USAGE of sysexits.h): nothing was started.
pub const EXIT_USAGE: u8 = 64;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DIFFLUENT_BUILD"), ")");

const EXIT_CODES: &str = "\
Exit codes:
  0   all well
  1   check found something that does not work, verify a difference, status that not all is well; or it was tried and failed
  2   verify or status could not tell
  64  the command line or the configuration can't be used, and nothing was started";

/// A transparent Kafka proxy that mirrors what is produced to other regions.
#[derive(Debug, Parser)]
#[command(version = VERSION, about, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged, for instance "info" or "info,diffluent::session=debug".
    #[arg(long, global = true, default_value = "info", env = "DIFFLUENT_LOG")]
    pub log: String,
    /// How it is logged, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Verify(verify::Verify),
    Pause(steer::Pause),
    Resume(steer::Resume),
    Throttle(steer::Throttle),
    Rewind(steer::Rewind),
    Skip(skip::Skip),
    Import(import::ImportFrom),
    Completions(shell::Completions),
    Man(shell::Man),
    Reload(told::Reload),
    History(told::History),
    Events(told::Events),
    Clients(told::Clients),
    Log(told::Log),
}

impl Arguments {
    /// Threads for the runtime in which [`Arguments::execute`] is to run; `None`: as many as there are cores.
    pub fn threads(&self) -> Option<usize> {
        match &self.command {
            Command::Run(run) => Some(run.threads()),
            _ => None,
        }
    }

    /// Does what was asked for; `log` is what this process logs. Whoever calls it prints the error and exits with its code.
    ///
    /// # Errors
    /// [`Failed`], when the command could not be carried out.
    pub async fn execute(self, log: LogFilter) -> Result<ExitCode, Failed> {
        match self.command {
            Command::Run(run) => run.execute(log).await,
            Command::Check(check) => check.execute().await,
            Command::Status(status) => status.execute().await,
            Command::Verify(verify) => verify.execute().await,
            Command::Pause(pause) => pause.execute().await,
            Command::Resume(resume) => resume.execute().await,
            Command::Throttle(throttle) => throttle.execute().await,
            Command::Rewind(rewind) => rewind.execute().await,
            Command::Skip(skip) => skip.execute().await,
            Command::Import(import) => import.execute(),
            Command::Completions(completions) => Ok(completions.execute()),
            Command::Man(man) => man.execute(),
            Command::Reload(reload) => reload.execute().await,
            Command::History(history) => history.execute().await,
            Command::Events(events) => events.execute().await,
            Command::Clients(clients) => clients.execute().await,
            Command::Log(log) => log.execute().await,
        }
    }
}

/// Why a command was not carried out, for the person who gave it.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The command line or a file that it names can't be used.
    #[error("{0}")]
    Usage(String),
    /// It was tried.
    #[error("{0}")]
    Tried(String),
    /// A question could not be answered.
    #[error("{0}")]
    Untold(String),
}

impl Failed {
    /// What the process exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failed::Usage(_) => ExitCode::from(EXIT_USAGE),
            Failed::Tried(_) => ExitCode::FAILURE,
            Failed::Untold(_) => ExitCode::from(2),
        }
    }
}

/// The configuration that a command works with.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, for instance proxy.toml.
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Failed> {
        load(&self.config)
    }
}

/// The running proxy that is asked, by its admin port.
#[derive(Debug, Args)]
struct Running {
    /// The configuration that it was started with: its admin port is asked.
    #[arg(value_name = "CONFIG", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Its admin port, as host:port or http://host:port, instead of a configuration; 127.0.0.1:9644 if neither is given.
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<HostPort>,
    /// A file with the token that the admin port asks for, where that is not the one of the configuration.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Holds the token that the admin port asks for, if neither a configuration nor --token-file says it.
const TOKEN_VARIABLE: &str = "DIFFLUENT_ADMIN_TOKEN";

impl Running {
    /// Where it is: what the file says, or --admin, or where a configuration without `[admin]` puts it.
    fn port(&self) -> Result<AdminPort, Failed> {
        let (address, configured) = match (&self.config, &self.admin) {
            (Some(file), _) => {
                let Admin { listen, token, .. } = load(file)?.admin;
                (listen, token)
            }
            (None, Some(address)) => (address.clone(), None),
            (None, None) => (Admin::default().listen, None),
        };
        let given = self.token_file.clone().map(Secret::File);
        let in_variable = std::env::var_os(TOKEN_VARIABLE).map(|_| Secret::Env(TOKEN_VARIABLE.to_owned()));
        Ok(AdminPort { address, token: given.or(configured).or(in_variable) })
    }
}

fn admin_address(text: &str) -> Result<HostPort, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    address.strip_suffix('/').unwrap_or(address).parse()
}

/// Prints what a command has to say. Nobody is left to be told when nobody reads.
fn answer(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn load(file: &Path) -> Result<Config, Failed> {
    Config::load(file).map_err(|error| Failed::Usage(error.to_string()))
}
