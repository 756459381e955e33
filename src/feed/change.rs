//! One change: judged by any filter, written at most once for all who are sent the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::position::Place;
use crate::clock::Time;
use crate::permission::Field;
use crate::store::{Before, Changes, Record};
use crate::users::filter::{Facts, Filter};
use crate::users::fold::fold;
use crate::users::{ChangeKind, User, Username};
use crate::view::{Form, UserView};

/// The most frames that are kept ready for others: one for each of the small ids that sockets share.
const READY_FRAMES_MAX: usize = 64;

/// How a change looks through a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The user matches now.
    In,
    /// The user does not, but did, or may have in a state that was passed over.
    Out,
}

/// A user's newest state, at its place in the feed.
#[derive(Debug)]
pub struct Change {
    record: Record,
    /// Whether the reader had come as far as the replaced state, so that `before` alone tells what it held.
    knows_before: bool,
    /// Where a reader stands who has this change.
    pub place: Arc<Place>,
    facts: OnceLock<(Facts, Option<Facts>)>,
    ready: Mutex<Ready>,
}

/// The frames that a change keeps for others.
#[derive(Debug, Default)]
struct Ready {
    frames: Vec<(Key, Utf8Bytes)>,
    /// Where the change is counted while it is kept, and its bytes there.
    kept: Option<(Kept, usize)>,
}

/// What changes take that are kept in memory, with the frames that they keep ready.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<AtomicUsize>);

impl Kept {
    /// The most bytes: beyond it no more frames are kept ready.
    pub const MAX: usize = 16 << 20;
    /// Those of them that stay free for the frames of the next changes.
    const ROOM: usize = 4 << 20;

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether the oldest change should go.
    pub fn is_full(&self) -> bool {
        self.bytes() > Self::MAX - Self::ROOM
    }
}

/// What frames of one change differ by: the subscription's id, the fields shown and the scope.
type Key = (u32, Form, Scope);

/// The params of `users.changed` but for the subscription.
#[derive(Serialize)]
struct Body<'a> {
    position: String,
    scope: Scope,
    kind: ChangeKind,
    user: Shown<'a>,
    fields: Vec<&'a str>,
    actor: &'a Option<Username>,
    at: Time,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Whole(UserView),
    Name { username: &'a Username, rev: u64 },
}

impl Change {
    /// A change behind a place up to which every state was `seen`, per shard.
    fn new(record: Record, place: Arc<Place>, seen: &[u64]) -> Self {
        let knows_before = record.prev_seq.is_none_or(|prev_seq| prev_seq <= seen[record.shard]);
        Self { knows_before, place, facts: OnceLock::new(), ready: Mutex::default(), record }
    }

    /// A change of this node's own, told before it is final: it carries the place before everything that is not.
    /// `follows_own` is whether the replaced state was told in the same way.
    pub fn own(record: Record, place: Arc<Place>, follows_own: bool) -> Self {
        let change = Self::new(record, place.clone(), place.seen());
        Self { knows_before: change.knows_before || follows_own, ..change }
    }

    /// The shard and the number of the write.
    pub fn number(&self) -> (usize, u64) {
        (self.record.shard, self.record.seq)
    }

    /// The newest state.
    pub fn user(&self) -> &Arc<User> {
        &self.record.user
    }

    /// How it looks through a filter; `None` for a user outside of it before and now.
    pub fn scope(&self, filter: Option<&Filter>) -> Option<Scope> {
        let Some(filter) = filter else { return Some(Scope::In) };
        let (now, before) = self.facts.get_or_init(|| {
            let before = self.record.before.as_ref().map(|before| facts_before(&self.record.user, before));
            (Facts::of(&self.record.user), before)
        });
        if filter.matches_facts(now) {
            return Some(Scope::In);
        }
        let held = match (before, self.record.prev_seq) {
            (_, None) => false,
            (Some(before), Some(_)) if self.knows_before => filter.matches_facts(before),
            (_, Some(_)) => true,
        };
        held.then_some(Scope::Out)
    }

    /// The params of `users.changed`, as JSON, but for the subscription. `place` is where a reader stands who has it.
    pub fn body(&self, place: &Place, form: Form, scope: Scope) -> String {
        let user = &self.record.user;
        let change = &user.last_change;
        let shown = |name: &str| Field::ALL.iter().any(|&field| field.name() == name && form.shows(field));
        let body = Body {
            position: place.encode(),
            scope,
            kind: change.kind,
            user: match scope {
                Scope::In => Shown::Whole(UserView::in_form(user.clone(), form)),
                Scope::Out => Shown::Name { username: &user.username, rev: user.rev },
            },
            fields: change.fields.iter().map(String::as_str).filter(|name| shown(name)).collect(),
            actor: &change.actor,
            at: change.at,
        };
        serde_json::to_string(&body).expect("a change is plain data")
    }

    /// Counts it among those that are kept, with its frames, from now on.
    pub fn keep(&self, kept: &Kept) {
        let bytes = self.bytes();
        kept.0.fetch_add(bytes, Ordering::Relaxed);
        self.ready().kept = Some((kept.clone(), bytes));
    }

    /// It is no longer kept.
    pub fn let_go(&self) {
        if let Some((kept, bytes)) = self.ready().kept.take() {
            kept.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// About what it takes without its frames: the state, twice its text, and the JSON of both forms.
    pub fn bytes(&self) -> usize {
        let user = &self.record.user;
        let text = to_raw_value(&UserView::in_form(user.clone(), Form::Public)).expect("a user is plain data");
        size_of::<Self>() + size_of::<User>() + 4 * text.get().len()
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame of `users.changed` for a subscription of this id.
    pub fn frame(&self, subscription: u32, form: Form, scope: Scope) -> Utf8Bytes {
        let key = (subscription, form, scope);
        let mut ready = self.ready();
        if let Some((_, frame)) = ready.frames.iter().find(|(other, _)| *other == key) {
            return frame.clone();
        }
        let body = self.body(&self.place, form, scope);
        let members = body.strip_prefix('{').expect("a body is an object");
        let frame = format!(
            r#"{{"jsonrpc":"2.0","method":"users.changed","params":{{"subscription":{subscription},{members}}}"#
        );
        let frame = Utf8Bytes::from(frame);
        let has_room = ready.kept.as_ref().is_none_or(|(kept, _)| kept.bytes() + frame.len() <= Kept::MAX);
        if ready.frames.len() < READY_FRAMES_MAX && has_room {
            if let Some((kept, bytes)) = &mut ready.kept {
                kept.0.fetch_add(frame.len(), Ordering::Relaxed);
                *bytes += frame.len();
            }
            ready.frames.push((key, frame.clone()));
        }
        frame
    }
}

/// The changes of a page that was read behind `from`, and the place behind them.
pub fn changes_of(from: &Place, page: Changes) -> (Vec<Change>, Place) {
    // Numbers of another index say nothing here; of states that were replaced there the store tells by 0 what is known.
    let crosses = from.position.history != page.position.history;
    let seen = if crosses { vec![0; page.position.numbers.len()] } else { from.seen().to_vec() };
    let floor = Some(&seen).filter(|seen| !page.complete && **seen != page.position.numbers).cloned();
    let after = Place { position: page.position, floor };
    let mut position = from.position.clone();
    let count = page.records.len();
    let changes = page.records.into_iter().enumerate().map(|(at, record)| {
        // Before a new index is read to its end, only the store knows where that leads.
        if !crosses && position.former.is_none() {
            position.numbers[record.shard] = record.seq;
        }
        let place = if at + 1 == count {
            after.clone()
        } else {
            Place { position: position.clone(), floor: Some(from.seen().to_vec()) }
        };
        Change::new(record, Arc::new(place), &seen)
    });
    (changes.collect(), after)
}

fn facts_before(user: &User, before: &Before) -> Facts {
    Facts {
        username: user.username.key(),
        display_name: fold(&before.display_name),
        email: before.email.as_deref().map(fold),
        status: before.status,
        role: before.role,
        created_at: user.created_at,
        updated_at: before.updated_at,
        rev: before.rev,
    }
}

#[cfg(test)]
mod tests;
