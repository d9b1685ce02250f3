//! `diffluent completions` and `diffluent man`: what a package puts beside the binary.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use super::{Arguments, Failed, answer};

/// Print what a shell needs to complete this command line, for instance into /usr/share/bash-completion/completions/diffluent.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub fn execute(self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "diffluent", &mut script);
        answer(String::from_utf8_lossy(&script).trim_end());
        ExitCode::SUCCESS
    }
}

/// Print the manual page, or write one for each command, for instance into /usr/share/man/man1.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory for one page a command: diffluent.1, diffluent-run.1 and so on.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl Man {
    pub fn execute(self) -> Result<ExitCode, Failed> {
        let command = Arguments::command();
        if let Some(directory) = self.out {
            let failed = |error| Failed::Tried(format!("{}: {error}", directory.display()));
            std::fs::create_dir_all(&directory).map_err(failed)?;
            clap_mangen::generate_to(command, &directory).map_err(failed)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut page = Vec::new();
        Page::new(command).render(&mut page).map_err(|error| Failed::Tried(error.to_string()))?;
        answer(String::from_utf8_lossy(&page).trim_end());
        Ok(ExitCode::SUCCESS)
    }
}
