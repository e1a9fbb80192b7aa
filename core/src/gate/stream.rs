//! The byte stream of a connection, whatever it runs over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::websocket::WebSocket;
use crate::hook::ClientCertificate;

/// A connected stream.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Over any of the others.
    WebSocket(Box<WebSocket>),
    /// What is left behind when a stream moves on.
    Closed,
}

fn closed<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl Stream {
    /// The chain that TLS has validated, if the client showed one.
    pub(super) fn client_certificate(&self) -> Option<ClientCertificate> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => None,
            Self::WebSocket(socket) => socket.inner().client_certificate(),
            Self::Tls(stream) => {
                let chain = stream.get_ref().1.peer_certificates()?;
                (!chain.is_empty()).then(|| ClientCertificate {
                    chain: chain
                        .iter()
                        .map(|certificate| certificate.as_ref().into())
                        .collect::<Arc<[Box<[u8]>]>>(),
                })
            }
        }
    }

    /// Whether closing the socket is all there is to ending the stream.
    pub(super) fn is_bare(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => true,
            Self::Tls(_) | Self::WebSocket(_) => false,
        }
    }

    /// Whether there is one.
    pub(super) fn has_certificate(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Closed => false,
            Self::WebSocket(socket) => socket.inner().has_certificate(),
            Self::Tls(stream) => {
                let chain = stream.get_ref().1.peer_certificates();
                chain.is_some_and(|chain| !chain.is_empty())
            }
        }
    }

    /// Whether the peer, although lost, is to get a goodbye.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Self::WebSocket(socket) if socket.is_closing())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Self::WebSocket(socket) => Pin::new(socket.as_mut()).poll_read(context, buffer),
            Self::Closed => closed(),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::WebSocket(socket) => Pin::new(socket.as_mut()).poll_write(context, bytes),
            Self::Closed => closed(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Self::WebSocket(socket) => Pin::new(socket.as_mut()).poll_flush(context),
            Self::Closed => closed(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Self::WebSocket(socket) => Pin::new(socket.as_mut()).poll_shutdown(context),
            Self::Closed => closed(),
        }
    }
}
