//! `[listener.learn]`: until a time, what no line of the policy speaks of is allowed on this
//! listener, within topics that are named, and recorded (`acl::learning`).

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::problem::Position;
use super::super::section::Section;
use super::{ClientAuth, Security};

/// `[listener.learn]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learn {
    /// When it ends.
    pub until: SystemTime,
    /// The filters within which it learns.
    pub topics: Vec<String>,
    /// Where the end stands in the file.
    pub at: Position,
}

/// Reads the section; `None` where it is not there or wrong, which is recorded.
pub(super) fn read_learn(section: &mut Section<'_>) -> Option<Learn> {
    const EXAMPLE: &str = "2026-12-01T18:00:00Z";
    let mut learn = section.table("learn", "[listener.learn]");
    let read = learn.is_present().then(|| {
        let until = learn.required("until", EXAMPLE);
        let topics = learn.list("topics", "line-3/#");
        if topics.as_ref().is_none_or(Vec::is_empty) {
            learn.missing("topics", "[\"line-3/#\"]");
        }
        let (until, topics) = (until?, topics?);
        let Ok(end) = OffsetDateTime::parse(until.value, &Rfc3339) else {
            learn.source().error(
                until.at,
                format_args!("until in [listener.learn] is {:?}", until.value),
                format_args!("write an instant with its zone, such as {EXAMPLE:?}"),
            );
            return None;
        };
        Some(Learn {
            until: end.into(),
            topics: topics.iter().map(|topic| topic.value.to_owned()).collect(),
            at: until.at,
        })
    });
    learn.finish();
    read.flatten()
}

/// From off this machine only known devices may teach: whoever can reach the listener gets what the
/// policy is silent about. `local`: its clients are on this machine; those of a proxy are not.
pub(super) fn check_learn(
    section: &Section<'_>,
    learn: Option<&Learn>,
    local: bool,
    security: &Security,
) {
    let Some(learn) = learn else { return };
    let known = match security {
        Security::Plaintext => false,
        Security::Tls(tls) => matches!(tls.client_auth, ClientAuth::Required(_)),
    };
    if !local && !known {
        section.source().error(
            learn.at,
            "a listener for clients off this machine learns from clients without certificates",
            "set client-auth = \"required\" in [listener.tls], bind to 127.0.0.1, or remove \
             [listener.learn]",
        );
    }
}
