//! Exact accounts: which messages came, and how late.

/// Which messages of each lane came. A lane is one publisher for one receiver.
#[derive(Default)]
pub(crate) struct Ledger {
    lanes: Vec<Vec<u64>>,
    /// Messages that came for the first time.
    pub(crate) received: u64,
    /// Messages that came again.
    pub(crate) duplicates: u64,
    /// Messages of another run, for somebody else, or never sent.
    pub(crate) wrong: u64,
}

impl Ledger {
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            lanes: vec![Vec::new(); lanes],
            ..Self::default()
        }
    }

    /// Notes message `sequence` of a lane on which `sent` were sent; says whether it is new.
    pub(crate) fn note(&mut self, lane: usize, sequence: u64, sent: u64) -> bool {
        let (Some(seen), true) = (self.lanes.get_mut(lane), sequence < sent) else {
            self.wrong += 1;
            return false;
        };
        let word = usize::try_from(sequence / 64).unwrap_or(usize::MAX);
        if word >= seen.len() {
            seen.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        match seen.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                self.received += 1;
                true
            }
            _ => {
                self.duplicates += 1;
                false
            }
        }
    }
}

/// Steps within each doubling: a figure is off by at most 1/64.
const STEPS: u64 = 32;

/// Times, nanoseconds, in classes that grow with the time.
#[derive(Default)]
pub(crate) struct Histogram {
    classes: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, nanos: u64) {
        let class = Self::class(nanos);
        if class >= self.classes.len() {
            self.classes.resize(class + 1, 0);
        }
        if let Some(place) = self.classes.get_mut(class) {
            *place += 1;
        }
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The time that `per_mille` of a thousand do not exceed.
    pub(crate) fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Self::middle(class).min(self.max);
            }
        }
        self.max
    }

    fn class(nanos: u64) -> usize {
        let doublings = u64::from(nanos.max(STEPS).ilog2() - STEPS.ilog2());
        // Below 64 * STEPS.
        usize::try_from(doublings * STEPS + (nanos >> doublings)).unwrap_or_default()
    }

    fn middle(class: usize) -> u64 {
        let class = class as u64;
        if class < 2 * STEPS {
            return class;
        }
        let doublings = class / STEPS - 1;
        ((class % STEPS + STEPS) << doublings) + (1 << doublings) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_new_once() {
        let mut ledger = Ledger::new(2);
        assert!(ledger.note(0, 0, 200));
        assert!(ledger.note(1, 0, 200));
        assert!(ledger.note(0, 199, 200));
        assert!(!ledger.note(0, 199, 200));
        assert!(!ledger.note(0, 200, 200), "never sent");
        assert!(!ledger.note(2, 0, 200), "nobody's");
        assert_eq!(
            (ledger.received, ledger.duplicates, ledger.wrong),
            (3, 1, 2)
        );
    }

    #[test]
    fn quantiles_are_off_by_a_few_hundredths_at_most() {
        let mut histogram = Histogram::default();
        for nanos in 1..=100_000 {
            histogram.record(nanos);
        }
        for per_mille in [1, 10, 500, 990, 999, 1000] {
            let (found, exact) = (histogram.quantile(per_mille), per_mille * 100);
            assert!(found.abs_diff(exact) * 32 <= exact, "{found} for {exact}");
        }
        assert_eq!(histogram.max(), 100_000);
        histogram.record(u64::MAX);
        assert!(histogram.quantile(1000) > u64::MAX / 64 * 63);
    }

    #[test]
    fn classes_do_not_overlap() {
        let mut last = 0;
        for nanos in 0..10_000 {
            let class = Histogram::class(nanos);
            assert!(class == last || class == last + 1, "{nanos}");
            last = class;
            let middle = Histogram::middle(class);
            assert_eq!(Histogram::class(middle), class, "{nanos}");
        }
    }
}
