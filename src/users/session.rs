//! Sessions: one login of a user, from its beginning to its end.
//!
//! Pure functions from one state to the next, as in `rules`. Whether a session is good is decided by its own end, by the
//! user's generation and by its expiry; when it was revoked is never compared with anything.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{User, Username};
use crate::clock::Time;

/// How long the refresh token that was just replaced gets the same successor again: its answer may have been lost.
pub const OVERLAP: Duration = Duration::from_secs(10);
/// How long an expired session is kept, in milliseconds: until no access token of it is left, and every gateway has heard of its end.
const KEPT_MS: i64 = 2 * 86_400_000;
/// How often it is written at most that a session was seen.
pub const SEEN_EVERY: Duration = Duration::from_secs(60);

/// How long it counts what another gateway has written of its sockets. Each writes anew after [`SEEN_EVERY`], give or take
/// a ping; one that is gone does not.
const TOLD_FOR: Duration = Duration::from_secs(150);

/// How long sessions last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Without a refresh.
    pub idle: Duration,
    /// In all.
    pub whole: Duration,
}

/// From where a session is used.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// Its `User-Agent`.
    pub user_agent: Option<String>,
}

/// The open sockets of a session on one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// Which, as `system.info` names it.
    pub node: String,
    /// How many.
    pub count: usize,
    /// When there were so many.
    pub at: Time,
}

/// One login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its identity.
    pub id: Uuid,
    /// Whose it is.
    pub user: Username,
    /// The user's generation that it belongs to; it is over when the user's is greater. Of an ended one, that of its end.
    pub generation: u64,
    /// What the client called itself at login; `None` when it did not.
    pub device: Option<String>,
    /// From where it was last seen.
    pub address: IpAddr,
    /// The `User-Agent` it was last seen with.
    pub user_agent: Option<String>,
    /// When it began.
    pub created_at: Time,
    /// When it was last seen, to a minute.
    pub last_seen_at: Time,
    /// What gateways have told of its sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Sockets>,
    /// When it is over unless it is refreshed before.
    pub expires_at: Time,
    /// The number of the refresh token that is good now.
    pub token: u64,
    /// When that token took the place of the one before.
    pub refreshed_at: Time,
    /// Whether it was ended.
    pub ended: bool,
    /// 1 at its beginning, one more with every write.
    pub rev: u64,
}

/// What a refresh token that was ours at some time leads to.
#[derive(Debug, PartialEq)]
pub enum Refresh {
    /// The next state, with the next token.
    Next(Box<Session>),
    /// The same successor once more.
    Again,
    /// It was used before: somebody else may have it.
    Reused,
    /// It was given out after this state: what was read is behind.
    Ahead,
}

impl Session {
    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        let texts = [Some(self.user.as_str()), self.device.as_deref(), self.user_agent.as_deref()];
        let texts = texts.into_iter().flatten().map(str::len).sum::<usize>();
        size_of::<Self>() + texts + self.sockets.iter().map(|of| size_of::<Sockets>() + of.node.len()).sum::<usize>()
    }

    /// A login that begins now.
    pub fn begin(user: &User, device: Option<String>, origin: Origin, now: Time, lifetimes: Lifetimes) -> Self {
        Self {
            id: Uuid::now_v7(),
            user: user.username.clone(),
            generation: user.generation,
            device,
            address: origin.address,
            user_agent: origin.user_agent,
            created_at: now,
            last_seen_at: now,
            sockets: Vec::new(),
            expires_at: now.plus(lifetimes.idle.min(lifetimes.whole)),
            token: 1,
            refreshed_at: now,
            ended: false,
            rev: 1,
        }
    }

    /// What follows when the refresh token of a number is used.
    ///
    /// Gateways have no monotonic clock in common, so the overlap is measured by the wall clock, in both directions: two
    /// clocks that differ shift it, and at worst a client whose answer was lost has to log in again.
    pub fn refresh(&self, token: u64, origin: Origin, now: Time, lifetimes: Lifetimes) -> Refresh {
        let since = now.apart_from(self.refreshed_at);
        match self.token.checked_sub(token) {
            Some(0) => Refresh::Next(Box::new(self.with_token(self.token + 1, origin, now, lifetimes))),
            Some(1) if since < OVERLAP => Refresh::Again,
            Some(_) => Refresh::Reused,
            None => Refresh::Ahead,
        }
    }

    /// The state for another generation of the user: a change of password that its owner made in this session. Its
    /// tokens are not successors of those before.
    pub fn move_to(&self, generation: u64, origin: Origin, now: Time, lifetimes: Lifetimes) -> Self {
        Self { generation, ..self.with_token(self.token + 2, origin, now, lifetimes) }
    }

    fn with_token(&self, token: u64, origin: Origin, now: Time, lifetimes: Lifetimes) -> Self {
        let expires_at = now.plus(lifetimes.idle).min(self.created_at.plus(lifetimes.whole));
        Self { token, refreshed_at: now, expires_at, ..self.seen(origin, now) }
    }

    /// Seen from there.
    pub fn seen(&self, origin: Origin, now: Time) -> Self {
        let Origin { address, user_agent } = origin;
        Self { address, user_agent, last_seen_at: now, rev: self.rev + 1, ..self.clone() }
    }

    /// Seen from there by a gateway that holds so many of its sockets; `None` when that was written less than
    /// [`SEEN_EVERY`] ago.
    pub fn seen_by(&self, node: &str, count: usize, origin: Origin, now: Time) -> Option<Self> {
        let is_due = |at: Time| now.apart_from(at) >= SEEN_EVERY;
        let told = self.sockets.iter().find(|sockets| sockets.node == node && !is_due(sockets.at));
        if !is_due(self.last_seen_at) && told.map_or(0, |sockets| sockets.count) == count {
            return None;
        }
        let mut next = self.seen(origin, now);
        next.sockets.retain(|sockets| sockets.node != node && now.apart_from(sockets.at) < TOLD_FOR);
        if count > 0 {
            next.sockets.push(Sockets { node: node.to_owned(), count, at: now });
        }
        Some(next)
    }

    /// How many sockets it has on other gateways, as far as these have told.
    pub fn sockets_elsewhere(&self, node: &str, now: Time) -> usize {
        let told = self.sockets.iter().filter(|sockets| sockets.node != node && now.apart_from(sockets.at) < TOLD_FOR);
        told.map(|sockets| sockets.count).sum()
    }

    /// Ended, because the user's generation is this or, when that is not greater, for a reason of its own. Nothing
    /// personal is kept of it.
    pub fn end(&self, generation: u64) -> Self {
        let generation = generation.max(self.generation);
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let nothing = Self { device: None, address, user_agent: None, sockets: Vec::new(), ..self.clone() };
        Self { ended: true, generation, rev: self.rev + 1, ..nothing }
    }

    /// Sessions that expired before this moment are of no use when this one begins.
    pub fn clears_before(&self) -> Time {
        Time::from_ms(self.created_at.ms() - KEPT_MS)
    }

    /// Whether it can be used by its user as they are now. One of a greater generation than the user was last known to have
    /// is of a change that is about to be heard of.
    pub fn is_good(&self, user: &User, now: Time) -> bool {
        !self.ended
            && now < self.expires_at
            && self.generation >= user.generation
            && user.status == super::Status::Active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::rules::{self, Act};
    use crate::users::{Email, Role};

    const LIFETIMES: Lifetimes = Lifetimes { idle: Duration::from_secs(100), whole: Duration::from_secs(250) };

    fn origin() -> Origin {
        Origin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), user_agent: Some("a browser".into()) }
    }

    fn at(seconds: i64) -> Time {
        Time::from_ms(seconds * 1000)
    }

    fn alice() -> User {
        let (name, email) = (Username::parse("alice").unwrap(), Email::parse("alice@example.com").unwrap());
        rules::create(name, email, None, Role::User, Act { actor: None, at: at(0), reason: None })
    }

    fn session() -> Session {
        Session::begin(&alice(), Some("a phone".into()), origin(), at(0), LIFETIMES)
    }

    fn refreshed(session: &Session, seconds: i64) -> Session {
        match session.refresh(session.token, origin(), at(seconds), LIFETIMES) {
            Refresh::Next(next) => *next,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn s13_a_token_leads_on_once_and_its_predecessor_to_the_same_for_ten_seconds() {
        let second = refreshed(&session(), 50);
        assert_eq!((second.token, second.rev, second.expires_at), (2, 2, at(150)));
        let used = |token, seconds| second.refresh(token, origin(), at(seconds), LIFETIMES);
        assert_eq!((used(1, 50), used(1, 59), used(1, 41)), (Refresh::Again, Refresh::Again, Refresh::Again));
        assert_eq!((used(1, 60), used(1, 40)), (Refresh::Reused, Refresh::Reused));
        // Older ones at no time. Of one that is newer than this state, it says nothing.
        let third = refreshed(&second, 51);
        for (token, outcome) in [(0, Refresh::Reused), (1, Refresh::Reused), (4, Refresh::Ahead)] {
            assert_eq!(third.refresh(token, origin(), at(51), LIFETIMES), outcome, "{token}");
        }
        // After a change of the password there is no overlap with what was before.
        let moved = second.move_to(2, origin(), at(51), LIFETIMES);
        assert_eq!(moved.refresh(second.token, origin(), at(51), LIFETIMES), Refresh::Reused);
    }

    #[test]
    fn a_session_is_over_when_idle_when_old_when_ended_and_with_its_generation() {
        let (alice, first) = (alice(), session());
        assert!(first.is_good(&alice, at(99)) && !first.is_good(&alice, at(100)));
        let last = refreshed(&refreshed(&refreshed(&first, 90), 180), 240);
        assert!(last.is_good(&alice, at(249)) && !last.is_good(&alice, at(250)));
        assert!(!first.end(0).is_good(&alice, at(1)));
        let act = Act { actor: None, at: at(0), reason: None };
        assert!(!first.is_good(&rules::set_password(&alice, act.clone()), at(1)));
        assert!(!first.is_good(&rules::deactivate(&alice, act).unwrap(), at(1)));
    }

    #[test]
    fn sockets_of_other_gateways_count_while_these_tell_of_them() {
        let seen = |session: &Session, node: &str, count, seconds| session.seen_by(node, count, origin(), at(seconds));
        let first = session();
        assert_eq!(seen(&first, "a", 0, 59), None);
        let one = seen(&first, "a", 1, 20).expect("others do not know of its socket");
        assert_eq!((one.rev, one.last_seen_at, seen(&one, "a", 1, 79)), (2, at(20), None));
        let both = seen(&one, "b", 2, 30).unwrap();
        let counts =
            |session: &Session, seconds| ["a", "b", "c"].map(|own| session.sockets_elsewhere(own, at(seconds)));
        assert_eq!(counts(&both, 30), [2, 1, 3]);
        assert_eq!((counts(&both, 170), counts(&both, 180)), ([2, 0, 2], [0, 0, 0]), "both are silent");
        let again = seen(&both, "a", 1, 90).unwrap();
        assert_eq!((counts(&again, 90), again.sockets.len()), ([2, 1, 3], 2));
        let left = seen(&again, "a", 0, 100).expect("its socket has closed");
        assert_eq!((counts(&left, 100), left.sockets.len()), ([2, 0, 2], 1));
        assert_eq!(refreshed(&left, 101).sockets, left.sockets);
        assert!(left.end(0).sockets.is_empty());
    }

    #[test]
    fn nothing_personal_is_left_of_an_ended_session() {
        let ended = serde_json::to_string(&session().end(0)).unwrap();
        assert!(!ended.contains("phone") && !ended.contains("browser") && !ended.contains("127.0.0.1"), "{ended}");
    }
}
