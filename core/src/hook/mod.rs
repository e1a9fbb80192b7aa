//! Extension points: the four questions that the broker asks its modules.
//!
//! | question | trait | asked | shape |
//! | --- | --- | --- | --- |
//! | who is it? | [`Authenticator`] | at CONNECT and AUTH | async, bounded in time |
//! | may it? | [`Authorizer`], [`Grants`] | once per identity and policy generation, then from memory | synchronous, no allocation, no lock |
//! | does it behave? | [`Admission`], [`Meter`] | on arrival, after CONNECT, once per read batch | synchronous |
//! | what happened? | [`Observer`], [`Tally`] | refusals and life-cycle one by one, traffic per batch | never blocks |
//!
//! In a chain deny wins and silence is no: no authenticator that owns the credential, or no
//! authorizer that allows, is a refusal. A module that panics is a refusal, a counter and a log
//! line.
//!
//! Core enforces the answers (`guard`); modules never touch sessions, sockets or messages.

mod admission;
mod authenticate;
mod authorize;
mod clock;
mod effort;
mod facts;
mod identity;
mod modules;
mod observe;

pub use admission::{Admission, Arrival, BatchFacts, Begun, Meter, Verdict};
pub use authenticate::{
    Accepted, Attempt, Authenticator, ClientCertificate, Credential, Lease, Outcome, Refusal,
    RefusalKind, Standing, Use,
};
pub use authorize::{Action, Authorizer, Cover, Decision, Grants, Rule};
pub(crate) use clock::TimeUp;
pub use clock::{StopClock, Stopped};
pub use effort::Effort;
pub use facts::{Alike, MessageFacts};
pub use identity::{Attributes, Identity, Principal, PrincipalError, Snapshot};
pub use modules::Modules;
pub(crate) use modules::Watch;
pub use observe::{Disconnected, Event, Granted, Observer, Tally};

use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that the traits that are async can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
