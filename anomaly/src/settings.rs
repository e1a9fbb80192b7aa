//! What one address, one client and one identity may cost.

use std::fmt;
use std::time::Duration;

/// So many in so long a time; neither is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    nanos: u64,
}

impl Rate {
    /// `count` in `span`; `None` where one is zero or the span is over an hour.
    #[must_use]
    pub fn new(count: u64, span: Duration) -> Option<Self> {
        let nanos = u64::try_from(span.as_nanos()).ok()?;
        (count > 0 && nanos > 0 && span <= Duration::from_hours(1)).then_some(Self { count, nanos })
    }

    const fn per_second(count: u64) -> Self {
        Self {
            count,
            nanos: 1_000_000_000,
        }
    }

    const fn per_minute(count: u64) -> Self {
        Self {
            count,
            nanos: 60_000_000_000,
        }
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }

    /// In how long a time.
    #[must_use]
    pub fn span(self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Ten seconds of it, at least one: the burst of `[limits]`.
    pub(crate) fn burst(self) -> u64 {
        let ten = u128::from(self.count) * 10_000_000_000 / u128::from(self.nanos);
        u64::try_from(ten).unwrap_or(u64::MAX).max(1)
    }

    /// The same for `times` as many.
    pub(crate) fn times(self, times: u64) -> Self {
        Self {
            count: self.count.saturating_mul(times),
            nanos: self.nanos,
        }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nanos {
            1_000_000_000 => write!(f, "{}/s", self.count),
            60_000_000_000 => write!(f, "{}/min", self.count),
            _ => write!(f, "{} in {:?}", self.count, self.span()),
        }
    }
}

/// The limits. The first seven are `[limits]` and `[mqtt]` keys; the others have fixed defaults.
///
/// Unless said otherwise a burst is ten seconds of the rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `limits.connect-rate-per-ip`: connections that arrive from one address. Default 10/s. The
    /// addresses of one IPv4 /24 (IPv6 /48) together have ten times as much.
    pub connect_rate_per_ip: Rate,
    /// `limits.auth-failures-per-ip`: bad credentials from one address; the burst is one span of
    /// it. Default 30/min. Over it attempts are delayed, up to 2 s; those who go on are refused
    /// for a minute. The surroundings have ten times as much, and are delayed only.
    pub auth_failures_per_ip: Rate,
    /// `limits.publish-rate`: PUBLISH packets of one connection. Default 200/s.
    pub publish_rate: Rate,
    /// `limits.publish-bandwidth`: bytes of PUBLISH packets of one connection. Default 1 MiB/s; the
    /// burst is at least `max_packet_size`.
    pub publish_bandwidth: Rate,
    /// `limits.fan-out-rate`: deliveries that the publishes of one principal cause, over all its
    /// connections. Default 50 000/s: 200 messages a second to 250 receivers, and a message to
    /// 100 000 is still within the burst.
    pub fan_out_rate: Rate,
    /// `limits.fan-out-bandwidth`: bytes of topic and payload in those deliveries. Default
    /// 128 MiB/s, what a gigabit link carries; the burst is at least `max_packet_size`.
    pub fan_out_bandwidth: Rate,
    /// `mqtt.max-packet-size`, bytes. Default 1 MiB.
    pub max_packet_size: u64,
    /// Filters in SUBSCRIBE and UNSUBSCRIBE packets of one connection. Default 100/s: a client
    /// with a full session (1000 filters) subscribes at once.
    pub filter_rate: Rate,
    /// PINGREQ packets of one connection. Default 10/s: no keep-alive asks for more than 1/s.
    pub ping_rate: Rate,
    /// Acknowledgements of one connection that answer nothing. Default 100/s: after a broken
    /// connection a client may answer a whole window of what is no longer under way.
    pub stray_rate: Rate,
    /// Publishes and filters of one connection that the policy refuses. Default 10/s.
    pub refused_rate: Rate,
    /// Connects of one client id of one principal; the burst is one span of it. Default 20/min.
    pub connects_per_client: Rate,
    /// Connects of one principal under any client id; the burst is one span of it. Default
    /// 3000/min: three times `limits.sessions-per-principal`.
    pub connects_per_principal: Rate,
    /// Most source prefixes in each table of addresses; a full table refuses addresses that it does
    /// not know. Default 1 000 000, at some 40 bytes each.
    pub tracked_sources: usize,
    /// Most clients, principals and failing addresses in each of their tables; a full table
    /// forgets those that were quiet longest. Default 1 000 000, at some 40 bytes each, and 80 in
    /// the table of principals that publish.
    pub tracked_clients: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_rate_per_ip: Rate::per_second(10),
            auth_failures_per_ip: Rate::per_minute(30),
            publish_rate: Rate::per_second(200),
            publish_bandwidth: Rate::per_second(1 << 20),
            fan_out_rate: Rate::per_second(50_000),
            fan_out_bandwidth: Rate::per_second(128 << 20),
            max_packet_size: 1 << 20,
            filter_rate: Rate::per_second(100),
            ping_rate: Rate::per_second(10),
            stray_rate: Rate::per_second(100),
            refused_rate: Rate::per_second(10),
            connects_per_client: Rate::per_minute(20),
            connects_per_principal: Rate::per_minute(3000),
            tracked_sources: 1_000_000,
            tracked_clients: 1_000_000,
        }
    }
}
