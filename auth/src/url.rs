//! Addresses of other servers, as the configuration has them.

use std::fmt;
use std::net::IpAddr;

/// `https://HOST[:PORT]/PATH`, or the same with `http`. Fixed when the configuration is read: no
/// part of it ever comes from a client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    text: String,
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    const MAX: usize = 2048;

    /// Reads an address.
    ///
    /// # Errors
    ///
    /// What is wrong with it: no `http` or `https`, a user name, a fragment, an odd character.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > Self::MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it is longer than 2048 bytes or has a character that must be escaped");
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("it does not begin with https:// or http://"),
        };
        if rest.contains(['#', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
            return Err("it has a fragment or a character that must be escaped");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it has a user name; name a secret file instead");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("its host is malformed")?;
                let port = match port.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if port.is_empty() => None,
                    None => return Err("its host is malformed"),
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_address = host.parse::<IpAddr>().is_ok();
        if host.is_empty() || !(is_address || host.bytes().all(fits)) {
            return Err("its host is malformed");
        }
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or("its port is malformed")?,
        };
        let path = match path.chars().next() {
            None => "/".to_owned(),
            Some('?') => format!("/{path}"),
            Some(_) => path.to_owned(),
        };
        Ok(Self {
            text: text.to_owned(),
            tls,
            host: host.to_owned(),
            port,
            path,
        })
    }

    /// Whether what is sent there cannot be read or answered by somebody else: TLS, or a server on
    /// this machine, given by its loopback address.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let loopback = |address: IpAddr| address.is_loopback();
        self.tls || self.host.parse().is_ok_and(loopback)
    }

    /// As the configuration has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn uses_tls(&self) -> bool {
        self.tls
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// For the `Host` header.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_or_refused() {
        for (text, host, port, path, authority, protected) in [
            (
                "https://id.example",
                "id.example",
                443,
                "/",
                "id.example",
                true,
            ),
            (
                "https://id.example/a/b?c=d",
                "id.example",
                443,
                "/a/b?c=d",
                "id.example",
                true,
            ),
            (
                "https://id.example:8443?x",
                "id.example",
                8443,
                "/?x",
                "id.example:8443",
                true,
            ),
            (
                "http://id.example/",
                "id.example",
                80,
                "/",
                "id.example",
                false,
            ),
            (
                "http://localhost/",
                "localhost",
                80,
                "/",
                "localhost",
                false,
            ),
            (
                "http://127.0.0.1:9/x",
                "127.0.0.1",
                9,
                "/x",
                "127.0.0.1:9",
                true,
            ),
            ("http://[::1]:9/", "::1", 9, "/", "[::1]:9", true),
            (
                "https://[2001:db8::1]",
                "2001:db8::1",
                443,
                "/",
                "[2001:db8::1]",
                true,
            ),
        ] {
            let url = Url::parse(text).unwrap();
            let found = (url.host(), url.port(), url.path(), &*url.authority());
            assert_eq!(found, (host, port, path, authority), "{text}");
            assert_eq!(url.is_protected(), protected, "{text}");
        }
        for text in [
            "",
            "id.example",
            "ftp://id.example",
            "HTTPS://id.example",
            "https://",
            "https:///x",
            "https://:1",
            "https://a:0",
            "https://a:x",
            "https://a:1:2",
            "https://a:65536",
            "https://user@a",
            "https://user:secret@a",
            "https://a/#b",
            "https://a b",
            "https://a/\r\nHost: b",
            "https://[::1",
            "https://[::1]x",
            "https://[x y]",
            "https://ä",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
    }
}
