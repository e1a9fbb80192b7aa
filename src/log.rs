//! The program's own log, on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogLevel};

/// Starts logging. Does nothing if logging was started before.
pub fn start(format: LogFormat, level: LogLevel) {
    let filter = EnvFilter::new(level.as_str());
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Human => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(false))
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    // The first one stands.
    drop(started);
}
