//! How roles hang together: no cycles, not too deep, nothing left over.

use crate::error::{Complaint, PolicyError, PolicyWarning};
use crate::load::Sources;
use crate::policy::{Link, Policy};
use crate::suggest::hint;

/// The most links between a principal and a role. Casbin's own limit: it looks no further.
const MAX_DEPTH: u32 = 9;

/// Finds cycles and chains that are too long.
pub(crate) fn check(policy: &Policy, links: &[Link]) -> Vec<PolicyError> {
    let mut up: Vec<Vec<&Link>> = vec![Vec::new(); policy.subjects.len()];
    for link in links {
        if let Some(links) = up.get_mut(link.member as usize) {
            links.push(link);
        }
    }
    let mut graph = Graph {
        policy,
        up: &up,
        state: vec![State::New; up.len()],
        errors: Vec::new(),
    };
    for (subject, _) in policy.subjects.iter() {
        graph.visit(subject);
    }
    if graph.errors.is_empty() {
        graph.too_deep();
    }
    graph.errors
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Open,
    /// The longest chain of links that begins here.
    Done(u32),
}

struct Graph<'a> {
    policy: &'a Policy,
    up: &'a [Vec<&'a Link>],
    state: Vec<State>,
    errors: Vec<PolicyError>,
}

impl Graph<'_> {
    fn state(&self, subject: u32) -> State {
        let state = self.state.get(subject as usize);
        state.copied().unwrap_or(State::Done(0))
    }

    fn set(&mut self, subject: u32, state: State) {
        if let Some(slot) = self.state.get_mut(subject as usize) {
            *slot = state;
        }
    }

    fn links(&self, subject: u32) -> &[&Link] {
        self.up.get(subject as usize).map_or(&[], |links| links)
    }

    /// Depth first, with a stack of our own: chains are as long as the file is.
    fn visit(&mut self, start: u32) {
        if self.state(start) != State::New {
            return;
        }
        let mut path: Vec<(u32, usize)> = vec![(start, 0)];
        self.set(start, State::Open);
        while let Some((subject, next)) = path.pop() {
            let Some(link) = self.links(subject).get(next).copied().cloned() else {
                let depth = self.depth(subject);
                self.set(subject, State::Done(depth));
                continue;
            };
            path.push((subject, next + 1));
            match self.state(link.role) {
                State::New => {
                    self.set(link.role, State::Open);
                    path.push((link.role, 0));
                }
                State::Open => self.cycle(&path, &link),
                State::Done(_) => {}
            }
        }
    }

    fn depth(&self, subject: u32) -> u32 {
        let above = self
            .links(subject)
            .iter()
            .map(|l| match self.state(l.role) {
                State::Done(depth) => depth + 1,
                State::New | State::Open => 1,
            });
        above.max().unwrap_or(0)
    }

    fn cycle(&mut self, path: &[(u32, usize)], link: &Link) {
        let round = path.iter().map(|step| step.0);
        let mut names: Vec<&str> = round
            .skip_while(|subject| *subject != link.role)
            .map(|subject| self.policy.subjects.name(subject))
            .collect();
        names.push(self.policy.subjects.name(link.role));
        let complaint = Complaint::new(
            format!("roles go round in a circle: {}", names.join(" -> ")),
            "remove one of its g lines",
        );
        let file = self.policy.file(link.file).into();
        self.errors.push(complaint.at(&file, link.line, None));
    }

    fn too_deep(&mut self) {
        let mut found = Vec::new();
        for (subject, name) in self.policy.subjects.iter() {
            let State::Done(mut depth) = self.state(subject) else {
                continue;
            };
            // Somebody holds the role: one more link.
            depth += u32::from(name.starts_with("role:"));
            if depth > MAX_DEPTH
                && let Some(link) = self.links(subject).first()
            {
                let complaint = Complaint::new(
                    format!(
                        "a chain of {depth} roles begins at `{name}`; at most {MAX_DEPTH} count"
                    ),
                    "give an outer role directly",
                );
                let file = self.policy.file(link.file).into();
                found.push(complaint.at(&file, link.line, None));
            }
        }
        self.errors.extend(found);
    }
}

/// Roles without use.
pub(crate) fn warnings(policy: &Policy, sources: &Sources, warnings: &mut Vec<PolicyWarning>) {
    let mut first_link: Vec<Option<&Link>> = vec![None; policy.subjects.len()];
    for link in &policy.links {
        if let Some(first) = first_link.get_mut(link.role as usize) {
            first.get_or_insert(link);
        }
    }
    for ((role, name), link) in policy.subjects.iter().zip(first_link) {
        if !name.starts_with("role:") {
            continue;
        }
        let rule = policy.own_rules(role).first();
        let rule = rule.and_then(|number| policy.rule(*number));
        match (rule, link) {
            (Some(rule), None) if !sources.roles_from_credentials => {
                let near = similar(policy, name);
                warnings.push(PolicyWarning {
                    file: policy.file(rule.file).into(),
                    line: rule.line,
                    message: format!("nobody is given `{name}`"),
                    remedy: format!("add `g, MEMBER, {name}`, or remove its lines{near}"),
                });
            }
            (None, Some(link)) if policy.direct_roles(role).is_empty() => {
                let near = similar(policy, name);
                warnings.push(PolicyWarning {
                    file: policy.file(link.file).into(),
                    line: link.line,
                    message: format!("`{name}` is given, but no p line is about it"),
                    remedy: format!("add p lines for it, or remove the g line{near}"),
                });
            }
            _ => {}
        }
    }
}

/// Another role whose name is nearly this one. Not looked for among very many.
fn similar(policy: &Policy, name: &str) -> String {
    let others = policy.subjects.iter().map(|(_, other)| other).take(2000);
    hint(
        name,
        others.filter(|other| other.starts_with("role:") && *other != name),
    )
}
