//! Runs one admitted connection: reads, hands bytes to the protocol machine, writes what comes out.
//!
//! A connection that waits holds no buffers: reads go through a buffer of the thread, output is
//! allocated while there is some.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout};

use crate::clock::Now;
use crate::connection::{Connection, End, STALL};
use crate::hook::{BoxFuture, Outcome};
use crate::wire::ReasonCode;

use super::Place;
use super::stream::Stream;

/// Read, route and write so often before others get a turn.
const ROUNDS: usize = 8;

/// Unsent answers over which nothing more is read: the client reads none of them.
const REPLIES_HIGH_WATER: usize = 256 << 10;

/// How long a goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// Judges the steps of a re-authentication; see [`super::handshake`].
pub(super) trait Renew: Send {
    /// Asks about the client's next step.
    fn judge(&mut self, data: Vec<u8>) -> BoxFuture<'static, Outcome>;

    /// Does what the answer says.
    fn settle(
        &mut self,
        connection: &mut Connection,
        outcome: Outcome,
        now: Now,
    ) -> Result<(), End>;
}

/// What a connection does when its task next has the processor.
///
/// Everybody reads before anybody writes, so that a receiver writes once what many publishers sent
/// it; and receivers write before publishers are acknowledged, since they wait longer. The runtime
/// would run whoever is woken next of all; a task that gives its turn away goes behind all that are
/// ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// Reads, unless others have given it something to write: then it gives its turn away once.
    #[default]
    Read,
    /// Reads, then writes.
    Both,
    /// Gives its turn away, for the receivers of what it read, and then writes.
    Yield,
    /// Writes.
    Write,
}

pub(super) struct Driver {
    stream: Stream,
    connection: Connection,
    /// Whether `input` holds packets that were not taken: what came with the CONNECT, or what a
    /// batch that was cut short left.
    untaken: bool,
    /// The beginning of a packet.
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
    turn: Turn,
    /// When it gave its turn away for having caused much.
    gave: Option<Instant>,
    /// Since when the socket takes nothing.
    blocked: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    judge: Option<Box<Judge>>,
    place: Option<Place>,
}

/// What a client with an Authentication Method has besides.
struct Judge {
    renewal: Box<dyn Renew>,
    /// The answer to the step that it has sent.
    answer: Option<BoxFuture<'static, Outcome>>,
}

impl Driver {
    /// `input` came with the CONNECT.
    pub(super) fn new(
        stream: Stream,
        connection: Connection,
        input: Vec<u8>,
        renewal: Option<Box<dyn Renew>>,
        place: Place,
        now: Now,
    ) -> Self {
        let deadline = connection.deadline(now);
        Self {
            stream,
            connection,
            untaken: !input.is_empty(),
            input,
            output: Vec::new(),
            written: 0,
            unflushed: false,
            turn: Turn::Read,
            gave: None,
            blocked: None,
            timer: Box::pin(sleep_until(deadline.into())),
            judge: renewal.map(|renewal| {
                let answer = None;
                Box::new(Judge { renewal, answer })
            }),
            place: Some(place),
        }
    }

    fn step(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let next = match self.turn {
            Turn::Read if self.connection.is_awake() => Some(Turn::Both),
            Turn::Yield => Some(Turn::Write),
            Turn::Read | Turn::Both | Turn::Write => None,
        };
        if let Some(next) = next {
            self.give_way(next, context);
            return Ok(());
        }
        let mut now = Now::read();
        if let Some(gave) = self.gave.take() {
            self.connection.waited(now.mono - gave);
        }
        // Whatever is to be written later wakes the task.
        let mut writes = true;
        for _ in 0..ROUNDS {
            let mut moved = self.judge(context, now)?;
            let turn = std::mem::take(&mut self.turn);
            if turn == Turn::Write {
                moved = true;
            } else if self.read(context, now)? {
                moved = true;
                let next = match turn {
                    _ if self.connection.has_caused_much() => Some(Turn::Yield),
                    _ if self.connection.unsent() == 0 => None,
                    _ if self.connection.has_woken() => Some(Turn::Yield),
                    Turn::Read => Some(Turn::Write),
                    Turn::Both | Turn::Yield | Turn::Write => None,
                };
                if let Some(next) = next {
                    self.gave = self.connection.has_caused_much().then(Instant::now);
                    self.give_way(next, context);
                    return Ok(());
                }
            }
            if moved || writes {
                let choked = self.is_choked();
                moved |= self.write(context, now)? && choked;
                writes = false;
            }
            if !moved {
                self.connection.check_time(now)?;
                if self.is_stuck(now) && self.is_burden() {
                    return Err(self.connection.slow_consumer(now));
                }
                if self.arm(context, now) {
                    return Ok(());
                }
                writes = true;
            }
            now = Now::read();
        }
        self.give_way(Turn::Read, context);
        Ok(())
    }

    /// Others first; then this.
    fn give_way(&mut self, next: Turn, context: &Context<'_>) {
        self.turn = next;
        context.waker().wake_by_ref();
    }

    /// Sets the timer; `false` if it has fired already.
    fn arm(&mut self, context: &mut Context<'_>, now: Now) -> bool {
        let mut deadline = self.connection.deadline(now);
        if let Some(blocked) = self
            .blocked
            .filter(|_| self.is_choked() || self.is_burden())
        {
            deadline = deadline.min(blocked + STALL);
        }
        // A timer that fires early is set again; one that would fire late is moved.
        if self.timer.is_elapsed() || deadline < self.timer.deadline().into_std() {
            self.timer.as_mut().reset(deadline.into());
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if deadline <= Instant::now() {
                return false;
            }
            self.timer.as_mut().reset(deadline.into());
        }
        true
    }

    /// The client sends on but reads nothing.
    fn is_choked(&self) -> bool {
        self.connection.unsent() > REPLIES_HIGH_WATER
    }

    /// The client does not read what was written for it, and memory is short.
    fn is_burden(&self) -> bool {
        self.connection.is_burden(self.output.len() - self.written)
    }

    /// Whether the socket has taken nothing for so long that the client counts as gone.
    fn is_stuck(&self, now: Now) -> bool {
        self.blocked.is_some_and(|since| since + STALL <= now.mono)
    }

    fn judge(&mut self, context: &mut Context<'_>, now: Now) -> Result<bool, End> {
        if let Some(step) = self.connection.auth_step() {
            match &mut self.judge {
                Some(judge) if judge.answer.is_none() => {
                    judge.answer = Some(judge.renewal.judge(step));
                }
                _ => {
                    return Err(End::Server(crate::engine::Close {
                        code: ReasonCode::ProtocolError,
                        reason: "an AUTH that nobody asked for".to_owned(),
                        will: true,
                    }));
                }
            }
        }
        let Some(judge) = &mut self.judge else {
            return Ok(false);
        };
        let Some(answer) = &mut judge.answer else {
            return Ok(false);
        };
        match answer.as_mut().poll(context) {
            Poll::Pending => Ok(false),
            Poll::Ready(outcome) => {
                judge.answer = None;
                judge.renewal.settle(&mut self.connection, outcome, now)?;
                Ok(true)
            }
        }
    }

    fn read(&mut self, context: &mut Context<'_>, now: Now) -> Result<bool, End> {
        if self.connection.is_paused(now)? {
            return Ok(false);
        }
        if self.is_choked() {
            if self.is_stuck(now) {
                return Err(self.connection.slow_consumer(now));
            }
            return Ok(false);
        }
        if self.untaken {
            let consumed = self.connection.receive(&self.input, context.waker(), now)?;
            self.consumed(consumed);
            return Ok(true);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(End::Lost(error.to_string())),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Err(End::Lost("closed without DISCONNECT".to_owned()));
            }
            let waker = context.waker();
            if self.input.is_empty() {
                let consumed = self.connection.receive(bytes, waker, now)?;
                self.input = bytes.get(consumed..).unwrap_or_default().to_vec();
                self.untaken = self.connection.has_caused_much() && !self.input.is_empty();
            } else {
                self.input.extend_from_slice(bytes);
                let consumed = self.connection.receive(&self.input, waker, now)?;
                self.consumed(consumed);
            }
            self.connection.grew(bytes.len(), self.input.len())?;
            Ok(true)
        })
    }

    /// So many bytes of `input` were taken.
    fn consumed(&mut self, bytes: usize) {
        if bytes == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..bytes);
        }
        self.untaken = self.connection.has_caused_much() && !self.input.is_empty();
    }

    fn write(&mut self, context: &mut Context<'_>, now: Now) -> Result<bool, End> {
        let mut moved = false;
        loop {
            if self.written == self.output.len() {
                self.written = 0;
                self.output.clear();
                self.connection
                    .take_output(&mut self.output, context.waker(), now)?;
                if self.output.is_empty() {
                    self.output = Vec::new();
                    break;
                }
            }
            let rest = self.output.get(self.written..).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Pending => {
                    self.blocked.get_or_insert(now.mono);
                    self.connection.block()?;
                    break;
                }
                Poll::Ready(Ok(0)) => return Err(End::Lost("the socket takes nothing".to_owned())),
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.blocked = None;
                    self.unflushed = true;
                    self.connection.wrote(count, now);
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(End::Lost(error.to_string())),
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(End::Lost(error.to_string())),
            }
        }
        Ok(moved)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.step(context) {
            Ok(()) => Poll::Pending,
            Err(end) => {
                let farewell = this.connection.finish(&end, Now::read());
                let place = this.place.take();
                let unsent = this.output.split_off(this.written.min(this.output.len()));
                let stream = std::mem::replace(&mut this.stream, Stream::Closed);
                let done = unsent.is_empty() && farewell.is_empty() && stream.is_bare();
                let goodbye = match end {
                    End::Lost(_) => stream.is_closing(),
                    // It is closing the connection already.
                    End::Client { .. } => !done,
                    End::Server(_) => true,
                };
                if goodbye {
                    tokio::spawn(say_goodbye(stream, unsent, farewell, place));
                }
                Poll::Ready(())
            }
        }
    }
}

/// Sends what is left, closes, and reads on for a moment, so that the kernel does not throw the
/// goodbye away because of bytes that nobody read.
pub(super) async fn say_goodbye(
    mut stream: Stream,
    unsent: Vec<u8>,
    farewell: Vec<u8>,
    place: Option<Place>,
) {
    let closing = async {
        stream.write_all(&unsent).await?;
        stream.write_all(&farewell).await?;
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Late or failed: the socket is closed all the same.
    let _ = timeout(FAREWELL, closing).await;
    drop(place);
}
