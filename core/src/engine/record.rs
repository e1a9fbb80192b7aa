//! A session's side of the journal: what is written down before it is promised to anybody.

use crate::journal::{Entry, QueuedAs, SessionId, Steps};
use crate::ticket::Progress;
use crate::wire::{QoS, ReasonCode};

use super::link::Close;
use super::queue::Queued;
use super::session::State;
use super::{Attached, Routing};

impl Attached {
    /// Whether all that was recorded for this connection is on disk. Not known, and so no, once
    /// another one has the session.
    pub(crate) fn is_recorded(&self) -> bool {
        let state = self.session.lock();
        let barrier = state.barrier.as_ref();
        state.epoch == self.epoch
            && barrier.is_none_or(|barrier| barrier.poll(None) == Progress::Complete)
    }
}

impl State {
    /// Writes steps of this session to the journal, if it has one; what is sent to the client
    /// afterwards waits until they are safe. If they cannot be written the connection ends: a
    /// client must not be told what a restart would not know.
    pub(super) fn record(
        &mut self,
        routing: &mut Routing<'_>,
        mut steps: impl FnMut(&mut Steps<'_, '_>, SessionId),
    ) {
        let id = self.id;
        match routing.write(id, true, &mut |write| steps(write, id)) {
            Ok(ticket) => self.barrier = ticket.or(self.barrier.take()),
            Err(_) => self.order(
                Close {
                    code: ReasonCode::UnspecifiedError,
                    reason: "the store has failed".to_owned(),
                    will: true,
                },
                routing,
            ),
        }
    }

    /// The same for what can be refused; `false`: the store does not take it.
    pub(super) fn try_record(
        &mut self,
        routing: &mut Routing<'_>,
        mut steps: impl FnMut(&mut Steps<'_, '_>, SessionId),
    ) -> bool {
        let id = self.id;
        let written = routing.write(id, false, &mut |write| steps(write, id));
        if let Ok(ticket) = &written {
            self.barrier = ticket.clone().or(self.barrier.take());
        }
        written.is_ok()
    }

    /// A message is acknowledged, dropped or expired. If that cannot be written it comes again
    /// after a restart: once more, never less.
    pub(super) fn done(&mut self, entry: Entry, routing: &mut Routing<'_>) {
        if entry != 0 {
            let id = self.id;
            let _ = routing.write(id, true, &mut |steps| steps.done(id, entry));
        }
    }

    /// The number of the next message that the journal is told of; 0 where there is none.
    pub(super) fn next_entry(&mut self, qos: QoS) -> Entry {
        if !self.id.is_durable() || qos == QoS::AtMostOnce {
            return 0;
        }
        self.entries += 1;
        self.entries
    }

    /// Writes down that this session takes a message; its publisher's acknowledgement waits for
    /// that. `sent`: the packet identifier under which it goes out at once, which for `QoS` 2 must
    /// be on disk first. `false`: the store does not take it.
    pub(super) fn record_taken(
        &mut self,
        queued: &Queued,
        sent: Option<u16>,
        routing: &mut Routing<'_>,
    ) -> bool {
        if queued.entry == 0 {
            return true;
        }
        let id = self.id;
        let how = QueuedAs {
            entry: queued.entry,
            qos: queued.qos,
            retain: queued.retain,
            ids: &queued.ids,
        };
        let written = routing.write(id, false, &mut |steps| {
            steps.queued(id, &queued.message, &how);
            if let Some(sent) = sent {
                steps.sent(id, queued.entry, sent);
            }
        });
        let Ok(ticket) = written else {
            routing.refuse();
            return false;
        };
        if sent.is_some() && queued.qos == QoS::ExactlyOnce {
            self.barrier = ticket.clone().or(self.barrier.take());
        }
        routing.await_safe(ticket);
        true
    }
}
