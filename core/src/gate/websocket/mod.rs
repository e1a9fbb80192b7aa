//! MQTT over WebSocket: a byte stream over binary frames (RFC 6455; MQTT 5.0, section 6).
//!
//! `WebSocket` is a stream like any other: what is read is the payload of the client's frames,
//! what is written goes out in frames. The parts that judge a client's bytes are pure and stand
//! apart: [`upgrade`] the HTTP request, [`frame`] the frames.
//!
//! Data are decoded in the reader's own buffer, so a connection that waits holds no buffer here;
//! output is held while the socket does not take it, at most one frame of `MAX_OUT` bytes, one
//! Pong and one Close.
//!
//! Frames that carry nothing (Ping, Pong, empty ones) cost work and are no packets that the meters
//! behind could count, so they are counted here: [`IDLE_BURST`] at once and one every
//! [`IDLE_INTERVAL`], and whoever sends more is closed with 1008.

pub mod frame;
pub mod upgrade;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use crate::metrics::Metrics;
use frame::{Decoder, Ended, NORMAL, Violation, put_close, put_data, put_pong};

/// Payload of the largest frame that is sent, bytes.
const MAX_OUT: usize = 64 << 10;

/// The least bound on a client's frames, whatever `mqtt.max-packet-size` is: one frame may hold
/// many packets.
const LEAST_MAX_FRAME: u32 = 1 << 20;

/// Frames without data that may come at once.
pub const IDLE_BURST: u32 = 20;

/// How often one more may come.
pub const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// A WebSocket behind its upgrade.
pub(super) struct WebSocket {
    inner: Stream,
    decoder: Decoder,
    meter: Meter,
    /// Frames that the socket has not taken yet, the first `written` bytes of them sent.
    out: Vec<u8>,
    written: usize,
    /// How the client's side ended.
    ended: Option<Ended>,
    close: Close,
    /// This side is shut: what still comes is thrown away.
    shut: bool,
    metrics: Arc<Metrics>,
}

/// Where the Close that this side sends stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    None,
    Due(u16),
    /// In `out`, or sent. Nothing may follow it (section 5.5.1).
    Put,
}

impl WebSocket {
    pub(super) fn new(inner: Stream, max_packet_size: u32, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            decoder: Decoder::new(max_packet_size.max(LEAST_MAX_FRAME).into()),
            meter: Meter::new(),
            out: Vec::new(),
            written: 0,
            ended: None,
            close: Close::None,
            shut: false,
            metrics,
        }
    }

    pub(super) fn inner(&self) -> &Stream {
        &self.inner
    }

    /// Whether the client's side ended with a Close or a violation: it is to get a Close, and
    /// time to read it.
    pub(super) fn is_closing(&self) -> bool {
        self.ended.is_some()
    }

    /// What a decoded buffer ends with.
    fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
        if self.close == Close::None {
            self.close = Close::Due(ended.answer());
        }
        if let Ended::Broken(_) = ended {
            self.metrics.malformed.inc();
        }
    }

    /// Reads to the end of the connection and gives nothing on.
    fn sink(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut read = ReadBuf::new(buffer.initialize_unfilled());
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Sends what is to be sent; ready when the socket has taken all of it.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => self.written += count,
                }
            }
            self.written = 0;
            self.out = Vec::new();
            if let Close::Due(code) = self.close {
                put_close(&mut self.out, code);
                self.close = Close::Put;
            } else if let Some(payload) = self.decoder.take_ping() {
                if self.close == Close::None {
                    put_pong(&mut self.out, &payload);
                }
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shut {
            return this.sink(context, buffer);
        }
        if !this.out.is_empty() {
            // Whoever waits for an answer may have been promised one that is still in here.
            let _ = this.drain(context)?;
        }
        loop {
            match this.ended {
                Some(Ended::Closed(_)) => return Poll::Ready(Ok(())),
                Some(Ended::Broken(violation)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                None => {}
            }
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let space = buffer.initialize_unfilled();
            let mut read = ReadBuf::new(space);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            let bytes = read.filled_mut();
            if bytes.is_empty() {
                // Without a Close: a network that broke. The reader sees the end all the same.
                return Poll::Ready(Ok(()));
            }
            let decoded = this.decoder.decode(bytes);
            if let Some(ended) = decoded.ended {
                this.end(ended);
            }
            if decoded.idle_frames > 0 && !this.meter.admit(decoded.idle_frames, Instant::now()) {
                this.end(Ended::Broken(Violation::Flood));
            }
            if this.ended.is_some() || decoded.idle_frames > 0 {
                // Best effort: what the socket does not take now goes out with what comes next.
                let _ = this.drain(context)?;
                let _ = Pin::new(&mut this.inner).poll_flush(context)?;
            }
            if decoded.data > 0 {
                buffer.advance(decoded.data);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.drain(context))?;
        if this.close != Close::None {
            // The peer does not want it any more, and no data may follow a Close.
            return Poll::Ready(Ok(bytes.len()));
        }
        let bytes = bytes.get(..MAX_OUT).unwrap_or(bytes);
        put_data(&mut this.out, bytes);
        // It is taken, whether the socket is as well or not: the next call goes on with it.
        if let Poll::Ready(Err(error)) = this.drain(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(context))?;
        Pin::new(&mut this.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.close == Close::None {
            this.close = Close::Due(NORMAL);
        }
        ready!(this.drain(context))?;
        this.shut = true;
        Pin::new(&mut this.inner).poll_shutdown(context)
    }
}

/// Counts frames that carry nothing: a bucket that fills by one every [`IDLE_INTERVAL`].
#[derive(Debug)]
struct Meter {
    left: u32,
    /// Since when the bucket fills.
    since: Option<Instant>,
}

impl Meter {
    const fn new() -> Self {
        Self {
            left: IDLE_BURST,
            since: None,
        }
    }

    /// Whether so many more frames are within the rate.
    fn admit(&mut self, frames: u32, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        let filled = passed.as_millis() / IDLE_INTERVAL.as_millis();
        let filled = u32::try_from(filled).unwrap_or(u32::MAX);
        if self.left.saturating_add(filled) >= IDLE_BURST {
            (self.left, self.since) = (IDLE_BURST, Some(now));
        } else {
            self.left += filled;
            self.since = Some(since + IDLE_INTERVAL * filled);
        }
        match self.left.checked_sub(frames) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
