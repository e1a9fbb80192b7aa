//! `policy learn`: a draft of a policy from the audit record.

use portcullis_acl::Act;
use portcullis_acl::tools::{Observed, learn};
use portcullis_audit::{self as audit, Entry, Filter};

use crate::cli::{Exit, Learn};
use crate::config::Config;
use crate::console;
use crate::say;

const HEADER: &str = "\
# A draft of a policy, for review. Do not use it as it is.
#
# It is drawn from the audit record: subscriptions that were granted, subscriptions and publishes
# that were refused, and what a listener with [listener.learn] allowed. Publishes that a line
# allowed are not in the record, so they are missing here. To learn all of it, let the clients do
# their work on a listener that learns, under a policy that has no lines for them.
#
# What was refused may have been a mistake or an attack: read every line. Of equal refusals the
# record has the first ten of a minute one by one; the rest are counted there and missing here.
";

/// Prints the draft.
///
/// # Errors
///
/// The record cannot be read, or it holds nothing to learn from.
pub fn run(arguments: &Learn) -> Result<Exit, String> {
    let config = Config::load(&arguments.config.config).map_err(|error| error.to_string())?;
    let filter = Filter {
        since: arguments.since.clone(),
        until: arguments.until.clone(),
        ..Filter::default()
    };
    let path = &config.audit.path;
    if !path.exists() {
        return Err(format!(
            "{}: there is no record; a broker that runs with this configuration writes it",
            path.display()
        ));
    }
    let entries = audit::query(path, filter).map_err(|error| error.to_string())?;
    let mut failed = None;
    let observed = entries.map_while(|entry| match entry {
        Ok(entry) => Some(observed(&entry)),
        Err(error) => {
            failed = Some(error.to_string());
            None
        }
    });
    let draft = learn(observed.flatten().flatten());
    if let Some(error) = failed {
        return Err(error);
    }
    if draft.rules == 0 {
        return Err("the record has no subscription and no refusal to learn from".to_owned());
    }
    draft.check().map_err(|errors| errors.join("\n"))?;
    console::print(format_args!("{HEADER}{}", draft.text));
    if draft.left_out > 0 {
        say!("\n# {} more observations did not fit", draft.left_out);
    }
    Ok(Exit::Success)
}

/// What a record says about rights, if it does.
fn observed(entry: &Entry) -> Option<Vec<Observed>> {
    let text = |key: &str| entry.fields.get(key)?.as_str();
    let (act, topic, denied) = match text("event")? {
        "subscribe" => {
            let filters = entry.texts("filters").map(str::to_owned).collect();
            return Some(seen(text("principal")?, Act::Subscribe, filters, false));
        }
        "subscribe-denied" => (Act::Subscribe, text("filter")?, true),
        "learned" => (Act::parse(text("action")?)?, text("topic")?, false),
        "publish-denied" => (Act::parse(text("action")?)?, text("topic")?, true),
        _ => return None,
    };
    Some(seen(
        text("principal")?,
        act,
        vec![topic.to_owned()],
        denied,
    ))
}

fn seen(principal: &str, act: Act, topics: Vec<String>, denied: bool) -> Vec<Observed> {
    // A text that the record cut is not the topic.
    let whole = |topic: &String| !(topic.ends_with(" bytes]") && topic.contains("[cut "));
    topics
        .into_iter()
        .filter(whole)
        .map(|topic| Observed {
            principal: principal.to_owned(),
            act,
            topic,
            denied,
        })
        .collect()
}
