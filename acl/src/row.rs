//! What one line says: the columns of `p` and `g` lines, checked.

use portcullis_core::hook::Principal;

use crate::cond::{Bounds, Conditions};
use crate::csv::Field;
use crate::error::{Complaint, PolicyWarning};
use crate::load::Sources;
use crate::pattern::{self, Level, Slot, Slots};
use crate::policy::{Act, Effect, Link, Policy, PolicyRule, Subjects};
use crate::suggest::{hint, nearest};

/// What may stand before the colon of a subject.
const KINDS: [&str; 5] = ["cert", "jwt", "user", "role", "system"];

/// What the certificate module says of a certificate; other modules may say more.
const CERTIFICATE_FIELDS: [&str; 11] = [
    "ca",
    "cn",
    "ou",
    "o",
    "serial",
    "san-dns",
    "san-uri",
    "san-email",
    "subject",
    "issuer",
    "fingerprint",
];

/// A line that says something.
pub(crate) enum Row {
    Rule(RawRule),
    Link(RawLink),
}

pub(crate) struct RawRule {
    subject: Box<str>,
    topic: Box<str>,
    levels: Box<[Level]>,
    act: Act,
    effect: Effect,
    cond: Option<u32>,
}

pub(crate) struct RawLink {
    member: Box<str>,
    role: Box<str>,
}

impl RawRule {
    pub(crate) fn place(self, subjects: &mut Subjects, file: u32, line: u32) -> PolicyRule {
        PolicyRule {
            subject: subjects.number(&self.subject),
            act: self.act,
            effect: self.effect,
            topic: self.topic,
            levels: self.levels,
            cond: self.cond,
            file,
            line,
        }
    }
}

impl RawLink {
    pub(crate) fn place(self, subjects: &mut Subjects, file: u32, line: u32) -> Link {
        Link {
            member: subjects.number(&self.member),
            role: subjects.number(&self.role),
            file,
            line,
        }
    }
}

/// Reads the fields of a line.
///
/// # Errors
///
/// What is wrong, and the column to look at.
pub(crate) fn parse(
    fields: &[Field<'_>],
    slots: &mut Slots,
    conditions: &mut Conditions,
) -> Result<Row, (Complaint, u32)> {
    let kind = fields.first().map_or("", |field| &field.text);
    match (kind, fields) {
        ("p", [_, subject, topic, act, effect]) => {
            rule(subject, topic, act, effect, slots).map(Row::Rule)
        }
        ("p", [_, subject, topic, act, effect, cond]) => {
            let mut rule = rule(subject, topic, act, effect, slots)?;
            let at = |complaint| (complaint, cond.column);
            let number = conditions.number(cond.text.trim()).map_err(at)?;
            if rule.act == Act::Share && conditions.bounds(Some(number)) != Bounds::ALL {
                return Err(at(Complaint::new(
                    "a share line is about a group, and joining one is no message",
                    "bound the subscribe line",
                )));
            }
            rule.cond = Some(number);
            Ok(Row::Rule(rule))
        }
        ("p", [_, _, _, _, _, _, extra, ..]) => Err((
            Complaint::new(
                "a p line has five columns, or six with a condition",
                "remove the others; a field with a comma needs double quotes around it, and texts \
                 in a condition stand in single ones",
            ),
            extra.column,
        )),
        ("p", _) => Err((short_rule(fields), 1)),
        ("g", [_, member, role]) => link(member, role).map(Row::Link),
        ("g", _) => Err((
            Complaint::new(
                format!("a g line has three columns, this one has {}", fields.len()),
                "write `g, user:anna, role:nurse` (a field with a comma needs double quotes)",
            ),
            1,
        )),
        _ => Err((
            Complaint::new(
                format!("a line begins with p or g, not with `{kind}`"),
                "write `p, SUBJECT, TOPIC, ACTION, allow|deny` or `g, MEMBER, role:NAME`, \
                 and begin comments with #",
            ),
            1,
        )),
    }
}

fn short_rule(fields: &[Field<'_>]) -> Complaint {
    let message = format!("a p line has five columns, this one has {}", fields.len());
    let last = fields.last().map_or("", |field| &field.text);
    let remedy = if Act::parse(last).is_some() {
        "the effect is missing: end the line with allow or deny"
    } else {
        "write `p, SUBJECT, TOPIC, ACTION, allow|deny`"
    };
    Complaint::new(message, remedy)
}

fn rule(
    subject: &Field<'_>,
    topic: &Field<'_>,
    act: &Field<'_>,
    effect: &Field<'_>,
    slots: &mut Slots,
) -> Result<RawRule, (Complaint, u32)> {
    let at = |field: &Field<'_>| {
        let column = field.column;
        move |complaint| (complaint, column)
    };
    check_subject(&subject.text).map_err(at(subject))?;
    let word = action(&act.text).map_err(at(act))?;
    let levels = match word {
        Act::Share => pattern::group(&topic.text, slots).map(|level| Box::from([level])),
        Act::Publish | Act::Retain | Act::Will | Act::Subscribe => {
            pattern::topic(&topic.text, slots)
        }
    };
    Ok(RawRule {
        subject: subject.text.as_ref().into(),
        topic: topic.text.as_ref().into(),
        levels: levels.map_err(at(topic))?,
        act: word,
        effect: effect_word(&effect.text).map_err(at(effect))?,
        cond: None,
    })
}

fn link(member: &Field<'_>, role: &Field<'_>) -> Result<RawLink, (Complaint, u32)> {
    if member.text == "*" {
        let complaint = Complaint::new(
            "`*` cannot be given a role",
            "write p lines for `*` instead",
        );
        return Err((complaint, member.column));
    }
    check_subject(&member.text).map_err(|complaint| (complaint, member.column))?;
    if !role.text.starts_with("role:") {
        let complaint = Complaint::new(
            format!("`{}` is not a role", role.text),
            format!(
                "write `role:{}`",
                role.text.rsplit(':').next().unwrap_or("NAME")
            ),
        );
        return Err((complaint, role.column));
    }
    check_subject(&role.text).map_err(|complaint| (complaint, role.column))?;
    Ok(RawLink {
        member: member.text.as_ref().into(),
        role: role.text.as_ref().into(),
    })
}

fn check_subject(subject: &str) -> Result<(), Complaint> {
    if matches!(subject, "*" | "anonymous") {
        return Ok(());
    }
    let Some((kind, name)) = subject.split_once(':') else {
        let remedy = match nearest(subject, ["anonymous"]) {
            Some(word) => format!("did you mean `{word}`?"),
            None => "write its kind before it: `cert:`, `jwt:`, `user:`, `role:` or `system:`; \
                     or `anonymous`, or `*` for everybody"
                .into(),
        };
        let message = format!("the subject `{subject}` has no kind");
        return Err(Complaint::new(message, remedy));
    };
    if !KINDS.contains(&kind) {
        let near = match nearest(kind, KINDS) {
            Some(word) => format!("did you mean `{word}:{name}`?"),
            None => format!("the kinds are {}", KINDS.join(", ")),
        };
        return Err(Complaint::new(
            format!("`{kind}:` is not a kind of subject"),
            near,
        ));
    }
    if name.is_empty() {
        return Err(Complaint::new(
            format!("`{subject}` has no name"),
            "write the name after the colon",
        ));
    }
    if name.len() > Principal::MAX_NAME {
        return Err(Complaint::new(
            "the name is longer than 1024 bytes, which no client's is",
            "shorten it",
        ));
    }
    Ok(())
}

fn action(word: &str) -> Result<Act, Complaint> {
    if let Some(act) = Act::parse(word) {
        return Ok(act);
    }
    let near = match word.to_lowercase().as_str() {
        "pub" | "write" | "send" => Some("publish"),
        "sub" | "read" | "receive" | "deliver" => Some("subscribe"),
        "all" | "*" | "pubsub" | "readwrite" => {
            return Err(Complaint::new(
                format!("the action `{word}` does not exist"),
                "write one line for each action: publish, retain, will, subscribe, share",
            ));
        }
        _ => nearest(word, Act::ALL.map(Act::as_str)),
    };
    let remedy = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "the actions are publish, retain, will, subscribe and share".into(),
    };
    Err(Complaint::new(
        format!("the action `{word}` does not exist"),
        remedy,
    ))
}

fn effect_word(word: &str) -> Result<Effect, Complaint> {
    match word {
        "allow" => return Ok(Effect::Allow),
        "deny" => return Ok(Effect::Deny),
        _ => {}
    }
    if let Some((effect, _)) = word.split_once('#') {
        return Err(Complaint::new(
            format!("the effect `{word}` has a comment in it"),
            format!(
                "end the line after `{}`; comments stand alone",
                effect.trim()
            ),
        ));
    }
    let near = match word.to_lowercase().as_str() {
        "permit" | "grant" | "yes" | "true" => "; did you mean `allow`?".into(),
        "block" | "reject" | "no" | "false" | "forbid" => "; did you mean `deny`?".into(),
        _ => hint(word, ["allow", "deny"]),
    };
    Err(Complaint::new(
        format!("the effect `{word}` is neither allow nor deny"),
        format!("write allow or deny, in small letters{near}"),
    ))
}

/// What is odd about single lines.
pub(crate) fn warnings(policy: &Policy, sources: &Sources, warnings: &mut Vec<PolicyWarning>) {
    for rule in &policy.rules {
        let subject = policy.subjects.name(rule.subject);
        let mut warn = |message: String, remedy: &str| {
            warnings.push(PolicyWarning {
                file: policy.file(rule.file).into(),
                line: rule.line,
                message,
                remedy: remedy.into(),
            });
        };
        if subject.contains(['{', '}']) || (subject != "*" && subject.contains('*')) {
            warn(
                format!("the subject `{subject}` is taken literally"),
                "placeholders and wildcards stand in the topic column; use roles for groups",
            );
        }
        if pattern::is_quoted(&rule.topic) {
            warn(
                format!("{} stands in quotes that are a part of it", rule.topic),
                "leave them out, unless topics really have them; a field with a comma stands in \
                 double quotes (\")",
            );
        }
        let bounds = policy.conditions.bounds(rule.cond);
        if (rule.act, rule.effect) == (Act::Subscribe, Effect::Allow)
            && bounds.excludes_the_smallest()
        {
            warn(
                "a subscription is judged by the smallest message, which this line does not allow"
                    .into(),
                "bound qos and payload from above only: `qos <= 1`, `payload <= '64 KiB'`",
            );
        }
        let named = rule
            .cond
            .map_or_else(Vec::new, |cond| policy.conditions.listeners(cond));
        let known = || sources.listeners.iter().map(String::as_str);
        let unknown = |name: &&str| known().next().is_some() && !known().any(|own| own == *name);
        for name in named.into_iter().filter(unknown) {
            warn(
                format!(
                    "no listener is called `{name}`, so nobody comes by it{}",
                    hint(name, known())
                ),
                "write the name that it has in the configuration",
            );
        }
        let placeholders = rule.levels.iter().filter_map(|level| match level {
            Level::Slot(number) => policy.slots.get(*number),
            Level::Literal(_) | Level::Any | Level::Rest => None,
        });
        let told_apart = placeholders
            .clone()
            .any(|slot| matches!(slot, Slot::Attribute(key) if &**key == "cert.ca"));
        let asked = rule
            .cond
            .map_or_else(Vec::new, |cond| policy.conditions.slots(cond));
        for slot in placeholders.chain(asked) {
            match slot {
                Slot::ClientId if sources.client_id_is_free && rule.effect == Effect::Allow => {
                    warn(
                        "{client_id} in an allow line, but clients choose their client id".into(),
                        "set client-id = \"name\" under [auth], or use {name}",
                    );
                }
                Slot::Name
                    if rule.effect == Effect::Allow && is_shared(sources, subject, told_apart) =>
                {
                    warn(
                        "{name} in an allow line: two CAs or issuers may give the same name to \
                         different clients, and these share what the line allows"
                            .into(),
                        "give the line to a role that one of them alone gives, or add a level \
                         {cert.ca}",
                    );
                }
                Slot::Attribute(key) if unknown_field(key).is_some() => {
                    let near = unknown_field(key).map(|field| hint(field, CERTIFICATE_FIELDS));
                    warn(
                        format!("no certificate gives {{{key}}}{}", near.unwrap_or_default()),
                        "use a field of certificates (ca, cn, ou, o, serial, san-dns, san-uri, \
                         san-email, subject, issuer, fingerprint), unless a module of yours gives it",
                    );
                }
                Slot::Username if is_other_kind(subject) => warn(
                    format!("{{username}} has a value only for user: principals, not `{subject}`"),
                    "use {name}",
                ),
                Slot::Name
                | Slot::Principal
                | Slot::ClientId
                | Slot::Listener
                | Slot::Username
                | Slot::Attribute(_) => {}
            }
        }
    }
}

/// Whether clients of different CAs or issuers hold the subject by themselves: everybody, or a role
/// that tokens of more than one issuer carry.
fn is_shared(sources: &Sources, subject: &str, told_apart: bool) -> bool {
    let role = subject.strip_prefix("role:");
    let carried = |role| sources.shared_roles.iter().any(|shared| shared == role);
    let by_cas = sources.several_cas && subject == "*";
    let by_issuers = sources.several_issuers && (subject == "*" || role.is_some_and(carried));
    !told_apart && (by_cas || by_issuers)
}

/// The field that an attribute names, if it is one of a certificate that none has.
fn unknown_field(key: &str) -> Option<&str> {
    let field = key.strip_prefix("cert.")?;
    (!CERTIFICATE_FIELDS.contains(&field)).then_some(field)
}

fn is_other_kind(subject: &str) -> bool {
    matches!(subject, "anonymous")
        || ["cert:", "jwt:", "system:"]
            .iter()
            .any(|kind| subject.starts_with(kind))
}
