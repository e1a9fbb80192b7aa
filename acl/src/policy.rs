//! A policy that has been loaded: rules, roles, and where each came from. Never changed afterwards.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use aws_lc_rs::digest;
use portcullis_core::hook::{Rule, Snapshot};

use crate::cond::{Conditions, Truth};
use crate::csv::written;
use crate::pattern::{Level, Slots};

/// What a line is about. `subscribe` governs deliveries too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Send a message.
    Publish,
    /// Have it retained.
    Retain,
    /// Leave it as a will.
    Will,
    /// Subscribe, and be sent a message.
    Subscribe,
    /// Join a group of shared subscriptions.
    Share,
}

impl Act {
    /// All of them, as policies write them.
    pub const ALL: [Self; 5] = [
        Self::Publish,
        Self::Retain,
        Self::Will,
        Self::Subscribe,
        Self::Share,
    ];

    /// The word of the policy file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Retain => "retain",
            Self::Will => "will",
            Self::Subscribe => "subscribe",
            Self::Share => "share",
        }
    }

    /// Reads the word, which is exact.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == word)
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a line does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Allows, unless something denies.
    Allow,
    /// Denies, whatever allows.
    Deny,
}

impl Effect {
    /// The word of the policy file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A `p` line.
#[derive(Clone, Debug)]
pub(crate) struct PolicyRule {
    pub(crate) subject: u32,
    pub(crate) act: Act,
    pub(crate) effect: Effect,
    /// As written.
    pub(crate) topic: Box<str>,
    pub(crate) levels: Box<[Level]>,
    /// The number of its condition.
    pub(crate) cond: Option<u32>,
    pub(crate) file: u32,
    pub(crate) line: u32,
}

/// A `g` line.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) member: u32,
    pub(crate) role: u32,
    pub(crate) file: u32,
    pub(crate) line: u32,
}

/// A loaded policy: rules and roles with the places they came from. Immutable; a reload makes
/// another one.
#[derive(Debug, Default)]
pub struct Policy {
    pub(crate) files: Vec<Arc<str>>,
    pub(crate) rules: Vec<PolicyRule>,
    pub(crate) links: Vec<Link>,
    pub(crate) slots: Slots,
    pub(crate) conditions: Conditions,
    pub(crate) subjects: Subjects,
    /// Rule numbers by subject.
    pub(crate) rules_of: Vec<Vec<u32>>,
    /// Those of them that have a condition.
    pub(crate) conditional_of: Vec<Vec<u32>>,
    /// Roles that a subject is given directly.
    pub(crate) roles_of: Vec<Vec<u32>>,
    pub(crate) hash: Box<str>,
}

/// The names of principals and roles, by number.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
}

impl Subjects {
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", |name| name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(self.names.iter().map(|name| &**name))
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

/// Numbers about a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// `p` lines, each counted once.
    pub rules: usize,
    /// `g` lines, each counted once.
    pub links: usize,
    /// Principals and roles that are named.
    pub subjects: usize,
    /// Files.
    pub files: usize,
}

/// Whose rules count for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applicable {
    /// The client's own, if it is named by `p` lines.
    pub(crate) own: Option<u32>,
    /// Roles and `*`, as far as they have `p` lines; sorted.
    pub(crate) shared: Vec<u32>,
}

impl Policy {
    /// SHA-256 over what the policy means, in lower-case hexadecimal digits: the set of rules and
    /// links, whatever their order, spacing and files.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How large it is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            rules: self.rules.len(),
            links: self.links.len(),
            subjects: self.subjects.len(),
            files: self.files.len(),
        }
    }

    /// A rule in words: `policy.csv:12 "p, role:x, a/#, publish, deny"`. Empty for a number that is
    /// no rule of this policy.
    #[must_use]
    pub fn describe(&self, rule: Rule) -> String {
        self.rule(rule.0).map_or_else(String::new, |rule| {
            format!(
                "{} \"{}\"",
                self.place(rule.file, rule.line),
                self.text(rule)
            )
        })
    }

    pub(crate) fn rule(&self, number: u32) -> Option<&PolicyRule> {
        self.rules.get(number as usize)
    }

    /// Its lines, in one spelling: read again they are the same policy.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        let rules = self.rules.iter().map(|rule| self.text(rule));
        let given = self.links.iter().map(|link| {
            let member = written(self.subjects.name(link.member));
            format!("g, {member}, {}", written(self.subjects.name(link.role)))
        });
        rules.chain(given)
    }

    pub(crate) fn text(&self, rule: &PolicyRule) -> String {
        let subject = written(self.subjects.name(rule.subject));
        let topic = written(&rule.topic);
        let (act, effect) = (rule.act, rule.effect.as_str());
        let mut text = format!("p, {subject}, {topic}, {act}, {effect}");
        if let Some(cond) = rule.cond {
            // Writing to a string cannot fail.
            let _ = write!(text, ", {}", written(self.conditions.text(cond)));
        }
        text
    }

    pub(crate) fn file(&self, number: u32) -> &str {
        self.files.get(number as usize).map_or("", |name| name)
    }

    pub(crate) fn place(&self, file: u32, line: u32) -> String {
        format!("{}:{line}", self.file(file))
    }

    pub(crate) fn own_rules(&self, subject: u32) -> &[u32] {
        self.rules_of.get(subject as usize).map_or(&[], |r| r)
    }

    /// The rules of a subject that have a condition.
    pub(crate) fn conditional_rules(&self, subject: u32) -> &[u32] {
        self.conditional_of.get(subject as usize).map_or(&[], |r| r)
    }

    /// Whether a rule counts while the conditions say this.
    pub(crate) fn in_force(rule: &PolicyRule, truths: &[Truth]) -> bool {
        rule.cond.is_none_or(|cond| {
            let truth = truths.get(cond as usize).copied();
            truth.unwrap_or(Truth::Unknown).applies(rule.effect)
        })
    }

    pub(crate) fn direct_roles(&self, subject: u32) -> &[u32] {
        self.roles_of.get(subject as usize).map_or(&[], |r| r)
    }

    /// Whose rules count for `who`: its principal's own, those of `*`, and those of every role that
    /// its credential or a `g` line gives it, directly or through other roles.
    pub(crate) fn applicable(&self, who: &Snapshot) -> Applicable {
        // A module of the embedder's may vouch for anything; nobody is a role.
        let principal = who.principal();
        let principal = match principal.kind() {
            "role" => None,
            _ => self.subjects.find(principal.as_str()),
        };
        let mut reached: Vec<u32> = Vec::new();
        let mut open: Vec<u32> = principal.into_iter().collect();
        for role in &*who.identity.roles {
            open.extend(self.subjects.find(&format!("role:{role}")));
        }
        open.extend(self.subjects.find("*"));
        while let Some(subject) = open.pop() {
            if !reached.contains(&subject) {
                reached.push(subject);
                open.extend(self.direct_roles(subject));
            }
        }
        reached.retain(|subject| !self.own_rules(*subject).is_empty());
        reached.sort_unstable();
        let own = principal.filter(|own| reached.contains(own));
        reached.retain(|subject| Some(*subject) != own);
        Applicable {
            own,
            shared: reached,
        }
    }

    /// Fills in what follows from rules and links.
    pub(crate) fn seal(&mut self) {
        self.rules_of = vec![Vec::new(); self.subjects.len()];
        self.conditional_of = vec![Vec::new(); self.subjects.len()];
        self.roles_of = vec![Vec::new(); self.subjects.len()];
        for (number, rule) in (0..).zip(&self.rules) {
            if let Some(rules) = self.rules_of.get_mut(rule.subject as usize) {
                rules.push(number);
            }
            if rule.cond.is_some()
                && let Some(rules) = self.conditional_of.get_mut(rule.subject as usize)
            {
                rules.push(number);
            }
        }
        for link in &self.links {
            if let Some(roles) = self.roles_of.get_mut(link.member as usize) {
                roles.push(link.role);
            }
        }
        self.hash = self.digest();
    }

    fn digest(&self) -> Box<str> {
        let mut texts: Vec<String> = self.texts().collect();
        texts.sort_unstable();
        let mut context = digest::Context::new(&digest::SHA256);
        for text in &texts {
            context.update(text.as_bytes());
            context.update(b"\n");
        }
        let mut hex = String::with_capacity(64);
        for byte in context.finish().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex.into()
    }
}
