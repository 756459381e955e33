//! What a password hash accepts and refuses, at the lowest cost that bcrypt has.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

fn pepper(byte: u8) -> Pepper {
    Pepper::new(vec![byte; 32]).unwrap()
}

fn bcrypt_at(cost: u32) -> Bcrypt {
    Bcrypt::new(cost, pepper(1))
}

fn password(text: &str) -> Password {
    Password::parse(text).unwrap()
}

fn hasher(cost: u32) -> Hasher {
    let threads = NonZeroUsize::new(1);
    Hasher::start(HashingOptions { threads, cost, pepper: pepper(1), queue: 4 }).unwrap()
}

/// The full number of cases on request, a sample otherwise.
fn cases(full: u32) -> Config {
    let long = std::env::var_os("DOORWARD_TEST_LONG").is_some_and(|value| value == "1");
    Config { cases: if long { full } else { full / 20 }, failure_persistence: None, ..Config::default() }
}

#[tokio::test]
async fn s02_composed_registers_and_decomposed_logs_in() {
    let hasher = hasher(COST_MIN);
    let stored = hasher.hash(password("Caf\u{e9} Z\u{fc}rich 8")).await.unwrap();
    for (text, verdict) in [
        ("Caf\u{e9} Z\u{fc}rich 8", Verdict::Right),
        ("Cafe\u{301} Zu\u{308}rich 8", Verdict::Right),
        ("caf\u{e9} Z\u{fc}rich 8", Verdict::Wrong),
        ("Caf\u{c9} Z\u{fc}rich 8", Verdict::Wrong),
        ("Cafe Zurich 8", Verdict::Wrong),
        ("Caf\u{e9} Z\u{fc}rich 8 ", Verdict::Wrong),
    ] {
        assert_eq!(hasher.verify(password(text), Some(stored.clone())).await, Ok(verdict), "{text:?}");
    }
}

#[test]
fn s02_any_change_of_case_fails() {
    let bcrypt = bcrypt_at(COST_MIN);
    let text = "aBcDeFgH \u{e9}\u{df}\u{3c3}x";
    let stored = bcrypt.hash(&password(text));
    for (at, c) in text.char_indices() {
        let swapped = if c.is_lowercase() { c.to_uppercase().to_string() } else { c.to_lowercase().to_string() };
        let other = [&text[..at], &swapped, &text[at + c.len_utf8()..]].concat();
        let verdict = if other == text { Verdict::Right } else { Verdict::Wrong };
        assert_eq!(bcrypt.verify(&password(&other), Some(&stored)), verdict, "{other:?}");
    }
}

/// Endings that cheap hashes confuse: nothing, NULs, control characters, and anything else.
fn ending() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{7f}'), Just(' ')], 1..4)
            .prop_map(String::from_iter),
        prop::collection::vec(any::<char>(), 1..8).prop_map(String::from_iter),
    ]
}

#[test]
fn s03_a_hash_accepts_its_whole_password_and_no_other() {
    let bcrypt = bcrypt_at(COST_MIN);
    let prefix = prop::collection::vec(prop_oneof![8 => prop::char::range(' ', '~'), 1 => Just('\0')], 60..=120);
    let pairs = (prefix.prop_map(String::from_iter), ending(), ending());
    let check = |(prefix, one, other): (String, String, String)| {
        let (one, other) = (Password::parse(&format!("{prefix}{one}")), Password::parse(&format!("{prefix}{other}")));
        let (Ok(one), Ok(other)) = (one, other) else {
            return Err(TestCaseError::reject("too long once normalised"));
        };
        let stored = bcrypt.hash(&one);
        prop_assert_eq!(bcrypt.verify(&one, Some(&stored)), Verdict::Right);
        let same = one.expose() == other.expose();
        prop_assert_eq!(bcrypt.verify(&other, Some(&stored)), if same { Verdict::Right } else { Verdict::Wrong });
        Ok(())
    };
    TestRunner::new(cases(2000)).run(&pairs, check).unwrap();
}

#[test]
fn s03_long_shared_prefixes_are_told_apart_at_every_length() {
    let bcrypt = bcrypt_at(COST_MIN);
    for length in 60..128 {
        let prefix = "p".repeat(length);
        let stored = bcrypt.hash(&password(&prefix));
        for ending in ["\0", "x", "\u{1}"] {
            let longer = password(&format!("{prefix}{ending}"));
            assert_eq!(bcrypt.verify(&longer, Some(&stored)), Verdict::Wrong, "{length} {ending:?}");
        }
    }
}

#[test]
fn s03_every_length_of_every_width_is_hashed_or_refused() {
    let bcrypt = bcrypt_at(COST_MIN);
    for c in ['a', '\u{e9}', '\u{20ac}', '\u{1f511}'] {
        for length in (1..=130).chain([255, 256, 257, 341, 342, 512, 1023, 1024, 1025]) {
            let text = String::from_iter(std::iter::repeat_n(c, length));
            match Password::parse(&text) {
                Ok(password) => {
                    assert!(length <= 128);
                    let stored = bcrypt.hash(&password);
                    assert_eq!(bcrypt.verify(&password, Some(&stored)), Verdict::Right, "{length} of {c:?}");
                }
                Err(refusal) => assert!(length > 128 && refusal.rule == "length"),
            }
        }
    }
}

#[test]
fn s04_another_pepper_does_not_verify() {
    let stored = bcrypt_at(COST_MIN).hash(&password("correct horse battery"));
    let other = Bcrypt::new(COST_MIN, pepper(2));
    assert_eq!(other.verify(&password("correct horse battery"), Some(&stored)), Verdict::Wrong);
    assert!(!bcrypt::verify("correct horse battery", stored.expose()).unwrap());
    assert!(Pepper::new(vec![1; 31]).is_none());
}

#[test]
fn s04_the_pre_hash_is_text_that_bcrypt_reads_whole() {
    let bcrypt = bcrypt_at(COST_MIN);
    for text in ["", "\0", "short", &"\u{1f511}".repeat(128)] {
        let prehash = bcrypt.prehash(&password(text));
        assert_eq!(prehash.len(), 44);
        assert!(prehash.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    // HMAC-SHA-256 under 32 bytes 01 of "abc", by Python's `hmac`.
    assert_eq!(bcrypt.prehash(&password("abc")).as_str(), "c4YGEqpqrfaJhbbpxCMzV87dXySiIeunQLKqg1AnbPw=");
}

#[tokio::test]
async fn s04_a_cheaper_hash_is_right_but_weak_and_a_costlier_one_right() {
    let cheap = hasher(COST_MIN);
    let dear = hasher(COST_MIN + 2);
    let (old, new) = (cheap.hash(password("abc")).await.unwrap(), dear.hash(password("abc")).await.unwrap());
    assert_eq!(dear.verify(password("abc"), Some(old.clone())).await, Ok(Verdict::RightButWeak));
    assert_eq!(dear.verify(password("abd"), Some(old)).await, Ok(Verdict::Wrong));
    assert_eq!(cheap.verify(password("abc"), Some(new)).await, Ok(Verdict::Right));
}

#[tokio::test]
async fn s05_a_new_password_is_judged_and_hashed_in_one_go() {
    let hasher = hasher(COST_MIN);
    let policy = Arc::new(Policy::load(8, None).unwrap());
    let stored = hasher.hash_new(&policy, "tide Mural-quench", "alice", "").await.unwrap().unwrap();
    assert_eq!(hasher.verify(password("tide Mural-quench"), Some(stored)).await, Ok(Verdict::Right));
    for (text, rule) in [("password1", "common"), ("alice1234", "guessable"), (&*"x".repeat(1025), "length")] {
        let refusal = hasher.hash_new(&policy, text, "alice", "").await.unwrap().unwrap_err();
        assert_eq!(refusal.rule, rule, "{text}");
    }
}

#[tokio::test]
async fn s06_nobody_to_have_a_password_is_wrong_whatever_it_is() {
    let hasher = hasher(COST_MIN);
    for text in ["", "no pre-hash is this", "correct horse battery"] {
        assert_eq!(hasher.verify(password(text), None).await, Ok(Verdict::Wrong));
    }
}

#[test]
fn s06_a_check_takes_the_same_work_for_unknown_malformed_weak_and_wrong() {
    let bcrypt = bcrypt_at(8);
    let rounds = |stored: Option<PasswordHash>| {
        let check = bcrypt.check_of(stored.as_ref());
        assert_eq!(stored_cost(check.hash), Some(check.cost));
        (1 << check.cost) + check.more.map(|cost| 1 << cost).sum::<u64>()
    };
    assert_eq!(rounds(None), 1 << 8);
    assert_eq!(rounds(Some(PasswordHash::new("malformed".into()))), 1 << 8);
    for cost in COST_MIN..=8 {
        assert_eq!(rounds(Some(bcrypt_hash(b"x", cost))), 1 << 8, "stored at {cost}");
    }
    assert_eq!(rounds(Some(bcrypt_hash(b"x", 9))), 1 << 9); // a costlier one cannot be had for less
}

#[test]
fn a_malformed_stored_hash_is_wrong() {
    let bcrypt = bcrypt_at(COST_MIN);
    let good = bcrypt.hash(&password("abc")).expose().to_owned();
    for text in [
        "".to_owned(),
        "abc".to_owned(),
        good[..59].to_owned(),
        format!("{good}="),
        good.replacen("$2b$", "$3b$", 1),
        good.replacen("$04$", "$03$", 1),
        good.replacen("$04$", "$31$", 1),
        good.replacen("$04$", "$x4$", 1),
        format!("{}\u{e9}", &good[..58]),
        format!("{}!", &good[..59]),
    ] {
        assert_eq!(bcrypt.verify(&password("abc"), Some(&PasswordHash::new(text.clone()))), Verdict::Wrong, "{text}");
    }
}

#[tokio::test]
async fn a_closed_hasher_is_busy() {
    let hasher = hasher(COST_MIN);
    hasher.close();
    let busy = hasher.hash(password("abc")).await.unwrap_err();
    assert_eq!(busy.retry_after, hasher.time_per_hash());
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let hasher = hasher(8);
    let mut calls: Vec<_> = (0..20).map(|_| Box::pin(hasher.hash(password("abc")))).collect();
    let mut refused = 0;
    for call in &mut calls {
        if let std::task::Poll::Ready(result) = futures_util::poll!(call) {
            let busy = result.unwrap_err();
            assert!(busy.retry_after >= hasher.time_per_hash() && busy.retry_after <= 5 * hasher.time_per_hash());
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_cost_out_of_range_stops_the_start() {
    for cost in [0, COST_MIN - 1, COST_MAX + 1] {
        let options = HashingOptions { threads: None, cost, pepper: pepper(1), queue: 1 };
        assert_eq!(Hasher::start(options).err().unwrap().kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn s16_secrets_have_no_readable_debug() {
    let options = HashingOptions { threads: None, cost: 4, pepper: Pepper::new(vec![b'k'; 32]).unwrap(), queue: 1 };
    let shown = format!("{options:?} {:?}", password("correct horse battery"));
    assert!(!shown.contains("kk") && !shown.contains("107") && !shown.contains("horse"), "{shown}");
}
