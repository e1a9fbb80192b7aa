//! Named figures, as one line of JSON or of text.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::net::Failures;

/// What a run found.
#[derive(Default)]
pub(crate) struct Report(Map<String, Value>);

impl Report {
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// `whole` for each of `count`, to three decimals; left out where there is none.
    pub(crate) fn rate(&mut self, name: &str, whole: f64, count: f64) {
        if count > 0.0 {
            self.put(name, (whole / count * 1000.0).round() / 1000.0);
        }
    }

    /// Microseconds of `time` for each of `count`.
    pub(crate) fn micros_each(&mut self, name: &str, time: Duration, count: u64) {
        self.rate(name, time.as_secs_f64() * 1e6, float(count));
    }

    pub(crate) fn failures(&mut self, failures: &Failures) {
        self.put("refused_connections", failures.refused);
        self.put("closed_connections", failures.closed);
        if let Some(first) = &failures.first {
            self.put("first_error", first.as_str());
        }
    }

    pub(crate) fn json(&self) -> String {
        Value::from(self.0.clone()).to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.0.iter().enumerate() {
            let space = if place > 0 { " " } else { "" };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

/// For figures: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "figures have three digits")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
