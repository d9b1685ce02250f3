//! A TLS configuration made from files, and made again when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::files::Material;
use super::{Certificate, Files, TlsError};

/// What came of reading the files again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rereading {
    /// Nothing has changed.
    Same,
    /// What is in the files now holds for connections from now on.
    Loaded,
    /// What is in the files now can't be used; what was there before holds on.
    Refused(TlsError),
}

/// Something that is made from files.
pub trait Reread: Send + Sync {
    /// The table of the configuration: `[local.tls]`.
    fn table(&self) -> &str;

    /// The file of our certificate, and what was loaded from it last.
    fn certificate(&self) -> Option<(PathBuf, Arc<Certificate>)>;

    /// Reads the files again. `patient`: files are replaced one after the other, so what can't be used is believed when it is there for the second time in a
    /// row. A refusal is told once.
    fn reread(&self, patient: bool) -> Rereading;
}

/// What was seen of the files.
#[derive(Debug)]
struct Seen {
    /// The fingerprint of what is loaded.
    loaded: u64,
    /// What could not be used at the last look, and whether that was told.
    failing: Option<(Failing, bool)>,
}

/// What could not be used: contents, or the reason why they can't be read.
#[derive(Debug, PartialEq, Eq)]
enum Failing {
    Contents(u64),
    Unread(TlsError),
}

type Make<C> = dyn Fn(&Files, Material) -> Result<C, TlsError> + Send + Sync;

/// A configuration `C` made from files. Who needs it takes what is current.
pub struct Keyring<C> {
    files: Files,
    make: Box<Make<C>>,
    current: ArcSwap<C>,
    certificate: ArcSwapOption<Certificate>,
    seen: Mutex<Seen>,
}

impl<C> fmt::Debug for Keyring<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<C> Keyring<C> {
    /// Reads the files and makes the configuration.
    ///
    /// # Errors
    /// What is wrong, with the file.
    pub fn load(
        files: Files,
        make: impl Fn(&Files, Material) -> Result<C, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let material = files.parse(&contents)?;
        let certificate = material.certificate.clone().map(Arc::new);
        Ok(Self {
            current: ArcSwap::from_pointee(make(&files, material)?),
            certificate: ArcSwapOption::new(certificate),
            seen: Mutex::new(Seen { loaded: contents.fingerprint(), failing: None }),
            make: Box::new(make),
            files,
        })
    }

    /// What holds now.
    pub fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    fn look(&self, seen: &mut Seen) -> Result<bool, (Failing, TlsError)> {
        let contents = self.files.read().map_err(|error| (Failing::Unread(error.clone()), error))?;
        let fingerprint = contents.fingerprint();
        if fingerprint == seen.loaded {
            return Ok(false);
        }
        let unusable = |error| (Failing::Contents(fingerprint), error);
        let material = self.files.parse(&contents).map_err(unusable)?;
        let certificate = material.certificate.clone().map(Arc::new);
        let made = (self.make)(&self.files, material).map_err(unusable)?;
        self.current.store(Arc::new(made));
        self.certificate.store(certificate);
        seen.loaded = fingerprint;
        Ok(true)
    }
}

impl<C: Send + Sync> Reread for Keyring<C> {
    fn table(&self) -> &str {
        &self.files.table
    }

    fn certificate(&self) -> Option<(PathBuf, Arc<Certificate>)> {
        Some((self.files.certificate.clone()?, self.certificate.load_full()?))
    }

    fn reread(&self, patient: bool) -> Rereading {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match self.look(&mut seen) {
            Ok(changed) => {
                seen.failing = None;
                if changed { Rereading::Loaded } else { Rereading::Same }
            }
            Err((failing, error)) => {
                let (again, told) = match &seen.failing {
                    Some((before, told)) if *before == failing => (true, *told),
                    _ => (false, false),
                };
                let tell = !told && (again || !patient);
                seen.failing = Some((failing, told || tell));
                if tell { Rereading::Refused(error) } else { Rereading::Same }
            }
        }
    }
}
