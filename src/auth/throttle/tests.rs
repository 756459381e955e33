//! The throttle by a clock that is moved by hand.

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn limits() -> Limits {
    Limits {
        failures: 10,
        failures_in_a_row: 5,
        delay: Duration::from_secs(1),
        delay_max: Duration::from_secs(900),
        failures_per_address: 100,
        registrations_per_address: 10,
        keys: 1_000_000,
    }
}

fn throttle() -> (Throttle, Clock) {
    let clock = Clock::default();
    (Throttle::new(limits(), clock.clone()), clock)
}

/// An address of its own for each number.
fn address(number: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + number).to_be_bytes())
}

fn fail(throttle: &Throttle, name: &str, address: IpAddr) {
    throttle.login(name, address).unwrap_or_else(|refused| panic!("{refused:?}")).failed();
}

/// The wait that an attempt is told, rounded up to seconds; 0 when it is let through.
fn wait(throttle: &Throttle, name: &str, address: IpAddr) -> u64 {
    throttle.login(name, address).map_or_else(|refused| refused.retry_after.as_millis().div_ceil(1000) as u64, |_| 0)
}

#[test]
fn s07_ten_failures_of_a_name_from_an_address_in_any_15_minutes() {
    let (throttle, clock) = throttle();
    throttle.signed_in("alice", HERE); // no waits between
    for _ in 0..10 {
        fail(&throttle, "alice", HERE);
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(wait(&throttle, "alice", HERE), 300, "until the first is 15 minutes old");
    assert_eq!(wait(&throttle, "bob", HERE), 0, "another name");
    clock.advance(Duration::from_secs(299));
    assert_eq!(wait(&throttle, "alice", HERE), 1);
    clock.advance(Duration::from_secs(1));
    fail(&throttle, "alice", HERE);
    assert_eq!(wait(&throttle, "alice", HERE), 60, "until the second is");
}

#[test]
fn s07_the_fifth_failure_in_a_row_begins_waits_that_double_up_to_15_minutes() {
    let (throttle, clock) = throttle();
    let mut waits = Vec::new();
    for number in 0..18 {
        fail(&throttle, "alice", address(number));
        let told = wait(&throttle, "alice", address(1000));
        waits.push(told);
        clock.advance(Duration::from_secs(told));
    }
    assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]);
    throttle.login("alice", HERE).ok().unwrap().succeeded();
    fail(&throttle, "alice", address(2000));
    assert_eq!(wait(&throttle, "alice", HERE), 0, "a success ends the row");
}

#[test]
fn s07_the_owner_still_gets_in_from_an_address_that_succeeded_before() {
    let (throttle, clock) = throttle();
    throttle.signed_in("alice", HERE);
    for number in 0..30 {
        fail(&throttle, "alice", address(number));
        assert_eq!(wait(&throttle, "alice", HERE), 0);
        let told = wait(&throttle, "alice", address(1000));
        clock.advance(Duration::from_secs(told));
    }
    fail(&throttle, "alice", address(30));
    throttle.login("alice", HERE).ok().unwrap().succeeded();
    assert_eq!(wait(&throttle, "alice", address(1000)), 900, "her success does not end the row of the others");
}

#[test]
fn s07_a_hundred_failures_an_address_and_day_whoever_is_named() {
    let (throttle, clock) = throttle();
    for number in 0..100 {
        fail(&throttle, &format!("user{number}"), HERE);
    }
    throttle.signed_in("alice", HERE);
    assert_eq!(wait(&throttle, "alice", HERE), 24 * 3600);
    assert_eq!(wait(&throttle, "alice", address(1)), 0);
    clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(wait(&throttle, "alice", HERE), 0);
}

#[test]
fn s07_an_attempt_that_is_abandoned_while_it_hashes_counts_under_its_address_alone() {
    let (throttle, _) = throttle();
    let begin = |name: &str, costs: bool| {
        let mut attempt = throttle.login(name, HERE).unwrap_or_else(|refused| panic!("{refused:?}"));
        if costs {
            attempt.costs();
        }
        attempt
    };
    for _ in 0..100 {
        // Before its hash, it costs nothing; what failed for reasons of ours, and a success, are not held against anybody.
        drop(begin("alice", false));
        begin("alice", true).void();
        begin("alice", true).succeeded();
    }
    for _ in 0..100 {
        drop(begin("alice", true));
    }
    assert_eq!(wait(&throttle, "bob", HERE), 24 * 3600);
    assert_eq!(wait(&throttle, "alice", address(1)), 0);
}

#[test]
fn s07_a_network_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() {
    let (throttle, _) = throttle();
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    for number in 0..10 {
        throttle.registration(parse(&format!("2001:db8:0:1::{number}"))).unwrap();
    }
    assert!(throttle.registration(parse("2001:db8:0:1:ffff:ffff:ffff:ffff")).is_err());
    throttle.registration(parse("2001:db8:0:2::1")).unwrap();
    assert_eq!(network(parse("::ffff:192.0.2.1")), HERE);
}

#[test]
fn s06_ten_registrations_an_address_and_hour() {
    let (throttle, clock) = throttle();
    for _ in 0..10 {
        throttle.registration(HERE).unwrap();
    }
    let refused = throttle.registration(HERE).unwrap_err();
    assert_eq!(refused.retry_after.as_secs_f64().ceil(), 3600.0);
    clock.advance(refused.retry_after);
    throttle.registration(HERE).unwrap();
}

#[test]
fn s08_attempts_at_once_share_the_budget_and_one_without_outcome_gives_its_part_back() {
    let (throttle, _) = throttle();
    let first: Vec<_> = (0..5).map(|_| throttle.login("alice", HERE).ok().unwrap()).collect();
    let refused = throttle.login("alice", HERE).err().unwrap();
    assert_eq!(refused.retry_after, Duration::from_secs(1), "nobody has failed yet");
    drop(first);

    throttle.signed_in("alice", HERE);
    let all: Vec<_> = (0..10).map(|_| throttle.login("alice", HERE).ok().unwrap()).collect();
    assert!(throttle.login("alice", HERE).is_err());
    for attempt in all {
        attempt.failed();
    }
    assert_eq!(wait(&throttle, "alice", HERE), 900);
}

/// In a process of its own, whose memory nobody else takes.
#[test]
fn s07_a_million_keys_take_less_than_256_mib_and_active_offenders_stay() {
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "auth::throttle::tests::a_million_keys", "--ignored", "--nocapture"]);
    let output = alone.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "the test before it runs this one"]
fn a_million_keys() {
    let (throttle, clock) = throttle();
    let before = resident_kib();
    throttle.signed_in("alice", HERE);
    for number in 0..14 {
        clock.advance(Duration::from_secs(900));
        fail(&throttle, "alice", address(2_000_000 + number));
    }
    throttle.signed_in("bob", HERE);
    for _ in 0..10 {
        fail(&throttle, "bob", HERE);
    }
    // Each makes three keys: in all half as many again as are kept.
    for number in 0..500_000 {
        fail(&throttle, &number.to_string(), address(number));
    }
    let taken = resident_kib().saturating_sub(before) >> 10;
    assert_eq!(throttle.table().len(), 1_000_000);
    assert!(taken < 256, "{taken} MiB");
    assert!(wait(&throttle, "alice", address(1)) > 0, "the waits of a name stay");
    assert_eq!(wait(&throttle, "alice", HERE), 0, "so does the address that does not feel them");
    assert!(wait(&throttle, "bob", HERE) > 0, "and the failures of a name from an address");
}

/// The memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
