//! Records that wait for the writer.
//!
//! They come and go by the thousand while connections, which stay, are opened: a record with an
//! allocation of its own would leave holes between those. So the texts lie one after the other in
//! pieces, each of which goes as a whole.

use std::collections::VecDeque;

use crate::record::Record;

/// Size of a piece, bytes; a longer record has one of its own.
const PIECE: usize = 16 << 10;

/// Records in their order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pieces: VecDeque<Piece>,
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    text: String,
    /// Where each record ends in the text, and whether it is vital.
    ends: Vec<(usize, bool)>,
    /// How many were taken out.
    gone: usize,
}

impl Batch {
    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of all texts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, record: Record<&str>) {
        let size = record.text.len();
        let fits = |piece: &Piece| piece.text.capacity() - piece.text.len() >= size;
        if !self.pieces.back().is_some_and(fits) {
            self.pieces.push_back(Piece {
                text: String::with_capacity(PIECE.max(size)),
                ends: Vec::new(),
                gone: 0,
            });
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.text.push_str(record.text);
            piece.ends.push((piece.text.len(), record.vital));
            self.records += 1;
            self.bytes += size;
        }
    }

    /// The oldest record.
    pub(crate) fn front(&self) -> Option<Record<&str>> {
        let piece = self.pieces.front()?;
        piece.record(piece.gone)
    }

    /// Takes the oldest record out.
    pub(crate) fn pop_front(&mut self) {
        let Some(piece) = self.pieces.front_mut() else {
            return;
        };
        if let Some(record) = piece.record(piece.gone) {
            self.bytes -= record.text.len();
            self.records -= 1;
            piece.gone += 1;
        }
        if piece.gone == piece.ends.len() {
            self.pieces.pop_front();
        }
    }
}

impl Piece {
    fn record(&self, place: usize) -> Option<Record<&str>> {
        let before = place
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        let start = before.map_or(0, |(end, _)| *end);
        let (end, vital) = *self.ends.get(place)?;
        let text = self.text.get(start..end)?;
        Some(Record { vital, text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_is_a_queue(steps in proptest::collection::vec(proptest::option::of((0usize..6000, any::<bool>())), 0..200)) {
            let (mut batch, mut oracle) = (Batch::default(), VecDeque::new());
            for (number, step) in steps.into_iter().enumerate() {
                if let Some((size, vital)) = step {
                    let text = format!("{number:>size$}");
                    let record = Record { vital, text };
                    batch.push(record.as_ref());
                    oracle.push_back(record);
                } else {
                    batch.pop_front();
                    oracle.pop_front();
                }
                prop_assert_eq!(batch.front(), oracle.front().map(Record::as_ref));
                prop_assert_eq!(batch.len(), oracle.len());
                prop_assert_eq!(batch.is_empty(), oracle.is_empty());
                prop_assert_eq!(batch.bytes(), oracle.iter().map(|record| record.text.len()).sum::<usize>());
            }
        }
    }

    #[test]
    fn an_empty_batch_keeps_no_piece() {
        let mut batch = Batch::default();
        for _ in 0..1000 {
            batch.push(Record {
                vital: true,
                text: "x".repeat(100).as_str(),
            });
        }
        while !batch.is_empty() {
            batch.pop_front();
        }
        assert!(batch.pieces.is_empty());
    }
}
