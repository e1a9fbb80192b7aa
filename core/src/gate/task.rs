//! The task of one connection, from accept to its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::driver::Driver;

/// What the task does at present. Admission takes more memory than a connection needs; it is given
/// back when it is over.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of its life it is the large one"
)]
pub(super) enum Task {
    Arriving(Pin<Box<dyn Future<Output = Option<Driver>> + Send>>),
    Admitted(Driver),
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match this {
                Self::Arriving(handshake) => match ready!(handshake.as_mut().poll(context)) {
                    Some(driver) => *this = Self::Admitted(driver),
                    None => return Poll::Ready(()),
                },
                Self::Admitted(driver) => return Pin::new(driver).poll(context),
            }
        }
    }
}
