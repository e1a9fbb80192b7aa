//! The password file: editing, verifying, reloading.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{ask, desk, judge, principal, with_password};
use portcullis_auth::{Desk, Settings, password};
use portcullis_core::hook::{Attempt, Authenticator, RefusalKind, Standing, Use};
use portcullis_core::secret::Secret;
use proptest::prelude::*;
use tokio::task::JoinSet;

struct Setting {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            path: directory.path().join("users.passwd"),
            _directory: directory,
        }
    }

    fn set(&self, user: &str, password: &str) {
        password::set(&self.path, user, Secret::new(password.as_bytes())).unwrap();
    }

    fn desk(&self) -> Desk {
        desk(self.settings())
    }

    fn settings(&self) -> Settings {
        Settings {
            password_file: Some(self.path.clone()),
            ..Settings::default()
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }
}

#[test]
fn a_password_that_was_set_is_right_and_every_other_one_is_wrong() {
    let setting = Setting::new();
    setting.set("anna", "secret");
    let desk = setting.desk();
    let judge = |user, password| principal(&desk, &with_password(user, password));
    assert_eq!(judge(Some("anna"), "secret").unwrap(), "user:anna");
    for (user, password, word) in [
        (Some("anna"), "Secret", "wrong"),
        (Some("anna"), "", "wrong"),
        (Some("anna"), "secret\0", "wrong"),
        (Some("Anna"), "secret", "no such user"),
        (Some("anna "), "secret", "no such user"),
        (Some(""), "secret", "no user name"),
        (Some("a\u{7}"), "secret", "no such user"),
        (None, "secret", "no user name"),
    ] {
        let refusal = ask(&desk, &with_password(user, password)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BadCredential);
        assert!(refusal.reason.contains(word), "{}", refusal.reason);
        assert!(!refusal.reason.to_lowercase().contains("secret"));
    }
    let refusal = ask(&desk, &with_password(Some("anna"), "x")).unwrap_err();
    assert_eq!(refusal.claimed.unwrap().as_str(), "user:anna");
}

#[test]
fn an_unknown_user_costs_as_many_hashes_as_a_wrong_password() {
    let setting = Setting::new();
    setting.set("anna", "secret");
    let desk = setting.desk();
    let cost = |user, password| {
        let before = desk.password_hashes();
        let _ = ask(&desk, &with_password(Some(user), password));
        desk.password_hashes() - before
    };
    assert_eq!(cost("anna", "wrong"), 1);
    assert_eq!(cost("nobody", "wrong"), 1);
    assert_eq!(cost("nobody", "wrong"), 1);
    assert_eq!(cost("anna", "wrong"), 1);
}

#[test]
fn a_right_password_is_remembered_until_its_line_changes() {
    let setting = Setting::new();
    setting.set("anna", "one");
    setting.set("otto", "two");
    let desk = setting.desk();
    let judge = |user, password| ask(&desk, &with_password(Some(user), password)).is_ok();
    assert!(judge("anna", "one") && judge("otto", "two"));
    let hashes = desk.password_hashes();
    assert!(judge("anna", "one") && judge("otto", "two"));
    assert_eq!(desk.password_hashes(), hashes);
    assert!(!judge("anna", "two"));
    assert_eq!(desk.password_hashes(), hashes + 1);

    setting.set("anna", "three");
    desk.reload_passwords().unwrap();
    assert!(judge("otto", "two"));
    assert_eq!(desk.password_hashes(), hashes + 1);
    assert!(!judge("anna", "one"));
    assert!(judge("anna", "three"));
    assert_eq!(desk.password_hashes(), hashes + 3);
}

#[test]
fn many_who_share_a_password_come_back_for_the_price_of_a_few_hashes() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let desk = setting.desk();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| ask(&desk, &with_password(Some("anna"), "one")).unwrap());
        }
    });
    // As many as there are slots: they began before the first was proved.
    assert!(desk.password_hashes() <= 4, "{}", desk.password_hashes());
}

#[test]
fn guesses_that_are_made_at_once_are_counted_all_the_same() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let desk = Arc::new(setting.desk());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let comes = |password: &'static str| {
        let desk = Arc::clone(&desk);
        async move {
            let attempt = Attempt {
                peer: Some(([192, 0, 2, 1], 1).into()),
                ..with_password(Some("anna"), password)
            };
            judge(&desk, &attempt).await
        }
    };
    let reasons = runtime.block_on(async {
        // The last one knows it, and it is not looked at any more.
        let mut guesses: JoinSet<_> = (0..40).map(|_| comes("guess")).collect();
        guesses.spawn(comes("one"));
        guesses.join_all().await
    });
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|it| it.unwrap_err().reason)
        .collect();
    let wrong = reasons
        .iter()
        .filter(|why| why.contains("is wrong"))
        .count();
    let refused = reasons
        .iter()
        .filter(|why| why.contains("too many"))
        .count();
    assert_eq!(wrong + refused, 41, "{reasons:?}");
    assert_eq!(wrong, 10);
    assert_eq!(desk.password_hashes(), 10);
}

#[test]
fn a_removed_user_or_changed_password_ends_what_stands() {
    let setting = Setting::new();
    setting.set("anna", "one");
    setting.set("otto", "two");
    let desk = setting.desk();
    let credential = ask(&desk, &with_password(Some("anna"), "one"))
        .unwrap()
        .lease
        .credential;
    let both = || {
        [Use::Live, Use::Stored]
            .map(|purpose| desk.standing(&credential, purpose) == Standing::Good)
    };
    assert_eq!(both(), [true, true]);

    setting.set("otto", "other");
    desk.reload_passwords().unwrap();
    assert_eq!(both(), [true, true]);

    setting.set("anna", "changed");
    desk.reload_passwords().unwrap();
    assert_eq!(both(), [false, true]);

    password::delete(&setting.path, "anna").unwrap();
    desk.reload_passwords().unwrap();
    assert_eq!(both(), [false, false]);
}

#[test]
fn a_broken_or_empty_file_keeps_the_users_and_the_generation() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let desk = setting.desk();
    let (good, before) = (setting.text(), desk.generation());
    for broken in ["", "# nobody\n", "anna\n", &format!("{good}{good}")] {
        std::fs::write(&setting.path, broken).unwrap();
        desk.reload_passwords().unwrap_err();
        let reloaded = desk.reload(setting.settings());
        assert_eq!(reloaded[0].unit, "password-file");
        assert!(reloaded[0].error.is_some());
        assert!(ask(&desk, &with_password(Some("anna"), "one")).is_ok());
    }
    std::fs::remove_file(&setting.path).unwrap();
    desk.reload_passwords().unwrap_err();
    assert!(ask(&desk, &with_password(Some("anna"), "one")).is_ok());
    std::fs::write(&setting.path, &good).unwrap();
    desk.reload_passwords().unwrap();
    assert!(desk.generation() > before);
}

#[test]
fn editing_keeps_comments_and_other_lines_and_the_owner_alone_may_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let setting = Setting::new();
    setting.set("anna", "one");
    let anna = setting.text();
    std::fs::write(&setting.path, format!("# first\n\n{anna}# last\n")).unwrap();
    setting.set("otto", "two");
    let text = setting.text();
    assert!(
        text.starts_with(&format!("# first\n\n{anna}# last\notto:$argon2id$v=19$")),
        "{text}"
    );
    assert_eq!(password::list(&setting.path).unwrap(), ["anna", "otto"]);

    setting.set("anna", "new");
    assert!(!setting.text().contains(anna.trim()));
    assert!(setting.text().starts_with("# first\n\nanna:"));
    password::delete(&setting.path, "otto").unwrap();
    assert_eq!(password::list(&setting.path).unwrap(), ["anna"]);

    let mode = std::fs::metadata(&setting.path)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = setting.path.parent().unwrap();
    assert_eq!(
        std::fs::read_dir(directory).unwrap().count(),
        1,
        "no left-overs"
    );
}

#[test]
fn a_byte_order_mark_is_a_warning_and_goes_with_the_next_edit() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let anna = setting.text();
    std::fs::write(&setting.path, format!("\u{feff}{anna}")).unwrap();
    let (desk, warnings) = Desk::open(setting.settings()).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("byte order mark"), "{warnings:?}");
    let judged = principal(&desk, &with_password(Some("anna"), "one"));
    assert_eq!(judged.unwrap(), "user:anna");
    assert_eq!(password::list(&setting.path).unwrap(), ["anna"]);
    setting.set("otto", "two");
    assert!(setting.text().starts_with(&anna), "{}", setting.text());
    assert_eq!(Desk::open(setting.settings()).unwrap().1, [""; 0]);
}

#[test]
fn an_edit_that_would_break_the_file_is_not_made() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let before = setting.text();
    let set = |user, password: &str| {
        password::set(&setting.path, user, Secret::new(password.as_bytes()))
            .unwrap_err()
            .to_string()
    };
    for (error, word) in [
        (set("", "x"), "empty"),
        (set("a:b", "x"), "':'"),
        (set("#a", "x"), "'#'"),
        (set("a\nb", "x"), "control"),
        (set(" a", "x"), "blank"),
        (set("*", "x"), "'*'"),
        (set("otto", ""), "empty"),
        (
            password::delete(&setting.path, "otto")
                .unwrap_err()
                .to_string(),
            "no user",
        ),
        (
            password::delete(&setting.path, "anna")
                .unwrap_err()
                .to_string(),
            "last user",
        ),
    ] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(setting.text(), before);

    std::fs::write(&setting.path, format!("{before}broken\n")).unwrap();
    assert!(set("otto", "x").contains("users.passwd:2"));
    assert_eq!(setting.text(), format!("{before}broken\n"));
    assert!(password::list(&setting.path).is_err());
}

#[test]
fn an_edit_goes_through_a_symbolic_link() {
    let setting = Setting::new();
    setting.set("anna", "one");
    let link = setting.path.with_file_name("link");
    std::os::unix::fs::symlink(&setting.path, &link).unwrap();
    password::set(&link, "otto", Secret::new(b"two")).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(password::list(&setting.path).unwrap(), ["anna", "otto"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a file holds: loading returns, and what loads has at least one user.
    #[test]
    fn any_file_loads_or_is_refused(text in "([a-z#:$ \r\n=,0-9]|argon2id|\\$v=19\\$m=19456,t=2,p=1\\$){0,80}") {
        let setting = Setting::new();
        std::fs::write(&setting.path, &text).unwrap();
        if let Ok(users) = password::list(&setting.path) {
            prop_assert!(!users.is_empty());
        }
    }
}

/// A broker that runs as another user than the one who edits must be able to read the file on.
#[test]
fn an_edited_file_belongs_to_whom_it_belonged_and_others_never_get_in() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let setting = Setting::new();
    setting.set("anna", "one");
    if let Err(error) = chown(&setting.path, Some(12_345), Some(12_346)) {
        println!("not tested that it keeps a foreign owner, which takes root: {error}");
    }
    let before = std::fs::metadata(&setting.path).unwrap();
    for (mode, after) in [
        (0o600, 0o600),
        (0o640, 0o640),
        (0o666, 0o640),
        (0o400, 0o600),
    ] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&setting.path, mode).unwrap();
        setting.set("otto", "two");
        let now = std::fs::metadata(&setting.path).unwrap();
        assert_eq!(now.mode() & 0o777, after);
        assert_eq!((now.uid(), now.gid()), (before.uid(), before.gid()));
    }
}

/// The file that the test below has another user edit.
const EDITED: &str = "PORTCULLIS_TEST_EDITED";

#[test]
fn who_cannot_give_the_file_back_is_told_who_can() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    if let Some(path) = std::env::var_os(EDITED) {
        let edited = password::set(path.as_ref(), "otto", Secret::new(b"two"));
        println!("{}", edited.unwrap_err());
        return;
    }
    let setting = Setting::new();
    setting.set("anna", "one");
    let before = setting.text();
    let directory = setting.path.parent().unwrap();
    let is_root = std::fs::metadata(&setting.path).unwrap().uid() == 0;
    if !is_root || chown(directory, Some(12_345), None).is_err() {
        println!("not tested that one who may not is told so, which takes root");
        return;
    }
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&setting.path, readable).unwrap();
    let test = std::env::current_exe().unwrap();
    // The other user may not get at the test where it is.
    let copy = directory.join("test");
    std::fs::copy(test, &copy).unwrap();
    let output = std::process::Command::new(&copy)
        .args(["--exact", "--nocapture"])
        .arg("who_cannot_give_the_file_back_is_told_who_can")
        .env(EDITED, &setting.path)
        .current_dir(directory)
        .uid(12_345)
        .gid(12_345)
        .output()
        .unwrap();
    std::fs::remove_file(copy).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("run this as root"), "{output:?}");
    assert!(!said.contains("its directory"), "{said}");
    assert_eq!(setting.text(), before);
    let left = std::fs::read_dir(directory).unwrap().count();
    assert_eq!(left, 1, "no left-overs");
}

#[test]
fn only_a_regular_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = directory.path().join("users.passwd");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    for path in [&*socket, &*link, directory.path()] {
        let error = password::set(path, "anna", Secret::new(b"x")).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
    // One that is not there is made for a new user, and has nobody to remove.
    let new = directory.path().join("new.passwd");
    let error = password::delete(&new, "anna").unwrap_err().to_string();
    assert!(error.contains("no such file"), "{error}");
    password::set(&new, "anna", Secret::new(b"x")).unwrap();
}

#[test]
fn lines_by_which_a_stranger_could_tell_users_apart_are_a_warning() {
    let setting = Setting::new();
    setting.set("anna", "one");
    setting.set("otto", "two");
    let text = setting.text();
    let warnings = || Desk::open(setting.settings()).unwrap().1;
    assert_eq!(warnings(), [""; 0]);
    let last = text.lines().last().unwrap();
    let other = last.replace("otto", "eva");
    for (odd, word) in [
        (other.replace("t=2", "t=3"), "do not all cost the same"),
        (other.replace("$50000$", "$4096$"), "a challenge tells"),
        (other.replace("$50000$", "$50000$AAAA"), "a challenge tells"),
    ] {
        std::fs::write(&setting.path, format!("{text}{odd}\n")).unwrap();
        let warnings = warnings();
        assert_eq!(warnings.len(), 1, "{odd}: {warnings:?}");
        assert!(warnings[0].contains(word), "{warnings:?}");
    }
}
