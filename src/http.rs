//! `[admin] bind`: Prometheus text and health over HTTP, read-only and on loopback.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// A number as an exporter sees it: name, whether it only grows, help, value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Without the prefix `portcullis_`.
    pub name: String,
    /// `true`: a counter; `false`: a gauge.
    pub counter: bool,
    /// What it counts.
    pub help: String,
    /// The present value.
    pub value: u64,
    /// Labels: for what is not a number, and to tell numbers of one name apart. Samples of one name
    /// stand side by side.
    pub labels: Vec<(&'static str, String)>,
}

/// Reads all numbers.
pub type Source = Arc<dyn Fn() -> Vec<Sample> + Send + Sync>;

struct Numbers(Source);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let samples = (self.0)();
        for family in samples.chunk_by(|one, next| one.name == next.name) {
            let Some(Sample {
                name,
                counter,
                help,
                value,
                ..
            }) = family.first()
            else {
                continue;
            };
            if *counter {
                let number = ConstCounter::new(*value);
                let metric = encoder.encode_descriptor(name, help, None, number.metric_type())?;
                number.encode(metric)?;
                continue;
            }
            let kind = ConstGauge::new(0_i64).metric_type();
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for sample in family {
                let number = ConstGauge::new(i64::try_from(sample.value).unwrap_or(i64::MAX));
                if sample.labels.is_empty() {
                    number.encode(metric)?;
                    break;
                }
                number.encode(metric.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

/// Binds the endpoint.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves `/metrics` and `/health` for ever; the caller ends the task. `healthy` says whether
/// new clients are taken, and why not.
///
/// # Errors
///
/// The socket failed.
pub async fn serve(
    listener: TcpListener,
    source: Source,
    healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
) -> std::io::Result<()> {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Numbers(source)));
    let registry = Arc::new(Mutex::new(registry));
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .with_state(registry)
        .route(
            "/health",
            get(move || {
                let healthy = Arc::clone(&healthy);
                async move {
                    match healthy() {
                        Ok(()) => (axum::http::StatusCode::OK, "ok\n".to_owned()),
                        Err(why) => (
                            axum::http::StatusCode::SERVICE_UNAVAILABLE,
                            format!("{why}\n"),
                        ),
                    }
                }
            }),
        );
    axum::serve(listener, routes).await
}

async fn metrics(State(registry): State<Arc<Mutex<Registry>>>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry.lock());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}
