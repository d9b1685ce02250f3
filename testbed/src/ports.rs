//! Free ports that parallel test processes don't fight over.
//!
//! Ports lie below the kernel's ephemeral range (32768), so that no outgoing connection takes one while its broker is
//! being restarted. A port is claimed by an exclusive lock on a file that bears its number: the kernel drops the lock
//! when the owner ends, in whatever way.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::kafka::artifacts::cache_dir;

const PORT_FIRST: u16 = 12_000;
const PORT_END: u16 = 32_000;

/// A port of 127.0.0.1 (or a run of them) that is ours until this is dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    locks: Vec<File>,
}

impl Ports {
    /// Claims one free port.
    ///
    /// # Errors
    /// When no port is free or the registry can't be written.
    pub fn one() -> Result<Self> {
        Self::range(1)
    }

    /// Claims `count` free ports in a row.
    ///
    /// # Errors
    /// When there is no such run, or the registry can't be written.
    pub fn range(count: u16) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let registry = cache_dir()?.join("ports");
        std::fs::create_dir_all(&registry).with_context(|| format!("cannot make {}", registry.display()))?;
        let span = u32::from(PORT_END - PORT_FIRST);
        // Each process starts elsewhere, so that two of them seldom try the same port.
        let start = std::process::id().wrapping_mul(7919) % span;
        for _ in 0..span {
            let step = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
            let first = PORT_FIRST + u16::try_from((start + step) % span).context("a port beyond 65535")?;
            if first + count > PORT_END {
                continue;
            }
            let locks: Vec<File> = (first..first + count).map_while(|port| claim(&registry, port)).collect();
            if locks.len() == usize::from(count) {
                return Ok(Self { first, locks });
            }
        }
        bail!("no {count} free ports in a row between {PORT_FIRST} and {PORT_END}")
    }

    /// The first port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(&self) -> u16 {
        self.first + u16::try_from(self.locks.len().saturating_sub(1)).unwrap_or(0)
    }
}

fn claim(registry: &std::path::Path, port: u16) -> Option<File> {
    let path = registry.join(port.to_string());
    let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    // Somebody outside the registry may have it. Closed at once: the claim is the lock.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(file)
}
