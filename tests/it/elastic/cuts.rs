//! Every kind of write, cut anywhere: the answer is true, and the effect is there once or not at all.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use doorward::clock::Time;
use doorward::store::elastic::ElasticStore;
use doorward::store::{PasswordChange, Store, StoreError, Unique};
use doorward::users::{Email, Role, Status, User};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{Faulty, open};
use crate::store::contract::{create, hash, next, user};
use crate::store::sessions::{LIFETIMES, origin, session};
use crate::support::elastic::elastic_url;
use crate::support::proxy::{Fault, Rule, When};
use crate::support::{Indices, count};

/// How many rounds run at once, each lane with a proxy of its own.
const LANES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Write {
    Create,
    Update,
    Email,
    Deactivate,
    Reactivate,
    Role,
    Erase,
    /// What `users.set_password` writes, and `auth.change_password` before it moves the session.
    Password,
    /// What a login writes when its user's hash is an old one.
    Upgrade,
    /// What `auth.login` and `auth.register` write.
    Begin,
    /// What `auth.refresh` writes, and `auth.change_password` behind the password.
    Refresh,
    /// What `auth.logout` and `auth.end_session` write.
    End,
}

impl Write {
    /// Whether a session is written, and no user.
    fn is_of_session(self) -> bool {
        matches!(self, Self::Begin | Self::Refresh | Self::End)
    }
}

#[tokio::test]
async fn r08_a_cut_creation_is_told_truly_and_done_once() {
    cut(Write::Create).await;
}

#[tokio::test]
async fn r08_a_cut_update_is_told_truly_and_done_once() {
    cut(Write::Update).await;
}

#[tokio::test]
async fn r08_a_cut_change_of_address_is_told_truly_and_done_once() {
    cut(Write::Email).await;
}

#[tokio::test]
async fn r08_a_cut_deactivation_is_told_truly_and_done_once() {
    cut(Write::Deactivate).await;
}

#[tokio::test]
async fn r08_a_cut_reactivation_is_told_truly_and_done_once() {
    cut(Write::Reactivate).await;
}

#[tokio::test]
async fn r08_a_cut_change_of_role_is_told_truly_and_done_once() {
    cut(Write::Role).await;
}

#[tokio::test]
async fn r08_a_cut_erasure_is_told_truly_and_done_once() {
    cut(Write::Erase).await;
}

#[tokio::test]
async fn r08_a_cut_upgrade_of_a_hash_is_told_truly_and_done_once() {
    cut(Write::Upgrade).await;
}

#[tokio::test]
async fn r08_a_cut_change_of_password_is_told_truly_and_done_once() {
    cut(Write::Password).await;
}

#[tokio::test]
async fn r08_a_cut_beginning_of_a_session_is_told_truly_and_done_once() {
    cut(Write::Begin).await;
}

#[tokio::test]
async fn r08_a_cut_refresh_of_a_session_is_told_truly_and_done_once() {
    cut(Write::Refresh).await;
}

#[tokio::test]
async fn r08_a_cut_end_of_a_session_is_told_truly_and_done_once() {
    cut(Write::End).await;
}

async fn cut(write: Write) {
    let indices = Indices::new();
    let clean = open(&indices).await;
    // Somebody must stay an admin.
    create(&clean, &User { role: Role::Admin, ..user("root") }).await;
    let rounds = count(16, 500).div_ceil(LANES);
    let lanes = (0..LANES).map(async |number| {
        let mut lane = Lane {
            faulty: Faulty::open(&indices).await,
            clean: &clean,
            indices: &indices,
            random: RefCell::new(StdRng::seed_from_u64(number as u64)),
            seen: Seen::default(),
        };
        for round in 0..rounds {
            lane.round(write, &format!("n{number}r{round}")).await;
        }
        lane.seen
    });
    let seen = join_all(lanes).await;
    let sum = |what: fn(&Seen) -> usize| seen.iter().map(what).sum::<usize>();
    let (done, refused, unknown) = (sum(|seen| seen.done), sum(|seen| seen.refused), sum(|seen| seen.unknown));
    eprintln!(
        "{write:?}: {done} done, {refused} not done, {unknown} unknown (of them {} done); {} addresses had to wait",
        sum(|seen| seen.unknown_done),
        sum(|seen| seen.reserved.len()),
    );
    assert!(done > 0 && refused + unknown > 0, "some faults are overcome, and some are not");
    super::end_reservations(&indices).await;
    for claimant in seen.into_iter().flat_map(|seen| seen.reserved) {
        create(&clean, &claimant).await;
    }
}

/// What came of the rounds.
#[derive(Default)]
struct Seen {
    done: usize,
    refused: usize,
    unknown: usize,
    unknown_done: usize,
    /// Users who wanted an address that a write had reserved, and may have it when the reservation has ended.
    reserved: Vec<User>,
}

struct Lane<'a> {
    faulty: Faulty,
    clean: &'a ElasticStore,
    indices: &'a Indices,
    random: RefCell<StdRng>,
    seen: Seen,
}

impl Lane<'_> {
    async fn round(&mut self, write: Write, username: &str) {
        match write.is_of_session() {
            true => self.round_of_session(write, username).await,
            false => self.round_of_user(write, username).await,
        }
    }

    async fn round_of_session(&mut self, write: Write, username: &str) {
        let before = session(username, 0);
        if write != Write::Begin {
            self.clean.session_create(before.clone()).await.unwrap();
        }
        let after = match write {
            Write::Begin => before.clone(),
            Write::Refresh => before.move_to(2, origin(), Time::from_ms(7), LIFETIMES),
            _ => before.end(0),
        };
        let (kind, id) = ("sessions", before.id.to_string());
        let writes = self.writes(kind, &id).await;
        let store = &self.faulty.store;
        let perform = async {
            match write {
                Write::Begin => store.session_create(after.clone()).await,
                _ => store.session_replace(after.clone()).await,
            }
        };
        let (answer, fault) = self.perform_cut(perform).await;

        let told = format!("{username} {write:?}, {fault}: {answer:?}");
        let now = self.clean.session_get(before.id).await.unwrap();
        let happened = now.as_ref() == Some(&after);
        let expected = Some(&before).filter(|_| write != Write::Begin);
        assert!(happened || now.as_ref() == expected, "half done: {told}");
        assert_eq!(self.writes(kind, &id).await - writes, u64::from(happened), "effects of {told}");
        self.judge(&answer, happened, &told);
    }

    async fn round_of_user(&mut self, write: Write, username: &str) {
        let role = if self.random.borrow_mut().random() { Role::Admin } else { Role::User };
        let status = if write == Write::Reactivate { Status::Deactivated } else { Status::Active };
        let before = User { role, status, ..user(username) };
        if write != Write::Create {
            create(self.clean, &before).await;
        }
        let after = next(&before, |user| match write {
            Write::Create | Write::Upgrade => user.rev = 1,
            Write::Update => user.bio = "changed".into(),
            Write::Email => user.email = Some(Email::parse(&format!("{username}@example.org")).unwrap()),
            Write::Deactivate => user.status = Status::Deactivated,
            Write::Reactivate => user.status = Status::Active,
            Write::Role => user.role = if role == Role::User { Role::Admin } else { Role::User },
            Write::Erase => (user.status, user.email) = (Status::Erased, None),
            Write::Password => user.generation += 1,
            Write::Begin | Write::Refresh | Write::End => unreachable!("a session is written"),
        });
        let writes = self.writes("users", username).await;
        let (answer, fault) = self.perform_cut(self.perform(write, &after)).await;

        let told = format!("{username} {write:?} as {role:?}, {fault}: {answer:?}");
        let happened = self.happened(write, (&before, &after), &told).await;
        assert_eq!(self.writes("users", username).await - writes, u64::from(happened), "effects of {told}");
        self.judge(&answer, happened, &told);
        let holder = if happened { Some(&after) } else { Some(&before).filter(|_| write != Write::Create) };
        let former = before.email.iter().filter(|_| after.email != before.email);
        for (at, email) in former.chain(&after.email).enumerate() {
            self.check_address(email, holder, &format!("{username}x{at}"), &told).await;
        }
    }

    /// Does it under a fault: the answer, and what the fault was.
    async fn perform_cut(
        &self,
        perform: impl Future<Output = Result<(), StoreError>>,
    ) -> (Result<(), StoreError>, String) {
        let (rule, told) = self.fault();
        let answer = perform.await;
        // What was held back may still arrive, and must not make the answer wrong.
        rule.release();
        rule.wait_for_end().await;
        self.faulty.proxy.clear();
        (answer, told)
    }

    /// Holds an answer against what happened.
    fn judge(&mut self, answer: &Result<(), StoreError>, happened: bool, told: &str) {
        match answer {
            Ok(()) => {
                assert!(happened, "not done: {told}");
                self.seen.done += 1;
            }
            Err(StoreError::OutcomeUnknown(_)) => {
                self.seen.unknown += 1;
                self.seen.unknown_done += usize::from(happened);
            }
            Err(StoreError::Unavailable(_) | StoreError::Timeout) => {
                assert!(!happened, "done: {told}");
                self.seen.refused += 1;
            }
            Err(_) => panic!("a wrong answer: {told}"),
        }
    }

    /// Cuts or holds one or some requests from a random one on; tells which.
    fn fault(&self) -> (Arc<Rule>, String) {
        let mut random = self.random.borrow_mut();
        let (first, times) = (random.random_range(0..7), random.random_range(1..8));
        let (fault, named) = match random.random_range(0..5) {
            0 | 1 => (Fault::CutBefore, "cut before"),
            2 | 3 => (Fault::CutAfter, "cut after"),
            _ => (Fault::Hold, "held"),
        };
        let requests = AtomicUsize::new(0);
        let chosen = move |_: &_, _: &str| (first..first + times).contains(&requests.fetch_add(1, Relaxed));
        (self.faulty.proxy.rule(chosen, When::Always, fault), format!("{times} from {first} {named}"))
    }

    async fn perform(&self, write: Write, after: &User) -> Result<(), StoreError> {
        let store = &self.faulty.store;
        match write {
            Write::Create => store.user_create(after.clone(), hash("hash")).await.map(drop),
            Write::Password => store.user_replace(after.clone(), PasswordChange::Set(hash("new"))).await.map(drop),
            Write::Upgrade => store.password_upgrade(&after.username, hash("hash"), hash("stronger")).await,
            Write::Erase => store.user_replace(after.clone(), PasswordChange::Remove).await.map(drop),
            _ => store.user_replace(after.clone(), PasswordChange::Keep).await.map(drop),
        }
    }

    /// Whether the user is as after the write; if not, it is exactly as before.
    async fn happened(&self, write: Write, (before, after): (&User, &User), told: &str) -> bool {
        let now = self.clean.user_get(&after.username).await.unwrap();
        let password = self.clean.password_get(&after.username).await.unwrap();
        if write == Write::Upgrade {
            assert_eq!(now.as_deref(), Some(after), "{told}");
            return password == Some(hash("stronger"));
        }
        let happened = now.as_deref() == Some(after);
        let expected = Some(before).filter(|_| write != Write::Create);
        assert!(happened || now.as_deref() == expected, "half done: {told}");
        let kept = now.is_some_and(|now| now.status != Status::Erased);
        let kept = kept.then(|| hash(if happened && write == Write::Password { "new" } else { "hash" }));
        assert_eq!(password, kept, "{told}");
        happened
    }

    /// How often a document of a kind was written: Elasticsearch counts them.
    async fn writes(&self, kind: &str, id: &str) -> u64 {
        let url = format!("{}/{}-{kind}/_doc/{id}?_source=false", elastic_url(), self.indices.prefix);
        let document: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        document["_version"].as_u64().unwrap_or(0)
    }

    /// An address is found at its holder, and nobody else can have it; one that nobody holds can be had, if not at once.
    async fn check_address(&mut self, email: &Email, holder: Option<&User>, claimant: &str, told: &str) {
        let holder = holder.filter(|holder| holder.email.as_ref() == Some(email));
        let found = self.clean.user_get_by_email(email).await.unwrap();
        assert_eq!(found.as_deref(), holder, "{email:?} after {told}");
        let claimant = User { email: Some(email.clone()), ..user(claimant) };
        match self.clean.user_create(claimant.clone(), hash("hash")).await {
            Ok(_) => assert!(holder.is_none(), "{email:?} is had twice after {told}"),
            Err(StoreError::AlreadyExists(Unique::Email)) if holder.is_some() => {}
            Err(StoreError::AlreadyExists(Unique::Email)) => self.seen.reserved.push(claimant),
            Err(error) => panic!("{error} after {told}"),
        }
    }
}
