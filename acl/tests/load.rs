//! Every mistake in a policy is found when it is loaded, with file, line and remedy.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fmt::Write as _;

use portcullis_acl::{Policy, PolicyWarning, Source, Sources};

fn sources(policy: &str) -> Sources {
    Sources {
        policies: vec![Source::new("policy.csv", policy)],
        ..Sources::default()
    }
}

fn errors(policy: &str) -> Vec<String> {
    match Policy::load(&sources(policy)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn warnings(sources: &Sources) -> Vec<String> {
    let loaded = Policy::load(sources).unwrap();
    loaded
        .warnings
        .iter()
        .map(PolicyWarning::to_string)
        .collect()
}

const GOOD: &str = "p, role:x, a/#, publish, allow\ng, cert:a, role:x\n";

#[test]
#[expect(clippy::too_many_lines, reason = "one row for each mistake")]
fn a_mistake_is_named_with_file_line_and_remedy() {
    for (line, says) in [
        // The effect and the action are exact words.
        (
            "p, role:x, a, publish, Deny",
            "policy.csv:3: the effect `Deny` is neither allow nor deny; write allow or deny, in small letters; did you mean `deny`?",
        ),
        ("p, role:x, a, publish, alow", "did you mean `allow`?"),
        ("p, role:x, a, publish, block", "did you mean `deny`?"),
        (
            "p, role:x, a, publish, allow # why",
            "has a comment in it; end the line after `allow`",
        ),
        ("p, role:x, a, publish,", "the effect `` is neither"),
        (
            "p, role:x, a, pubilsh, allow",
            "policy.csv:3: the action `pubilsh` does not exist; did you mean `publish`?",
        ),
        ("p, role:x, a, Publish, allow", "did you mean `publish`?"),
        ("p, role:x, a, read, allow", "did you mean `subscribe`?"),
        ("p, role:x, a, all, allow", "one line for each action"),
        ("p, role:x, a, frobnicate, allow", "the actions are"),
        // Columns.
        (
            "p, role:x, a, publish",
            "this one has 4; the effect is missing",
        ),
        ("p, role:x, a", "this one has 3; write `p, SUBJECT"),
        ("p", "this one has 1"),
        (
            "p, role:x, a, publish, allow, true",
            "is not a word of conditions",
        ),
        (
            "p, role:x, a, publish, allow, max-qos == 1",
            "write `qos <= 1`",
        ),
        (
            "p, cert:CN=a,O=b, a, publish, allow",
            "the action `a` does not exist",
        ),
        ("p, \"cert:CN=a, a, publish, allow", "a quote is not closed"),
        ("g, cert:a", "a g line has three columns, this one has 2"),
        ("g, cert:a, role:x, domain", "this one has 4"),
        (
            "P, role:x, a, publish, allow",
            "a line begins with p or g, not with `P`",
        ),
        ("p2, role:x, a, publish, allow", "not with `p2`"),
        ("g2, cert:a, role:x", "not with `g2`"),
        ("; a comment", "begin comments with #"),
        // Casbin would run these, for ever or into a panic; here they are no conditions.
        (
            "p, role:x, a, publish, allow, 1/0 == 1",
            "`/` does not belong in a condition",
        ),
        (
            "p, role:x, a, publish, allow, eval(p.rule)",
            "`eval` is not a word of conditions",
        ),
        (
            "p, role:x, a, publish, allow, r.sub == 'x'",
            "`r.sub` is not a word of conditions",
        ),
        (
            "p, role:x, a, publish, allow, loop{}",
            "`{` does not belong in a condition",
        ),
        // Subjects have a kind.
        ("p, x, a, publish, allow", "the subject `x` has no kind"),
        ("p, , a, publish, allow", "the subject `` has no kind"),
        (
            "p, anonymus, a, publish, allow",
            "did you mean `anonymous`?",
        ),
        ("p, roel:x, a, publish, allow", "did you mean `role:x`?"),
        ("p, client:x, a, publish, allow", "the kinds are cert, jwt"),
        ("p, cert:, a, publish, allow", "`cert:` has no name"),
        ("g, cert:a, x", "`x` is not a role; write `role:x`"),
        (
            "g, cert:a, user:x",
            "`user:x` is not a role; write `role:x`",
        ),
        ("g, cert:a, role:", "`role:` has no name"),
        ("g, a, role:x", "the subject `a` has no kind"),
        ("g, *, role:x", "`*` cannot be given a role"),
        // Topics.
        (
            "p, role:x, a+, publish, allow",
            "`+` stands for one whole level",
        ),
        ("p, role:x, #/a, publish, allow", "at the end"),
        ("p, role:x, , publish, allow", "the topic column is empty"),
        (
            "p, role:x, a/{nmae}, publish, allow",
            "`{nmae}` is not a placeholder; did you mean {name}?",
        ),
        ("p, role:x, a/{name, publish, deny", "stray brace"),
        (
            "p, role:x, a/x-{name}, publish, deny",
            "is not a whole level",
        ),
        (
            "p, role:x, $share/g/a, subscribe, allow",
            "does not take `$share/`",
        ),
        (
            "p, role:x, a/b, share, allow",
            "is a group name, not a filter",
        ),
        (
            "p, role:x, $share/g/a, share, allow",
            "is a group name, not a filter",
        ),
        // Roles.
        (
            "g, role:x, role:x",
            "roles go round in a circle: role:x -> role:x; remove one",
        ),
        (
            "g, role:x, role:y\ng, role:y, role:x",
            "policy.csv:4: roles go round in a circle: role:x -> role:y -> role:x",
        ),
    ] {
        let said = errors(&format!("{GOOD}{line}\n"));
        assert!(said.iter().any(|e| e.contains(says)), "{line}: {said:#?}");
        for error in said {
            assert!(error.starts_with("policy.csv:"), "a place: {error}");
            let remedy = error.split_once("; ").map_or("", |(_, remedy)| remedy);
            assert!(!remedy.is_empty(), "a remedy: {error}");
        }
    }
}

#[test]
fn all_mistakes_are_reported_in_order_and_with_their_column() {
    let policy = "p, x, a, publish, allow\n\n# fine\np, role:x, a, publish, alow\ng, cert:a\n";
    let errors = Policy::load(&sources(policy)).unwrap_err();
    let places: Vec<_> = errors.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(places, [(1, Some(4)), (4, Some(24)), (5, Some(1))]);
}

#[test]
fn a_policy_without_p_lines_is_a_broken_file() {
    for policy in ["", "# nothing\n", "g, cert:a, role:x\n"] {
        assert_eq!(errors(policy).len(), 1, "{policy:?}");
        assert!(errors(policy)[0].contains("no p line"), "{policy:?}");
    }
    let none = Policy::load(&Sources::default()).unwrap_err();
    assert!(none[0].to_string().contains("no p line"));
}

#[test]
fn a_chain_of_nine_roles_counts_and_one_of_ten_is_an_error() {
    let chain = |length: u32| {
        let mut policy = format!("p, role:{length}, a, publish, allow\ng, cert:a, role:1\n");
        for role in 1..length {
            let _ = writeln!(policy, "g, role:{role}, role:{}", role + 1);
        }
        policy
    };
    assert_eq!(errors(&chain(9)), Vec::<String>::new());
    let said = errors(&chain(10));
    assert!(
        said[0].contains("a chain of 10 roles begins at `cert:a`"),
        "{said:?}"
    );
    let cycle = chain(9) + "g, role:9, role:1\n";
    assert!(errors(&cycle)[0].contains("in a circle"), "{cycle}");
}

#[test]
fn very_long_chains_and_cycles_do_not_break_the_loader() {
    let mut policy = String::from("p, role:0, a, publish, allow\n");
    for role in 0..50_000 {
        let _ = writeln!(policy, "g, role:{role}, role:{}", role + 1);
    }
    assert!(errors(&policy)[0].contains("at most 9"));
    policy.push_str("g, role:50000, role:0\n");
    assert!(errors(&policy)[0].contains("in a circle"));
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let loose = |policy: &str| Sources {
        client_id_is_free: true,
        ..sources(policy)
    };
    for (line, says) in [
        (
            "p, role:x, a/#, publish, allow",
            "policy.csv:3: the line is there twice; remove it; the first one is policy.csv:1",
        ),
        ("p,role:x,  a/#,publish,allow", "the line is there twice"),
        (
            "p, role:x, {client_id}, publish, allow",
            "clients choose their client id",
        ),
        (
            "p, cert:a, {username}, publish, allow",
            "only for user: principals",
        ),
        (
            "p, cert:a, {cert.san-dn}, publish, allow",
            "no certificate gives {cert.san-dn}; did you mean `san-dns`?",
        ),
        ("p, cert:*, a, publish, allow", "is taken literally"),
        (
            "p, role:xx, a, publish, allow",
            "nobody is given `role:xx`; add `g, MEMBER, role:xx`, or remove its lines; did you mean `role:x`?",
        ),
        (
            "g, cert:b, role:y",
            "`role:y` is given, but no p line is about it",
        ),
    ] {
        let said = warnings(&loose(&format!("{GOOD}{line}\n")));
        assert!(said.iter().any(|w| w.contains(says)), "{line}: {said:#?}");
    }
    let deny = format!("{GOOD}p, role:x, {{client_id}}, publish, deny\n");
    assert_eq!(warnings(&loose(&deny)), Vec::<String>::new());
    let bound = format!("{GOOD}p, role:x, {{client_id}}, publish, allow\n");
    assert_eq!(warnings(&sources(&bound)), Vec::<String>::new());
    let tokens = Sources {
        roles_from_credentials: true,
        ..sources("p, role:x, a, publish, allow")
    };
    assert_eq!(warnings(&tokens), Vec::<String>::new());
}

#[test]
fn the_hash_is_that_of_the_meaning() {
    let hash = |policy: &str| {
        let loaded = Policy::load(&sources(policy)).unwrap();
        loaded.policy.hash().to_owned()
    };
    let base = hash(GOOD);
    assert_eq!(base.len(), 64);
    let reordered =
        "# other\ng,cert:a,role:x\r\np,role:x,a/#,publish,allow\r\np,role:x,a/#,publish,allow";
    assert_eq!(hash(reordered), base);
    for other in [
        GOOD.replace("allow", "deny"),
        GOOD.replace("a/#", "b/#"),
        GOOD.replace("cert:a", "cert:b"),
        GOOD.replace("publish", "will"),
    ] {
        assert_ne!(hash(&other), base, "{other}");
    }
}

#[test]
fn a_policy_may_be_split_over_files_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(sub.join("b.csv"), "g, cert:a, role:x\n").unwrap();
    std::fs::write(sub.join("a.csv"), "p, role:x, a/#, publish, allow\n").unwrap();
    std::fs::write(sub.join("README"), "not a policy").unwrap();
    let one = dir.path().join("one.csv");
    std::fs::write(&one, "p, cert:a, b, publish, deny\n").unwrap();

    let sources = Sources::read(None, &[one.clone(), sub.clone()]).unwrap();
    let counts = Policy::load(&sources).unwrap().policy.counts();
    assert_eq!((counts.rules, counts.links, counts.files), (2, 1, 3));

    std::fs::write(
        sub.join("b.csv"),
        b"g, cert:a, role:x\ng, cert:\xff, role:x\n",
    )
    .unwrap();
    let missing = dir.path().join("missing.csv");
    let errors = Sources::read(Some(&missing), &[one, sub, missing.clone()]).unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("missing.csv: cannot read it"), "{said:?}");
    assert!(
        said[1].contains("b.csv:2: the line is not UTF-8"),
        "{said:?}"
    );
}

/// What editors, other systems and mistakes leave in a directory neither becomes policy nor keeps the
/// policy out; what somebody may believe to be policy is pointed out.
#[test]
fn a_directory_is_its_csv_files_and_what_could_be_taken_for_one_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path.join(name)).unwrap();
    write("a.csv", GOOD);
    let wide = "p, *, #, publish, allow\n";
    for name in [
        "a.csv~",
        "a.csv.bak",
        ".a.csv.swp",
        "#a.csv#",
        ".a.csv",
        "._a.csv",
        "a.csv.orig",
    ] {
        write(name, wide);
    }
    // The lock of an editor that has the file open points nowhere.
    link("somebody@host.1234", ".#a.csv");
    let read =
        || Sources::read(None, &[path.to_owned()]).map(|sources| Policy::load(&sources).unwrap());
    let loaded = read().unwrap();
    let counts = loaded.policy.counts();
    assert_eq!((counts.rules, counts.files), (1, 1));
    assert_eq!(loaded.warnings, []);
    // Not read, but somebody may believe so. A directory that contains itself is no trap either.
    std::fs::create_dir(path.join("more")).unwrap();
    write("more/deny.csv", "p, *, a/x, publish, deny\n");
    link(".", "loop");
    write("DENY.CSV", "p, *, a/x, publish, deny\n");
    let _socket = std::os::unix::net::UnixListener::bind(path.join("s.csv")).unwrap();
    let loaded = read().unwrap();
    assert_eq!(loaded.policy.counts().rules, 1);
    let mut said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    said.sort();
    for (said, (name, why)) in said.iter().zip([
        ("DENY.CSV", "in small letters"),
        ("loop", "directories within the directory are not read"),
        ("more", "directories within the directory are not read"),
        ("s.csv", "it is no file"),
    ]) {
        assert!(said.contains(name) && said.contains(why), "{said}");
    }
    assert_eq!(said.len(), 4, "{said:?}");
    // What ends in .csv must be readable.
    link("missing", "dangling.csv");
    link("round.csv", "round.csv");
    std::fs::create_dir(path.join("directory.csv")).unwrap();
    let errors = read().unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(
        errors
            .iter()
            .all(|error| error.message.contains("cannot read it")),
        "{errors:?}"
    );
}

/// A line that shows something else than it says.
#[test]
fn characters_that_cannot_be_seen_are_warned_of() {
    for (line, hidden) in [
        ("p, role:x, a/\u{200b}b, publish, allow", true),
        ("p, cert:a\u{ad}, a, publish, deny", true),
        ("# \u{202e}wolla ,hsilbup ,# ,* ,p", true),
        ("p, role:x, a/\u{a0}, publish, allow", true),
        ("p, cert:\u{e4}\u{416}\u{4e2d}, a, publish, deny", false),
    ] {
        let said = warnings(&sources(&format!("{GOOD}{line}\n")));
        let found = said
            .iter()
            .any(|w| w.starts_with("policy.csv:3: ") && w.contains("cannot be seen"));
        assert_eq!(found, hidden, "{line:?}: {said:?}");
    }
}

/// Whatever a file does with quotes, ends of lines and odd bytes, no line is read as another.
#[test]
fn a_line_cannot_be_smuggled_into_another() {
    let count = |text: &str| match Policy::load(&sources(&format!("{GOOD}{text}"))) {
        Ok(loaded) => Ok(loaded.policy.counts().rules - 1),
        Err(errors) => Err(errors[0].to_string()),
    };
    for (text, rules) in [
        ("p, cert:b, b, publish, deny\r\n\r\n", 1),
        ("  p ,\tcert:b , b ,publish,deny  \n", 1),
        ("p,\"cert:b\",\"b\",\"publish\",\"deny\"", 1),
        ("#p, cert:b, b, publish, deny", 0),
        ("\"#p\", cert:b", 9),
    ] {
        let got = count(text);
        assert_eq!(got.clone().unwrap_or(9), rules, "{text:?}: {got:?}");
    }
    for (text, says) in [
        (
            "p, cert:b, b, publish, deny\rp, *, #, publish, allow",
            "control character",
        ),
        ("p, cert:b, b\u{0}, publish, deny", "control character"),
        (
            "p, cert:b, \"b\np, *, #, publish, allow\"",
            "a quote is not closed",
        ),
        (
            "p, cert:b, \"b\"\"c\", publish, deny",
            "text after a closing quote",
        ),
        (
            "p, cert:b, b, publish, deny\u{85}p, *, #, publish, allow",
            "control character",
        ),
        (
            "\u{feff}p, cert:b, b, publish, deny",
            "a line begins with p or g",
        ),
        (
            "p, cert:b, b, publish, deny\u{2028}p, *, #, publish, allow",
            "five columns, or six",
        ),
        ("p; cert:b; b; publish; deny", "a line begins with p or g"),
        ("p, cert:b, b, publish, deny, ", "the condition is empty"),
    ] {
        let said = count(text).unwrap_err();
        assert!(said.contains(says), "{text:?}: {said}");
    }
}

#[test]
fn a_mistake_on_every_line_is_told_a_hundred_times() {
    let said = errors(&"p; role:x; a; publish; allow\n".repeat(1000));
    assert_eq!(said.len(), 101);
    assert_eq!(
        said[100],
        "policy.csv:101: this and 899 further mistakes are not told; begin with the first ones"
    );
    assert_eq!(errors(&"p; role:x\n".repeat(100)).len(), 100);
}

/// Rule 9: a device without an end, or what is no policy, takes no memory.
#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.csv");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(portcullis_acl::MAX_FILE + 1).unwrap();
    for path in [path, "/dev/zero".into()] {
        let errors = Sources::read(None, std::slice::from_ref(&path)).unwrap_err();
        let said = errors[0].to_string();
        assert!(said.contains("the file has more than 128 MiB"), "{said}");
    }
}

#[test]
fn quotes_that_csv_does_not_know_are_warned_of_and_are_a_part_of_the_topic() {
    let sources = sources(
        "p, *, 'plant/a', publish, deny\n\
         p, *, \u{201c}plant\u{201d}, publish, deny\n\
         p, *, plant's/a', publish, allow\n\
         p, *, \"plant\", publish, allow\n\
         p, *, 'workers', share, allow\n",
    );
    let said = warnings(&sources);
    let lines: Vec<_> = said.iter().map(|said| said.split(": ").next()).collect();
    let expected = [1, 2, 5].map(|line| format!("policy.csv:{line}"));
    assert_eq!(
        lines,
        expected.each_ref().map(|line| Some(&**line)),
        "{said:?}"
    );
    assert!(
        said[0].contains("'plant/a' stands in quotes that are a part of it"),
        "{said:?}"
    );
}

/// A deny line that asks for a listener that is called otherwise would never count.
#[test]
fn a_listener_that_there_is_none_of_is_warned_of() {
    let mut sources = sources(
        "p, *, a, publish, deny, \"!(name == 'a') && listener in ['plant', 'internett']\"\n\
         p, *, a, publish, allow, listener == 'internet'\n",
    );
    assert_eq!(warnings(&sources), Vec::<String>::new(), "none is known");
    sources.listeners = vec!["internet".into(), "plant".into()];
    assert_eq!(
        warnings(&sources),
        [
            "policy.csv:1: no listener is called `internett`, so nobody comes by it; did you mean \
             `internet`?; write the name that it has in the configuration"
        ]
    );
}

#[test]
fn a_byte_order_mark_is_named() {
    assert!(errors("\u{feff}p, role:x, a, publish, allow")[0].contains("byte order mark"));
}

#[test]
fn another_model_is_refused() {
    let mut sources = sources(GOOD);
    let allow_override = portcullis_acl::MODEL.replace(" && !some(where (p.eft == deny))", "");
    sources.model = Some(Source::new("model.conf", allow_override));
    let errors = Policy::load(&sources).unwrap_err();
    assert!(
        errors[0].to_string().starts_with("model.conf:14: "),
        "{errors:?}"
    );
}

/// `{name}` is the NAME alone, whoever vouches for it.
#[test]
fn a_name_that_two_cas_or_issuers_may_give_is_warned_of() {
    let warned = |text: &str, several_issuers: bool, several_cas: bool| {
        let sources = Sources {
            policies: vec![Source::new("policy.csv", text)],
            roles_from_credentials: true,
            several_issuers,
            several_cas,
            shared_roles: vec!["nurse".into()],
            ..Sources::default()
        };
        let warnings = Policy::load(&sources).unwrap().warnings;
        warnings
            .iter()
            .any(|warning| warning.message.contains("share what the line allows"))
    };
    for (text, by_issuers, by_cas) in [
        ("p, *, t/{name}, publish, allow", true, true),
        ("p, *, t/{cert.ca}/{name}, publish, allow", false, false),
        ("p, role:nurse, t/{name}, publish, allow", true, false),
        ("p, role:other, t/{name}, publish, allow", false, false),
        ("p, jwt:id/a, t/{name}, publish, allow", false, false),
        ("p, cert:plant/a, t/{name}, publish, allow", false, false),
        ("p, *, t/{name}, publish, deny", false, false),
        ("p, *, t/{claim.sub}, publish, allow", false, false),
    ] {
        assert_eq!(warned(text, true, false), by_issuers, "{text}");
        assert_eq!(warned(text, false, true), by_cas, "{text}");
        assert!(!warned(text, false, false), "{text}");
    }
}
