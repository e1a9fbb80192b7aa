//! The command line, and what follows from it for connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::net::{MAX_PAYLOAD, Pool, Target};
use crate::traffic::{Pace, Patience};
use crate::wire::{Login, Stamp, Version};

/// Loads an MQTT broker, counts exactly, and reads the broker's processor time and memory
#[derive(Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Publish and receive: throughput, loss, latency, processor time per delivered message
    Pubsub(Pubsub),
    /// Open many connections: processor time per connect, memory per connection
    Connect(Connect),
    /// Load many subscriptions, then publish to their topics in scattered order
    Subs(Subs),
}

#[derive(Args)]
pub(crate) struct Common {
    /// Where the broker listens
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Its port
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Load a broker that is not on this machine
    #[arg(long)]
    allow_remote: bool,
    /// MQTT version: 4 for 3.1.1, or 5
    #[arg(long = "mqtt", default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=5))]
    version: u8,
    /// TLS 1.3, the broker's certificate being of this CA; handshakes are full and with X25519
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// A client certificate
    #[arg(long, value_name = "PEM", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "PEM", requires = "cert")]
    key: Option<PathBuf>,
    /// The name that the broker's certificate must have
    #[arg(long, default_value = "localhost")]
    server_name: String,
    /// User name
    #[arg(long)]
    user: Option<String>,
    /// Password; other users of this machine can see it
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// Client ids begin so
    #[arg(long, default_value = "load-")]
    id: String,
    /// Topics begin so
    #[arg(long, default_value = "load")]
    pub(crate) topic: String,
    /// Keep Alive, seconds
    #[arg(long, default_value_t = 600)]
    keep_alive: u16,
    /// The broker's process, whose use of processor and memory is read
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Connections that open at the same time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Connect from so many addresses in turn, 127.0.0.1 and those behind it; each has some 28 000
    /// ports
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    sources: u8,
    /// Publishing, or opening connections, ends after so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) max_secs: u64,
    /// A run without any progress ends after so many seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    still_secs: u64,
    /// One line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Sending {
    /// Quality of service of publishes and subscriptions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Payload, bytes
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
    /// Messages, over all publishers
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// `QoS` 1 and 2: messages of a publisher without acknowledgement; less if the broker says so
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    inflight: u16,
    /// Messages of a publisher that are on their way; 0 for no bound (so with --rate)
    #[arg(long)]
    window: Option<u64>,
    /// Messages a second, over all publishers; 0 for as fast as it goes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    rate: u32,
}

/// Who sends to whom.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Publisher n to subscriber n
    #[value(name = "1:1")]
    Pairs,
    /// Everybody to everybody; 1 to 100 if not said otherwise
    FanOut,
    /// Everybody to everybody; 100 to 1 if not said otherwise
    FanIn,
}

#[derive(Args)]
pub(crate) struct Pubsub {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) sending: Sending,
    /// Who sends to whom
    #[arg(long, default_value = "1:1")]
    pub(crate) mode: Mode,
    /// Publishers
    #[arg(long)]
    pub(crate) publishers: Option<usize>,
    /// Subscribers
    #[arg(long)]
    pub(crate) subscribers: Option<usize>,
    /// Topics that each publisher goes through
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) topics: u32,
    /// Sessions of subscribers outlive their connections, and are resumed by the next run
    #[arg(long)]
    pub(crate) persistent: bool,
}

#[derive(Args)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Connections a second; 0 for as fast as it goes
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// Seconds to hold them before memory is read
    #[arg(long, default_value_t = 2)]
    pub(crate) hold: u64,
    /// Close each at once: a storm without an end
    #[arg(long, conflicts_with = "exchange")]
    pub(crate) close: bool,
    /// Sessions outlive their connections
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Then each sends itself a message of so many bytes, rests, and memory is read again
    #[arg(long, value_parser = size)]
    pub(crate) exchange: Option<usize>,
    /// Seconds to rest
    #[arg(long, default_value_t = 10)]
    pub(crate) rest: u64,
}

#[derive(Args)]
pub(crate) struct Subs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) sending: Sending,
    /// Subscriptions, each with a filter of its own
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) subscriptions: u64,
    /// Connections that hold them
    #[arg(long, default_value_t = 100)]
    pub(crate) clients: usize,
    /// Connections that publish
    #[arg(long, default_value_t = 4)]
    pub(crate) publishers: usize,
    /// Of a hundred filters so many end in `+`
    #[arg(long, default_value_t = 0)]
    pub(crate) plus: u64,
    /// Of a hundred filters so many end in `#`
    #[arg(long, default_value_t = 0)]
    pub(crate) hash: u64,
    /// Filters in a SUBSCRIBE
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) per_packet: u32,
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if (Stamp::SIZE..=MAX_PAYLOAD).contains(&size) {
        Ok(size)
    } else {
        Err(format!("from {} to {MAX_PAYLOAD} bytes", Stamp::SIZE))
    }
}

impl Sending {
    /// Messages that may be on their way, where nothing else is said.
    const WINDOW: u64 = 256;

    pub(crate) fn pace(&self) -> Pace {
        let window = match (self.window, self.rate) {
            (Some(0), _) | (None, 1..) => None,
            (Some(window), _) => Some(window),
            (None, 0) => Some(Self::WINDOW),
        };
        Pace {
            qos: self.qos,
            size: self.size,
            inflight: self.inflight,
            window,
            interval: interval(self.rate),
            messages: self.messages,
        }
    }
}

/// Between two of `rate` events a second; zero for no rate.
pub(crate) fn interval(rate: u32) -> Duration {
    Duration::from_secs(1).checked_div(rate).unwrap_or_default()
}

impl Common {
    /// An empty pool of connections to the broker.
    pub(crate) fn pool(&self) -> io::Result<Pool> {
        if !self.host.is_loopback() && !self.allow_remote {
            let why = "the broker is not on this machine; --allow-remote if that is meant";
            return Err(io::Error::other(why));
        }
        if self.sources > 1 && self.host != Ipv4Addr::LOCALHOST {
            let why = "--sources is for brokers on 127.0.0.1";
            return Err(io::Error::other(why));
        }
        raise_file_limit();
        Pool::new(Target {
            sources: self.sources,
            address: SocketAddr::new(self.host, self.port),
            tls: self.tls()?,
            version: self.version(),
        })
    }

    pub(crate) fn version(&self) -> Version {
        if self.version == 5 {
            Version::V5
        } else {
            Version::V3_1_1
        }
    }

    /// The client id of the connection with this number and purpose.
    pub(crate) fn client_id(&self, purpose: &str, number: usize) -> String {
        format!("{}{purpose}{number}", self.id)
    }

    pub(crate) fn login<'a>(&'a self, id: &'a str, persistent: bool) -> Login<'a> {
        Login {
            id,
            user: self.user.as_deref(),
            password: self.password.as_deref(),
            persistent,
            keep_alive: self.keep_alive,
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            whole: Duration::from_secs(self.max_secs),
            still: Duration::from_secs(self.still_secs),
            broker: self.pid,
        }
    }

    fn tls(&self) -> io::Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
        let mut provider = aws_lc_rs::default_provider();
        // What every broker has, so that all are asked for the same work.
        provider.kx_groups = vec![kx_group::X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let mut config = match self.cert.as_ref().zip(self.key.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert)
                    .and_then(Iterator::collect)
                    .map_err(io::Error::other)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(io::Error::other)?
            }
        };
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(self.server_name.clone()).map_err(io::Error::other)?;
        Ok(Some((Arc::new(config), name)))
    }
}

/// A socket for each connection. Where more is not allowed, opening one fails and says so.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
}
