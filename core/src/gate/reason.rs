//! Why a TLS handshake failed, in more words than TLS has for it.
//!
//! A certificate verifier is asked deep inside a handshake, and can pass up no more than the kind of
//! its refusal, which picks the alert. Its words take this way around.

use std::cell::RefCell;
use std::future::Future;

tokio::task_local! {
    static REASON: RefCell<Option<String>>;
}

/// For certificate verifiers: why the certificate of the handshake that is going on is refused. For log
/// and record, never for the peer. Outside [`with_reason`] nobody listens.
pub fn note_reason(reason: String) {
    let _ = REASON.try_with(|slot| slot.borrow_mut().replace(reason));
}

/// Runs a handshake; gives what was noted in it, too.
pub async fn with_reason<T>(handshake: impl Future<Output = T>) -> (T, Option<String>) {
    let work = async {
        let result = handshake.await;
        (result, REASON.with(RefCell::take))
    };
    REASON.scope(RefCell::new(None), work).await
}
