//! Sockets: large kernel buffers, one socket for both IP families where the system has both.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::transport::SOCKET_BUFFER_BYTES;

/// An endpoint on `address`. Needs a tokio runtime around it.
pub(crate) fn bind(
    config: EndpointConfig,
    server: Option<ServerConfig>,
    address: SocketAddr,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Best effort: a kernel that grants less costs throughput, not correctness.
    for result in [
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            tracing::warn!(%error, "the kernel refused larger socket buffers");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime))
}

/// An endpoint for outgoing connections only, of both IP families where the system has IPv6.
pub(crate) fn bind_client(config: &EndpointConfig) -> io::Result<Endpoint> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    bind(config.clone(), None, both)
        .or_else(|_| bind(config.clone(), None, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}
