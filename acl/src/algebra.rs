//! Topic algebra: what is true of *all* topics that a filter matches.
//!
//! There are infinitely many topics, but at each level the rules can tell apart only the literals
//! that they name there, and everything else. So a walk through the rules by every named literal
//! and one stranger visits every kind of topic that exists, and its answers are exact for unions of
//! filters, minus unions of filters, over topics of any depth.
//!
//! The `$` rules of the design hold: a pattern or filter that begins with a wildcard does not touch
//! topics that begin with `$`. The empty level is a level, but the empty topic is not a topic.
//!
//! The walk remembers what it has seen and its work is bounded: every edge and every place that it
//! looks at is a step, and steps are counted before they are taken. When the bound is reached the
//! answer is [`Answer::exhausted`], and callers take the strict reading.

use std::collections::HashSet;

use portcullis_core::hook::{Cover, Rule};
use portcullis_core::topic::{TopicFilter, TopicLimits};
use smallvec::{SmallVec, smallvec};

use crate::pattern::{Level, Slots, topic};
use crate::policy::Effect;
use crate::trie::{Asked, NONE, ROOT, Trie, Values, value};

/// Steps that one question may take.
pub(crate) const WORK: u32 = 1 << 18;

/// How much of what `filter` matches is matched by some of `allows` and none of `denies`. The rule
/// of the answer is the place in `denies` of the one that cut.
///
/// `None` if one of them is not a valid MQTT filter, or `filter` has a `$share` prefix, which is not
/// a question of topics.
#[must_use]
pub fn cover(filter: &str, allows: &[&str], denies: &[&str]) -> Option<Cover> {
    let mut slots = Slots::default();
    let mut trie = Trie::new([]);
    let parts = [(allows, Effect::Allow), (denies, Effect::Deny)];
    for (filters, effect) in parts {
        for (number, filter) in (0..).zip(filters) {
            let levels = topic(filter, &mut slots).ok()?;
            trie.insert(&levels, Asked::Receive, effect, number);
        }
    }
    if slots.iter().next().is_some() {
        return None;
    }
    let filter = TopicFilter::new(filter, TopicLimits::default()).ok()?;
    if filter.share().is_some() {
        return None;
    }
    let tries = [&trie];
    let view = View {
        tries: &tries,
        values: &[],
        asked: Asked::Receive,
    };
    Some(ask(filter.filter(), &[view], WORK).cover())
}

/// Rules as one client sees them.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) tries: &'a [&'a Trie],
    pub(crate) values: &'a Values,
    pub(crate) asked: Asked,
}

/// What was found among the topics of a filter.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Bit `n` is set when some topic has outcome `n`; an outcome has a bit for each view, set when
    /// the view allows.
    pub(crate) seen: u8,
    /// For each outcome an example: a filter whose topics all have it.
    pub(crate) examples: [Option<String>; 4],
    /// A deny that decided in the first view.
    pub(crate) cut: Option<Rule>,
    /// The work was more than the bound; `seen` may lack outcomes.
    pub(crate) exhausted: bool,
    /// Steps that were taken.
    pub(crate) work: u32,
}

impl Answer {
    pub(crate) fn has(&self, outcome: u8) -> bool {
        self.seen & (1 << outcome) != 0
    }

    /// The answer about the first of one view.
    pub(crate) fn cover(&self) -> Cover {
        match (self.has(1), self.has(0)) {
            // What was seen stays true.
            (true, true) => Cover::Partial(self.cut),
            _ if self.exhausted => Cover::Unclear,
            (true, false) => Cover::Full,
            (false, _) => Cover::Nothing(self.cut),
        }
    }
}

/// Sorts the topics that `filter` matches by what each of the views (one or two) says of them, in at
/// most so many steps.
pub(crate) fn ask(filter: &str, views: &[View<'_>], limit: u32) -> Answer {
    let levels: Vec<&str> = filter.split('/').collect();
    let mut search = Search {
        views,
        filter: &levels,
        reserved: filter.starts_with('$'),
        known: HashSet::default(),
        path: Vec::new(),
        limit,
        answer: Answer::default(),
    };
    let start = views.iter().map(|view| {
        let spots = (0..).zip(view.tries).map(|(trie, _)| Spot {
            trie,
            only_denies: false,
            node: ROOT,
        });
        State {
            spots: spots.collect(),
            allowed: false,
            denied: NONE,
        }
    });
    let start: States = start.collect();
    let start = search.absorb(start);
    search.visit(0, &start);
    search.answer
}

/// A place in one of the tries of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Spot {
    trie: u8,
    /// Reached through a placeholder without a safe value: only denies count.
    only_denies: bool,
    node: u32,
}

/// What is known of a topic in one view after some levels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Where further levels are compared; sorted.
    spots: SmallVec<[Spot; 4]>,
    /// A `#` allows it, however it goes on.
    allowed: bool,
    /// The rule whose `#` denies it, however it goes on, or [`NONE`].
    denied: u32,
}

type States = SmallVec<[State; 2]>;

struct Search<'a> {
    views: &'a [View<'a>],
    filter: &'a [&'a str],
    /// The filter's topics begin with `$`.
    reserved: bool,
    known: HashSet<(usize, States), foldhash::fast::RandomState>,
    path: Vec<String>,
    limit: u32,
    answer: Answer,
}

impl Search<'_> {
    /// Whether so many further steps may be taken.
    fn may(&mut self, steps: usize) -> bool {
        let Answer {
            work, exhausted, ..
        } = &mut self.answer;
        let left = self.limit.saturating_sub(*work) as usize;
        if *exhausted || steps > left {
            *exhausted = true;
            return false;
        }
        *work += u32::try_from(steps).unwrap_or(u32::MAX);
        true
    }

    /// Sorts the topics that begin with what has been walked. `at` is the place in the filter; a
    /// filter that ends in `#` stays there.
    fn visit(&mut self, at: usize, states: &States) {
        let next = self.filter.get(at).copied();
        let empty = match self.path.as_slice() {
            [] => true,
            [only] => only.is_empty(),
            _ => false,
        };
        let may_end = !empty && next.is_none_or(|level| level == "#");
        let places: usize = states.iter().map(|state| state.spots.len() + 1).sum();
        if (next.is_none() && !may_end) || !self.may(places) {
            return;
        }
        let possible = self.possible(states);
        if possible & !self.answer.seen == 0 {
            return;
        }
        if possible.is_power_of_two() {
            self.note(possible.trailing_zeros(), states, at);
            return;
        }
        if !self.known.insert((at, states.clone())) {
            return;
        }
        if may_end {
            self.end(states);
        }
        let Some(level) = next else { return };
        if level != "+" && level != "#" {
            self.step(at + 1, level, states, false);
            return;
        }
        let onward = if level == "#" { at } else { at + 1 };
        // The stranger first: it decides most questions.
        self.step(onward, "+", states, true);
        if possible & !self.answer.seen == 0 {
            return;
        }
        for literal in self.literals(states) {
            if possible & !self.answer.seen == 0 || self.answer.exhausted {
                return;
            }
            if !(self.path.is_empty() && literal.starts_with('$')) {
                self.step(onward, &literal, states, false);
            }
        }
    }

    /// Which outcomes topics from here on can have at all.
    fn possible(&self, states: &[State]) -> u8 {
        let mut outcomes: SmallVec<[u8; 4]> = smallvec![0];
        for (bit, (view, state)) in self.views.iter().zip(states).enumerate() {
            let (mut allow, mut deny) = (state.allowed, false);
            for spot in &state.spots {
                if let Some(trie) = view.tries.get(usize::from(spot.trie)) {
                    let below = trie.below(spot.node, view.asked);
                    allow |= below.0 && !spot.only_denies;
                    deny |= below.1;
                }
            }
            let yes = allow && state.denied == NONE;
            let no = !yes || deny || !state.allowed;
            let before = std::mem::take(&mut outcomes);
            for outcome in before {
                if no {
                    outcomes.push(outcome);
                }
                if yes {
                    outcomes.push(outcome | 1 << bit);
                }
            }
        }
        outcomes.iter().fold(0, |set, outcome| set | 1 << outcome)
    }

    /// The topic that ends here.
    fn end(&mut self, states: &[State]) {
        let mut outcome = 0;
        let mut cut = NONE;
        for (bit, (view, state)) in self.views.iter().zip(states).enumerate() {
            let (mut allowed, mut denied) = (state.allowed, state.denied);
            for spot in &state.spots {
                if let Some(trie) = view.tries.get(usize::from(spot.trie)) {
                    let said = trie.at_end(spot.node, view.asked);
                    allowed |= said.allow != NONE && !spot.only_denies;
                    denied = denied.min(said.deny);
                }
            }
            if allowed && denied == NONE {
                outcome |= 1 << bit;
            }
            if bit == 0 {
                cut = denied;
            }
        }
        self.record(outcome, cut, self.filter.len());
    }

    fn note(&mut self, outcome: u32, states: &[State], at: usize) {
        let cut = states.first().map_or(NONE, |state| state.denied);
        self.record(outcome, cut, at);
    }

    fn record(&mut self, outcome: u32, cut: u32, at: usize) {
        if outcome & 1 == 0 && cut != NONE && self.answer.cut.is_none() {
            self.answer.cut = Some(Rule(cut));
        }
        self.answer.seen |= 1 << outcome;
        if let Some(example @ None) = self.answer.examples.get_mut(outcome as usize) {
            let walked = self.path.iter().map(String::as_str);
            let ahead = self.filter.iter().copied().skip(at);
            let levels: Vec<&str> = walked.chain(ahead).collect();
            *example = Some(levels.join("/"));
        }
    }

    /// The literals that the rules can tell apart here.
    fn literals(&mut self, states: &[State]) -> Vec<String> {
        let mut literals: Vec<&str> = Vec::new();
        for (view, state) in self.views.iter().zip(states) {
            for spot in &state.spots {
                let Some(trie) = view.tries.get(usize::from(spot.trie)) else {
                    continue;
                };
                for (literal, child) in trie.literals(spot.node) {
                    if !self.may(1) {
                        return Vec::new();
                    }
                    if trie.below(child, view.asked) != (false, false) {
                        literals.push(literal);
                    }
                }
                let slots = trie.slots(spot.node);
                if !self.may(slots.len()) {
                    return Vec::new();
                }
                literals.extend(
                    slots
                        .iter()
                        .filter_map(|(slot, _)| value(view.values, *slot)),
                );
            }
        }
        literals.sort_unstable();
        literals.dedup();
        literals.into_iter().map(str::to_owned).collect()
    }

    /// How many edges one level further are looked at.
    fn edges(&self, states: &[State]) -> usize {
        let mut edges = 0;
        for (view, state) in self.views.iter().zip(states) {
            for spot in &state.spots {
                let trie = view.tries.get(usize::from(spot.trie));
                // A literal, `+`, and placeholders.
                edges += 2 + trie.map_or(0, |trie| trie.slots(spot.node).len());
            }
        }
        edges
    }

    /// Goes on by one level: a literal, or a stranger that no rule names.
    fn step(&mut self, at: usize, level: &str, states: &[State], stranger: bool) {
        if !self.may(self.edges(states)) {
            return;
        }
        let first = self.path.is_empty();
        let wild = !(first && self.reserved);
        let next = self.views.iter().zip(states).map(|(view, state)| {
            let mut spots: SmallVec<[Spot; 4]> = SmallVec::new();
            for spot in &state.spots {
                let Some(trie) = view.tries.get(usize::from(spot.trie)) else {
                    continue;
                };
                let mut go = |node: u32, only_denies: bool| {
                    spots.push(Spot {
                        node,
                        only_denies: only_denies || spot.only_denies,
                        ..*spot
                    });
                };
                if !stranger && let Some(child) = trie.literal(spot.node, level) {
                    go(child, false);
                }
                if wild && let Some(child) = trie.any(spot.node) {
                    go(child, false);
                }
                for (slot, child) in trie.slots(spot.node) {
                    match value(view.values, *slot) {
                        Some(value) if !stranger && value == level => go(*child, false),
                        None if wild => go(*child, true),
                        Some(_) | None => {}
                    }
                }
            }
            State {
                spots,
                ..state.clone()
            }
        });
        let next: States = next.collect();
        self.path.push(level.to_owned());
        let next = self.absorb(next);
        self.visit(at, &next);
        self.path.pop();
    }

    /// Takes in the `#` of the spots that were just reached, and puts the states into one form.
    fn absorb(&self, mut states: States) -> States {
        if self.path.is_empty() && self.reserved {
            return states;
        }
        for (view, state) in self.views.iter().zip(&mut states) {
            for spot in &state.spots {
                if let Some(trie) = view.tries.get(usize::from(spot.trie)) {
                    let said = trie.at_rest(spot.node, view.asked);
                    state.allowed |= said.allow != NONE && !spot.only_denies;
                    state.denied = state.denied.min(said.deny);
                }
            }
            if state.denied != NONE {
                state.spots.clear();
            }
            state.spots.sort_unstable();
            state.spots.dedup();
        }
        states
    }
}

/// The value of every slot when a placeholder is to stand for itself: some value that no rule names.
pub(crate) fn symbolic(slots: &Slots) -> Vec<Option<Box<str>>> {
    slots
        .iter()
        .map(|slot| Some(slot.to_string().into()))
        .collect()
}

/// A pattern as a filter in which each placeholder stands for itself.
pub(crate) fn symbolic_filter(levels: &[Level], slots: &Slots) -> String {
    let words: Vec<String> = levels
        .iter()
        .map(|level| match level {
            Level::Literal(text) => text.to_string(),
            Level::Any => "+".into(),
            Level::Rest => "#".into(),
            Level::Slot(number) => slots
                .get(*number)
                .map_or_else(String::new, ToString::to_string),
        })
        .collect();
    words.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trie::looked;

    fn trie<'a>(lines: impl IntoIterator<Item = (&'a str, Effect)>) -> Trie {
        let mut trie = Trie::new([]);
        for (number, (line, effect)) in (0..).zip(lines) {
            let levels = topic(line, &mut Slots::default()).map_err(|c| c.message);
            trie.insert(&levels.unwrap(), Asked::Receive, effect, number);
        }
        trie
    }

    /// Lines that overlap in every way, so that a walk is at thousands of places at once, and each of
    /// them goes on by another literal.
    fn crossing() -> Vec<String> {
        let lines = (0..1 << 14).map(|choice: u32| {
            let level = |at: u32| if choice >> at & 1 == 0 { "a" } else { "+" };
            let levels: Vec<&str> = (0..14).map(level).collect();
            format!("{}/{choice}/x", levels.join("/"))
        });
        lines.collect()
    }

    /// Everything that is looked at is a step, and there are no more steps than the limit: whoever
    /// chooses filters chooses nothing about the work.
    #[test]
    fn the_work_of_a_question_is_counted_and_bounded() {
        let crossing = crossing();
        let wide: Vec<String> = (0..20_000).map(|n| format!("{}/{n}/x", n % 150)).collect();
        for lines in [crossing, wide] {
            for own in [Effect::Allow, Effect::Deny] {
                let lines = lines.iter().map(|line| (line.as_str(), own));
                let trie = trie(lines.chain([("#", Effect::Allow)]));
                let head = ["a"; 14].join("/");
                for filter in [
                    ["+"; 64].join("/"),
                    format!("{head}/+/y"),
                    format!("{head}/+"),
                    format!("{head}/#"),
                    "+/+/y".to_owned(),
                    "+/+/+/+/+/+/+/+/a/+/+/+/+/+/+/y".to_owned(),
                    "#".to_owned(),
                ] {
                    for limit in [100, 10_000, WORK] {
                        let view = View {
                            tries: &[&trie],
                            values: &[],
                            asked: Asked::Receive,
                        };
                        let mut answer = Answer::default();
                        let looks = looked::count(|| answer = ask(&filter, &[view], limit));
                        assert!(answer.work <= limit, "{filter}: {} steps", answer.work);
                        // A place is looked at in four ways; the last one may be too much.
                        let most = 4 * u64::from(answer.work) + 64;
                        assert!(
                            looks <= most,
                            "{filter}: {looks} looks, {} steps",
                            answer.work
                        );
                    }
                }
            }
        }
    }
}
