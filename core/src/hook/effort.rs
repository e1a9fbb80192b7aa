//! How much work questions about whole filters may take.

use std::cell::Cell;

/// Steps that are left for [`Grants::cover`](super::Grants::cover).
///
/// To judge a filter a module may have to look at most of its policy, and clients choose filters.
/// So the filters of one SUBSCRIBE, and all subscriptions of a session after a change of policy,
/// share a number of steps; when it is used up, what is left is refused as
/// [`Cover::Unclear`](super::Cover::Unclear).
#[derive(Debug)]
pub struct Effort {
    left: Cell<u32>,
}

impl Effort {
    /// For the filters of one SUBSCRIBE.
    pub const SUBSCRIBE: u32 = 1 << 20;
    /// For the subscriptions of one session.
    pub const SESSION: u32 = 1 << 22;

    /// So many steps; one is worth some ten nanoseconds.
    #[must_use]
    pub const fn new(steps: u32) -> Self {
        Self {
            left: Cell::new(steps),
        }
    }

    /// How many steps are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left.get()
    }

    /// Takes steps away, as far as they are there.
    pub fn spend(&self, steps: u32) {
        self.left.set(self.left.get().saturating_sub(steps));
    }
}
