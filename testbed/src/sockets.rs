//! Whom a process is connected to, as the kernel has it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

/// The other ends of the TCP connections of process `pid`.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub fn peers(pid: u32) -> Result<Vec<SocketAddr>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).context("the process is gone")? {
        // A descriptor may be closed between the list and the look.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            inodes.insert(inode.to_owned());
        }
    }
    let mut peers = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            // Number, local address, remote address, state, …, and the inode as the tenth.
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(remote), Some(inode)) = (fields.get(2), fields.get(9))
                && inodes.contains(*inode)
                && let Some(peer) = address(remote)
                && peer.port() != 0
            {
                peers.push(peer);
            }
        }
    }
    Ok(peers)
}

/// `0100007F:1F90`: 32-bit words in the machine's own order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words = host.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_this_process_is_seen_from_both_ends() -> Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let _server = listener.accept()?;
        let peers = peers(std::process::id())?;
        assert!(peers.contains(&listener.local_addr()?) && peers.contains(&client.local_addr()?), "{peers:?}");
        Ok(())
    }
}
