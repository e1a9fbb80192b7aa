//! A peer made by hand, for what no client library sends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client;
use crate::harness::{Broker, PATIENCE};

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// A connection over which bytes go as they are.
pub(crate) struct Wire(Box<dyn ReadWrite>);

impl Broker {
    pub(crate) fn tcp(&self, listener: &str) -> TcpStream {
        let stream = TcpStream::connect(self.address(listener)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire(Box::new(self.tcp("local")))
    }

    /// A TLS stream that has not shaken hands yet.
    pub(crate) fn tls_stream(
        &self,
        certificate: Option<&str>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        self.tls_over(self.tcp("main"), certificate)
    }

    /// The same over a connection on which something was said already.
    pub(crate) fn tls_over(
        &self,
        tcp: TcpStream,
        certificate: Option<&str>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let certificate = certificate.map(|name| {
            let file = |ending| self.setup.path(&format!("pki/{name}.{ending}"));
            (file("pem"), file("key"))
        });
        let config = client::tls(&self.setup.path("trusted.pem"), certificate.as_ref());
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, tcp)
    }
}

impl Wire {
    pub(crate) fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(Box::new(stream))
    }

    /// Sends bytes; that the peer has closed is seen when reading.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }

    /// The next packet, first byte and body, or `None` at the end of the connection.
    pub(crate) fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.byte()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        ended(self.0.read_exact(&mut body))?;
        Some((first, body))
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        ended(self.0.read_exact(&mut byte))?;
        Some(byte[0])
    }
}

/// The value, or nothing where the connection has ended; patience that ends is a failed test.
fn ended<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                panic!("neither an answer nor an end")
            }
            _ => None,
        },
    }
}

/// A packet: first byte, length, body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left & 0x7f).unwrap();
        left >>= 7;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// A string with its length.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT with a clean session and a password.
pub(crate) fn connect(
    level: u8,
    id: &str,
    keep_alive: u16,
    (user, password): (&str, &str),
) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [
        &string("MQTT")[..],
        &[level, 0b1100_0010],
        &keep_alive.to_be_bytes(),
        properties,
        &string(id),
        &string(user),
        &string(password),
    ]
    .concat();
    packet(0x10, &body)
}
