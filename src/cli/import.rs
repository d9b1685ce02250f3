//! `diffluent import`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Failed, answer};
use crate::import::properties::FILE_BYTES_MAX;
use crate::import::{Import, import};

/// Make configurations of diffluent out of one of MirrorMaker 2, and say what has no counterpart. Connects to nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "The configurations go to standard output, or with --out into files; what there is to say goes to standard error.\n\
    Exit codes: 0 they can be used as they are; 1 something has to be decided first; 64 the file can't be read."
)]
pub(super) struct ImportFrom {
    /// What connect-mirror-maker.sh is started with, for instance mm2.properties.
    #[arg(value_name = "PROPERTIES")]
    file: PathBuf,
    /// The directory for one file a source cluster. A file that is there is not replaced.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl ImportFrom {
    pub fn execute(self) -> Result<ExitCode, Failed> {
        let wrong = |what: String| Failed::Usage(format!("{}: {what}", self.file.display()));
        let bytes = bounded(&self.file).map_err(wrong)?;
        let made = import(&bytes).map_err(|error| wrong(error.to_string()))?;
        match &self.out {
            Some(directory) => write(directory, &made)?,
            None => made.files.iter().for_each(|file| answer(format_args!("# {}\n{}", file.name, file.text))),
        }
        eprintln!("{made}");
        Ok(ExitCode::from(made.exit_code()))
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("can't be read: {error}"))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {} MiB: this is no configuration", FILE_BYTES_MAX >> 20));
    }
    Ok(bytes)
}

fn write(directory: &Path, made: &Import) -> Result<(), Failed> {
    let failed = |path: &Path, error: std::io::Error| Failed::Tried(format!("{}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for file in &made.files {
        let path = directory.join(&file.name);
        let created = File::create_new(&path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Failed::Tried(format!("{} is there already, and was left as it is", path.display()))
            }
            _ => failed(&path, error),
        })?;
        std::io::Write::write_all(&mut &created, file.text.as_bytes()).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}
