//! Bans: in force at once, visible, over when they say.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use portcullis_anomaly::{Ban, BanError, Bans, Network, Target};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Admission, Arrival, Credential, Identity, Principal, Snapshot, Verdict,
};
use portcullis_core::wire::ReasonCode;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_hours(1);

fn pump() -> Snapshot {
    Snapshot {
        identity: Identity::new(Principal::vouched("cert", "pump-17").unwrap()),
        credential: Credential::new("certificate", "serial 1"),
        client_id: "ward-3".into(),
        listener: Arc::from("internet"),
        address: Some("192.0.2.7".parse().unwrap()),
    }
}

fn network(text: &str) -> Target {
    Target::Network(text.parse().unwrap())
}

fn ban(target: Target, now: Now) -> Ban {
    Ban {
        target,
        reason: "stolen".to_owned(),
        created: now.wall,
        until: now.after(HOUR).wall,
    }
}

fn code(verdict: &Verdict) -> Option<ReasonCode> {
    match verdict {
        Verdict::Refuse { code, will, .. } => {
            assert!(!will, "a ban never publishes a will");
            Some(*code)
        }
        Verdict::Admit | Verdict::Slow(_) => None,
    }
}

#[test]
fn a_ban_by_name_id_or_network_keeps_out_and_withholds_until_it_is_over() {
    for target in [
        Target::Principal("cert:pump-17".to_owned()),
        Target::ClientId("ward-3".to_owned()),
        network("192.0.2.7"),
        network("192.0.0.0/16"),
        network("0.0.0.0/0"),
    ] {
        let now = Now::read();
        let bans = Bans::in_memory();
        let before = bans.generation();
        assert_eq!(bans.admit(&pump(), now), Verdict::Admit);
        bans.add(ban(target.clone(), now), now).unwrap();
        assert!(
            bans.generation() > before,
            "live connections are asked again"
        );
        assert_eq!(
            code(&bans.admit(&pump(), now)),
            Some(ReasonCode::NotAuthorized),
            "{target}"
        );
        assert!(!bans.in_good_standing(&pump(), now));
        let over = now.after(HOUR);
        assert_eq!(bans.admit(&pump(), over), Verdict::Admit, "{target}");
        assert!(bans.in_good_standing(&pump(), over));
        assert!(bans.list(over).is_empty());
    }
}

#[test]
fn a_banned_address_is_refused_on_arrival_and_a_claimed_name_is_not_looked_at() {
    let now = Now::read();
    let bans = Bans::in_memory();
    bans.add(ban(network("2001:db8::/32"), now), now).unwrap();
    bans.add(ban(Target::Principal("cert:pump-17".to_owned()), now), now)
        .unwrap();
    let from = |address: Option<&str>| Arrival {
        address: address.map(|address| address.parse().unwrap()),
        listener: "internet",
        proven: false,
    };
    assert_eq!(
        code(&bans.arrive(&from(Some("2001:db8:1::1")), now)),
        Some(ReasonCode::Banned)
    );
    assert_eq!(bans.arrive(&from(Some("2001:db9::1")), now), Verdict::Admit);
    assert_eq!(bans.arrive(&from(None), now), Verdict::Admit);
    assert_eq!(
        bans.attempt(&from(Some("192.0.2.1")), Some("pump-17"), now),
        Verdict::Admit
    );
    assert_eq!(
        code(&bans.attempt(&from(Some("2001:db8:1::1")), None, now)),
        Some(ReasonCode::NotAuthorized)
    );
    assert_eq!(bans.refused(), 2);
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    let now = Now::read();
    let bans = Bans::in_memory();
    bans.add(ban(network("192.0.2.0/24"), now), now).unwrap();
    let arrival = Arrival {
        address: Some("::ffff:192.0.2.9".parse().unwrap()),
        listener: "x",
        proven: false,
    };
    assert_eq!(code(&bans.arrive(&arrival, now)), Some(ReasonCode::Banned));
}

#[test]
fn bans_survive_a_restart_and_lifted_or_expired_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bans.json");
    let now = Now::read();
    let bans = Bans::load(&path, now).unwrap();
    assert!(!path.exists(), "nothing to keep yet");
    let (a, b, c) = (
        network("10.0.0.0/8"),
        Target::ClientId("\"x\n".to_owned()),
        Target::Principal("user:eve".to_owned()),
    );
    bans.add(ban(a.clone(), now), now).unwrap();
    bans.add(
        Ban {
            until: now.after(HOUR * 3).wall,
            ..ban(b.clone(), now)
        },
        now,
    )
    .unwrap();
    bans.add(ban(c.clone(), now), now).unwrap();
    assert!(bans.remove(&c, now).unwrap());
    assert!(!bans.remove(&c, now).unwrap());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let targets = |now| -> Vec<Target> {
        let bans = Bans::load(&path, now).unwrap();
        bans.list(now).into_iter().map(|ban| ban.target).collect()
    };
    assert_eq!(targets(now), [a, b.clone()]);
    assert_eq!(targets(now.after(HOUR * 2)), [b]);
}

#[test]
fn adding_a_ban_again_replaces_it() {
    let now = Now::read();
    let bans = Bans::in_memory();
    let target = network("10.1.2.3/8");
    bans.add(ban(target.clone(), now), now).unwrap();
    let longer = Ban {
        until: now.after(HOUR * 9).wall,
        ..ban(network("10.0.0.0/8"), now)
    };
    bans.add(longer.clone(), now).unwrap();
    assert_eq!(bans.list(now), [longer]);
}

#[test]
fn a_broken_file_is_an_error_and_not_an_empty_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bans.json");
    let now = Now::read();
    for text in [
        "",
        "{}",
        "{\"bans\":[],\"more\":1}",
        "{\"bans\":[{\"target\":{\"network\":\"10.0.0.0/33\"},\"reason\":\"\",\"created\":1,\"until\":2}]}",
        "{\"bans\":[{\"target\":{\"user\":\"x\"},\"reason\":\"\",\"created\":1,\"until\":2}]}",
    ] {
        fs::write(&path, text).unwrap();
        assert!(
            matches!(Bans::load(&path, now), Err(BanError::Broken { .. })),
            "{text}"
        );
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(
        Bans::load(&path, now),
        Err(BanError::Broken { .. })
    ));
}

#[test]
fn a_ban_that_cannot_be_saved_is_in_force_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bans.json");
    let now = Now::read();
    let bans = Bans::load(&path, now).unwrap();
    fs::create_dir(dir.path().join("bans.json.new")).unwrap();
    let result = bans.add(ban(network("10.0.0.0/8"), now), now);
    assert!(matches!(result, Err(BanError::NotSaved { .. })));
    assert_eq!(bans.list(now).len(), 1);
}

#[test]
fn a_ban_has_an_end_in_the_future() {
    let now = Now::read();
    let over = Ban {
        until: now.wall,
        ..ban(network("10.0.0.0/8"), now)
    };
    assert!(matches!(
        Bans::in_memory().add(over, now),
        Err(BanError::Expired)
    ));
}

#[test]
fn a_full_table_refuses_the_next_ban_and_forgets_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bans.json");
    let now = Now::read();
    let one = |n: usize| {
        format!(
            "{{\"target\":{{\"client-id\":\"id-{n}\"}},\"reason\":\"r\",\"created\":0,\"until\":{}}}",
            now.after(HOUR).unix_millis()
        )
    };
    let all: Vec<String> = (0..Bans::MOST).map(one).collect();
    fs::write(&path, format!("{{\"bans\":[{}]}}", all.join(","))).unwrap();
    let bans = Bans::load(&path, now).unwrap();
    assert!(matches!(
        bans.add(ban(network("10.0.0.0/8"), now), now),
        Err(BanError::Full)
    ));
    assert_eq!(bans.list(now).len(), Bans::MOST);
    let later = now.after(HOUR * 2);
    bans.add(ban(network("10.0.0.0/8"), later), later).unwrap();
    assert_eq!(bans.list(later).len(), 1, "expired ones make room");
}

#[test]
fn networks_are_read_strictly_and_written_in_one_way() {
    for (text, written) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(
            text.parse::<Network>().unwrap().to_string(),
            written,
            "{text}"
        );
    }
    for text in [
        "",
        "10.0.0.0/33",
        "10.0.0/8",
        "::/129",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "x/8",
        "::ffff:10.0.0.0/95",
    ] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
}

proptest! {
    /// Membership is that of the leading bits.
    #[test]
    fn a_network_holds_who_shares_its_leading_bits(base in any::<u32>(), other in any::<u32>(), length in 0_u8..=32, near in any::<bool>()) {
        let other = if near { base ^ (other.checked_shr(length.into()).unwrap_or(0)) } else { other };
        let network = Network::new(std::net::IpAddr::V4(base.into()), length).unwrap();
        let same = u64::from(base) >> (32 - length) == u64::from(other) >> (32 - length);
        prop_assert_eq!(network.contains(std::net::IpAddr::V4(other.into())), same);
    }
}
