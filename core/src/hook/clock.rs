//! The clock of one attempt, which stops while the client waits its turn.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The connect deadline of an [`Attempt`](super::Attempt), in the hands of whoever judges it.
///
/// A client is not to blame for a queue: while it waits for a place in one, or sits out a delay
/// that it was given, the clock is [stopped](Self::stop). Work itself counts, and so does waiting
/// for the client. All stops of an attempt together are bounded by [`MOST`](Self::MOST), so that
/// no module holds a half-open connection for ever.
#[derive(Clone, Debug)]
pub struct StopClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The clock runs again.
    resumed: Notify,
}

#[derive(Debug)]
struct State {
    /// When time is up, if the clock runs from now on.
    until: Instant,
    /// How long it may still be stopped.
    left: Duration,
    /// Since when it is stopped, and by how many.
    stopped: Option<(Instant, u32)>,
}

/// What the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Runs(Instant),
    Stopped(Instant),
}

/// Why an attempt has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeUp {
    /// The deadline.
    Deadline,
    /// [`StopClock::MOST`].
    Waited,
}

impl StopClock {
    /// Longest that the stops of one attempt may last together. A queue that is longer than that is
    /// no queue but an outage.
    pub const MOST: Duration = Duration::from_mins(2);

    /// A clock that gives `span` from now.
    #[must_use]
    pub fn new(span: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                until: Instant::now() + span,
                left: Self::MOST,
                stopped: None,
            }),
            resumed: Notify::new(),
        }))
    }

    /// Stops the clock until the answer is dropped.
    pub fn stop(&self) -> Stopped {
        let mut state = self.0.state.lock();
        let (since, holders) = state.stopped.unwrap_or_else(|| (Instant::now(), 0));
        state.stopped = Some((since, holders + 1));
        drop(state);
        Stopped(self.clone())
    }

    /// Sleeps with the clock stopped.
    pub async fn pause(&self, span: Duration) {
        if !span.is_zero() {
            let _stopped = self.stop();
            tokio::time::sleep(span).await;
        }
    }

    /// Completes when the time is up.
    pub(crate) async fn up(&self) -> TimeUp {
        loop {
            match self.reading() {
                Reading::Runs(until) => {
                    sleep_until(until).await;
                    if self.reading() == Reading::Runs(until) {
                        return TimeUp::Deadline;
                    }
                }
                Reading::Stopped(end) => {
                    if tokio::time::timeout_at(end, self.0.resumed.notified())
                        .await
                        .is_err()
                    {
                        return TimeUp::Waited;
                    }
                }
            }
        }
    }

    fn reading(&self) -> Reading {
        let state = self.0.state.lock();
        match state.stopped {
            None => Reading::Runs(state.until),
            Some((since, _)) => Reading::Stopped(since + state.left),
        }
    }
}

/// The clock is stopped as long as this lives.
#[derive(Debug)]
#[must_use = "the clock runs again when this is dropped"]
pub struct Stopped(StopClock);

impl Drop for Stopped {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock();
        match state.stopped {
            Some((since, 1)) => {
                let lasted = since.elapsed().min(state.left);
                state.left -= lasted;
                state.until += lasted;
                state.stopped = None;
                drop(state);
                self.0.0.resumed.notify_one();
            }
            Some((since, holders)) => state.stopped = Some((since, holders - 1)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn is_up(clock: &StopClock) -> Option<TimeUp> {
        timeout(Duration::ZERO, clock.up()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_is_stopped_does_not_count() {
        let clock = StopClock::new(10 * SECOND);
        advance(9 * SECOND).await;
        let one = clock.stop();
        advance(30 * SECOND).await;
        let two = clock.stop();
        drop(one);
        advance(30 * SECOND).await;
        assert_eq!(is_up(&clock).await, None);
        drop(two);
        advance(Duration::from_millis(990)).await;
        assert_eq!(is_up(&clock).await, None);
        advance(Duration::from_millis(20)).await;
        assert_eq!(is_up(&clock).await, Some(TimeUp::Deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_end_sees_stops_that_begin_and_end_meanwhile() {
        let clock = StopClock::new(10 * SECOND);
        let began = Instant::now();
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.up().await }
        });
        for _ in 0..5 {
            tokio::time::sleep(SECOND).await;
            clock.pause(20 * SECOND).await;
        }
        assert_eq!(waiting.await.unwrap(), TimeUp::Deadline);
        assert_eq!(began.elapsed().as_secs(), 110);
    }

    #[tokio::test(start_paused = true)]
    async fn all_stops_together_are_bounded() {
        for spans in [vec![200], vec![70, 70], vec![119, 200]] {
            let clock = StopClock::new(10 * SECOND);
            let began = Instant::now();
            let stopping = tokio::spawn({
                let clock = clock.clone();
                async move {
                    for span in spans {
                        clock.pause(span * SECOND).await;
                    }
                }
            });
            assert_eq!(clock.up().await, TimeUp::Waited);
            assert_eq!(began.elapsed().as_secs(), StopClock::MOST.as_secs());
            stopping.abort();
        }
    }
}
