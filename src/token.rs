//! `portcullis token`: a starter issuer, for tests and a first look.
//!
//! Its key lies in a file and nothing revokes a single token: for more than that, use an issuer of
//! its own. `inspect` shows what a token says without verifying anything, and never its signature,
//! so that what it prints is no credential.

use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_auth::issue_ed25519;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::cli::{Exit, Token, TokenInspect, TokenIssue};
use crate::console;
use crate::pki::{TokenIssuer, random_jti};
use crate::say;

/// Longest token looked at, in bytes.
const MAX_TOKEN: u64 = 64 << 10;

/// Does what `portcullis token` was asked for.
///
/// # Errors
///
/// No token was made, or what is there is none; and why.
pub fn run(command: &Token) -> Result<Exit, String> {
    match command {
        Token::Issue(issue) => {
            let token = make(issue, SystemTime::now())?;
            eprintln!(
                "note: a token of the starter issuer, for tests; its public key is {}",
                issue.directory.join("issuer.pub").display()
            );
            say!("{}", &*token);
        }
        Token::Inspect(inspect) => console::print(format_args!(
            "{}",
            show(&read(inspect)?, SystemTime::now())?
        )),
    }
    Ok(Exit::Success)
}

fn make(issue: &TokenIssue, now: SystemTime) -> Result<Zeroizing<String>, String> {
    let issuer = TokenIssuer::open(&issue.directory).map_err(|error| error.to_string())?;
    let path = issuer.key_path();
    let key = std::fs::read_to_string(&path)
        .map(Zeroizing::new)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let jti = match &issue.jti {
        Some(jti) => jti.clone(),
        None => random_jti().map_err(|error| error.to_string())?,
    };
    let mut claims = Map::new();
    for (name, value) in &issue.claims {
        claims.insert(name.clone(), value.as_str().into());
    }
    if !issue.roles.is_empty() {
        claims.insert("roles".to_owned(), issue.roles.clone().into());
    }
    for (name, value) in [
        ("iss", Value::from(issue.issuer.as_str())),
        ("aud", Value::from(issue.audience.as_str())),
        ("sub", Value::from(issue.subject.as_str())),
        ("jti", Value::from(jti)),
        ("iat", Value::from(seconds)),
        (
            "exp",
            Value::from(seconds.saturating_add(issue.lifetime.as_secs())),
        ),
    ] {
        if claims.insert(name.to_owned(), value).is_some() {
            return Err(format!("--claim {name}=... is set by its own option"));
        }
    }
    issue_ed25519(&key, None, &claims)
        .map(Zeroizing::new)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn read(inspect: &TokenInspect) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    let read = match &inspect.file {
        None => std::io::stdin().take(MAX_TOKEN).read_to_string(&mut text),
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text)),
    };
    let named = || {
        let path = inspect.file.as_ref();
        path.map_or("standard input".to_owned(), |path| {
            path.display().to_string()
        })
    };
    read.map_err(|error| format!("{}: {error}", named()))?;
    Ok(text)
}

/// Header and claims, and how the dates stand at `now`.
fn show(token: &str, now: SystemTime) -> Result<String, String> {
    let mut parts = token.lines().next().unwrap_or_default().trim().split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("not a token: it does not have three parts".to_owned());
    };
    let object = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Map<String, Value>>(&bytes).ok()
    };
    let none = "not a token: a part is not a JSON object in base64url";
    let (header, claims) = (object(header).ok_or(none)?, object(claims).ok_or(none)?);
    let dates = ["nbf", "iat", "exp"].into_iter().filter_map(|claim| {
        let date = UNIX_EPOCH.checked_add(Duration::from_secs(claims.get(claim)?.as_u64()?))?;
        let stands = if date > now { "to come" } else { "past" };
        let date = time::OffsetDateTime::from(date);
        Some(format!("{claim} {date}: {stands}\n"))
    });
    let dates: String = dates.collect();
    // JSON escapes control characters, so that a token cannot write to the terminal.
    let pretty = |part: Map<String, Value>| {
        serde_json::to_string_pretty(&Value::Object(part)).unwrap_or_default()
    };
    Ok(format!(
        "{}\n{}\n{dates}nothing was verified\n",
        pretty(header),
        pretty(claims)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(directory: &std::path::Path, claims: &[(&str, &str)]) -> TokenIssue {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        TokenIssue {
            directory: directory.to_owned(),
            subject: "anna".to_owned(),
            issuer: "https://id".to_owned(),
            audience: "portcullis".to_owned(),
            jti: None,
            roles: vec!["nurse".to_owned()],
            claims: claims.iter().map(owned).collect(),
            lifetime: Duration::from_mins(1),
        }
    }

    #[test]
    fn a_token_that_was_issued_is_shown_without_its_signature() {
        let directory = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = make(&issue(directory.path(), &[("tenant", "acme")]), now).unwrap();
        let shown = show(&token, now + Duration::from_secs(30)).unwrap();
        for part in [
            "\"EdDSA\"",
            "\"tenant\": \"acme\"",
            "\"nurse\"",
            ": to come",
            ": past",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let signature = token.rsplit('.').next().unwrap();
        assert!(!shown.contains(signature));
        for claim in ["exp", "jti"] {
            let error = make(&issue(directory.path(), &[(claim, "1")]), now).unwrap_err();
            assert!(error.contains(&format!("--claim {claim}")), "{error}");
        }
    }

    #[test]
    fn each_token_is_told_from_the_others_by_its_jti() {
        let directory = tempfile::tempdir().unwrap();
        let jti = |issue: &TokenIssue| {
            let token = make(issue, UNIX_EPOCH).unwrap();
            let shown = show(&token, UNIX_EPOCH).unwrap();
            let line = shown.lines().find(|line| line.contains("\"jti\""));
            line.unwrap().split('"').nth(3).unwrap().to_owned()
        };
        let mut issue = issue(directory.path(), &[]);
        let (one, other) = (jti(&issue), jti(&issue));
        // Nobody guesses it: 128 bits.
        assert_eq!((one.len(), other.len()), (22, 22));
        assert_ne!(one, other);
        issue.jti = Some("batch-7".to_owned());
        assert_eq!(jti(&issue), "batch-7");
    }

    #[test]
    fn what_is_no_token_is_said_to_be_none() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "e30.W10.x"] {
            assert!(show(text, UNIX_EPOCH).is_err(), "{text:?}");
        }
        assert!(show("e30.e30.", UNIX_EPOCH).is_ok());
    }
}
