//! Listening.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;

/// Connections that the system keeps waiting for us to accept: a whole fleet of clients may come back in one moment.
const BACKLOG: i32 = 1024;

/// A bound port. Clients can connect from now on; they are served once it is turned into a [`Listener`].
///
/// Binding needs no runtime and never waits, so that an answer can be held until the port that it names is open.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Binds and listens. Port 0 lets the system choose.
    ///
    /// # Errors
    /// What the system says: in use, not ours, not permitted.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted proxy takes its ports back at once.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The bound address, with the port that the system has chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to accept.
    ///
    /// # Errors
    /// The runtime's event queue has no room.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener { listener: tokio::net::TcpListener::from_std(self.listener)?, address: self.address })
    }
}

/// A port that accepts connections.
#[derive(Debug)]
pub struct Listener {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Cancellation safe.
    ///
    /// # Errors
    /// What the system says; none of them is the listener's end.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        // Fails only where the client is gone already, which its session will see.
        let _ = super::dial::set_options(&stream);
        Ok((stream, peer))
    }
}

/// Resolves `host:port`, taking the first address.
///
/// # Errors
/// The name does not resolve.
pub fn resolve(address: &str) -> io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}
