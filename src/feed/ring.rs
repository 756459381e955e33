//! The newest changes, kept in memory for all who follow closely.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use metrics::counter;

use super::change::{Change, Kept};
use super::position::Place;
use crate::metrics::FEED_CHANGES;
use crate::store::{Position, Record};

/// How many changes are kept: ten seconds of 200 a second, or fewer large ones ([`Kept`]). Beyond it the oldest go; who
/// still needs them reads the store.
pub const LENGTH: usize = 2048;

/// The ring: changes have consecutive ordinals, which mean something in this process only.
#[derive(Debug)]
pub struct Ring {
    inner: RwLock<Inner>,
    /// The ordinal that the next change will have.
    ///
    /// Who finds nothing here sleeps, and is woken by whoever publishes. The one says "I wait" and then looks at this; the
    /// other sets this and then looks who waits. At least one of the two must see what the other has said, which takes one
    /// order of all four: they are `SeqCst`, since a store that releases may still pass a later load that acquires. The same
    /// holds for `moves`, and for the flags [`Listener::waiting`](super::Listener) and [`Feed::behind`](super::Feed).
    head: AtomicU64,
    /// Counts the moves of the place behind the last change, with or without a change.
    moves: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    changes: VecDeque<Arc<Change>>,
    /// What they take.
    kept: Kept,
    /// The ordinal of the first.
    first: u64,
    /// The numbers, per shard, of everything that came before the first.
    before: Vec<u64>,
    /// The place behind the last.
    after: Arc<Place>,
    own: Own,
}

/// Changes of this node that were told before the store had them final.
#[derive(Debug, Default)]
struct Own {
    /// The newest revision of each user, by the key of the name, and its number.
    told: HashMap<String, (u64, u64)>,
    /// All their numbers.
    numbers: BTreeSet<u64>,
}

/// What is at an ordinal.
#[derive(Debug)]
pub enum Next {
    /// This change.
    Change(Arc<Change>),
    /// Nothing yet.
    Nothing,
    /// It is no longer kept.
    Gone,
}

impl Ring {
    /// An empty ring that begins at a place.
    pub fn new(place: Place) -> Self {
        let place = Arc::new(place);
        let before = place.position.numbers.clone();
        let inner = Inner {
            changes: VecDeque::new(),
            kept: Kept::default(),
            first: 0,
            before,
            after: place,
            own: Own::default(),
        };
        Self { inner: RwLock::new(inner), head: AtomicU64::new(0), moves: AtomicU64::new(0) }
    }

    /// Adds changes, in order, behind which is the place `after`.
    pub fn publish(&self, changes: Vec<Change>, after: Place) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            // One of this node's own was told already, or a newer state of the same user.
            let told = inner.own.told.get(&change.user().username.key());
            if told.is_none_or(|(rev, _)| *rev < change.user().rev) {
                inner.push(change);
            }
        }
        inner.move_on(after);
        self.moves.fetch_add(1, Ordering::SeqCst);
        self.head.store(inner.head(), Ordering::SeqCst);
    }

    /// Adds a change of this node's own before it is final; false when that has been told already.
    pub fn publish_own(&self, record: Record) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let (key, rev, seq) = (record.user.username.key(), record.user.rev, record.seq);
        let final_number =
            inner.after.position.numbers.get(record.shard).filter(|_| inner.after.position.former.is_none());
        if final_number.is_none_or(|number| seq <= *number) {
            return false;
        }
        let follows_own = record.prev_seq.is_some_and(|prev_seq| inner.own.numbers.contains(&prev_seq));
        inner.own.numbers.insert(seq);
        if inner.own.told.get(&key).is_some_and(|(told, _)| *told >= rev) {
            return false;
        }
        inner.own.told.insert(key, (rev, seq));
        let change = Change::own(record, inner.after.clone(), follows_own);
        inner.push(change);
        self.head.store(inner.head(), Ordering::SeqCst);
        true
    }

    /// Whether changes of this node's own were told that were not final yet.
    pub fn has_own(&self) -> bool {
        !self.read().own.numbers.is_empty()
    }

    /// Moves on to a position without reading, when all that is final up to there are changes that were told.
    pub fn move_on_by_own(&self, position: &Position) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Place { position: Position { history, numbers, former: None }, floor: None } = &*inner.after else {
            return false;
        };
        let ([from], [to]) = (numbers.as_slice(), position.numbers.as_slice()) else { return false };
        if *history != position.history || from > to {
            return false;
        }
        if !(from + 1..=*to).all(|number| inner.own.numbers.contains(&number)) {
            return false;
        }
        inner.move_on(Place::complete(position.clone()));
        self.moves.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Begins anew at a place of another data set: everything before is gone.
    pub fn restart(&self, place: Place) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.first = inner.head() + 1;
        inner.changes.clear();
        inner.kept = Kept::default();
        inner.own = Own::default();
        self.moves.fetch_add(1, Ordering::SeqCst);
        (inner.before, inner.after) = (place.position.numbers.clone(), Arc::new(place));
        self.head.store(inner.head(), Ordering::SeqCst);
    }

    /// The ordinal that the next change will have.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::SeqCst)
    }

    /// How often the place behind the last change has moved: what is final has changed since another count.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }

    /// The place behind the last change.
    pub fn place(&self) -> Arc<Place> {
        self.read().after.clone()
    }

    /// What is at an ordinal.
    pub fn get(&self, ordinal: u64) -> Next {
        if ordinal == self.head() {
            return Next::Nothing;
        }
        let inner = self.read();
        let change = ordinal.checked_sub(inner.first).and_then(|at| inner.changes.get(usize::try_from(at).ok()?));
        match change {
            Some(change) => Next::Change(change.clone()),
            None if ordinal == inner.head() => Next::Nothing,
            None => Next::Gone,
        }
    }

    /// Whether everything behind a place is here; `None` for a place that the ring has yet to reach. From the start on it never
    /// is: who asks for all users wants their newest states, and the ring has others as well.
    pub fn covers(&self, place: &Place) -> Option<bool> {
        let inner = self.read();
        let is_start = place.position.numbers.iter().all(|number| *number == 0);
        match !is_start && inner.reaches_back_to(place) {
            true => inner.covers(place).then_some(true),
            false => Some(false),
        }
    }

    /// The changes behind a place that are final, with the place behind them: none for a place that the ring has yet to reach.
    /// `None` where older changes than the ring's are missing, or where there are more than `limit`. `looked` is the ordinal
    /// up to which a former look has given all, and is moved on: 0 for the first look.
    pub fn finals(&self, place: &Place, limit: usize, looked: &mut u64) -> Option<(Vec<Arc<Change>>, Place)> {
        let inner = self.read();
        if !inner.reaches_back_to(place) {
            return None;
        }
        if !inner.covers(place) {
            return Some((Vec::new(), place.clone()));
        }
        let (from, to) = (&place.position.numbers, &inner.after.position.numbers);
        let first = usize::try_from(looked.saturating_sub(inner.first)).unwrap_or(usize::MAX).min(inner.changes.len());
        let (mut changes, mut open) = (Vec::new(), None);
        for (at, change) in inner.changes.iter().enumerate().skip(first) {
            let (shard, seq) = change.number();
            if seq > to[shard] {
                open = open.or(Some(at));
            } else if seq > from[shard] {
                if changes.len() == limit {
                    return None;
                }
                changes.push(change.clone());
            }
        }
        *looked = inner.first + open.unwrap_or(inner.changes.len()) as u64;
        Some((changes, Place::clone(&inner.after)))
    }

    /// The ordinal from which a reader at `place` goes on, or `None` when older changes than the ring's are missing to
    /// it. Behind that ordinal there may be further ones that the place covers.
    pub fn join(&self, place: &Place) -> Option<u64> {
        let inner = self.read();
        let position = &place.position;
        let is_behind = |change: &Arc<Change>| {
            let (shard, seq) = change.number();
            seq > position.numbers[shard]
        };
        inner
            .reaches_back_to(place)
            .then(|| inner.first + inner.changes.iter().position(is_behind).unwrap_or(inner.changes.len()) as u64)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Adds a change, for everyone who looks to see, and drops the oldest while there are too many.
    fn push(&mut self, change: Change) {
        change.keep(&self.kept);
        self.changes.push_back(Arc::new(change));
        while (self.changes.len() > LENGTH || self.kept.is_full())
            && let Some(oldest) = self.changes.pop_front()
        {
            oldest.let_go();
            self.first += 1;
            // By its own number: a change that was told early carries a place before others that are dropped as well.
            let (shard, seq) = oldest.number();
            self.before[shard] = self.before[shard].max(seq);
        }
        counter!(FEED_CHANGES).increment(1);
    }

    /// Everything up to a place was told.
    fn move_on(&mut self, after: Place) {
        // Only for indices of one shard are changes told early.
        let reached = after.position.numbers.first().copied().unwrap_or(0);
        self.own.told.retain(|_, (_, seq)| *seq > reached);
        self.own.numbers.retain(|seq| *seq > reached);
        self.after = Arc::new(after);
    }

    fn head(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// Whether the changes here are all behind a place, up to wherever the ring is by now.
    fn reaches_back_to(&self, Place { position, floor }: &Place) -> bool {
        floor.is_none()
            && position.history == self.after.position.history
            && position.former.is_none()
            && position.covers(&self.before)
    }

    /// The same for a place that is not ahead of the ring.
    fn covers(&self, place: &Place) -> bool {
        self.reaches_back_to(place) && self.after.position.covers(&place.position.numbers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::clock::Time;
    use crate::feed::Scope;
    use crate::users::rules::{self, Act};
    use crate::users::{Attributes, Email, Role, User, Username};
    use crate::view::Form;

    fn at(number: u64) -> Position {
        Position { history: "history".to_owned(), numbers: vec![number], former: None }
    }

    fn alice() -> User {
        let (username, email) = (Username::parse("alice").unwrap(), Email::parse("alice@example.com").unwrap());
        rules::create(username, email, None, Role::User, Act { actor: None, at: Time::from_ms(0), reason: None })
    }

    /// Publishes the next state of a user, by a write of this number.
    fn publish(ring: &Ring, user: &mut User, seq: u64) {
        user.rev = seq;
        let record = Record { user: Arc::new(user.clone()), shard: 0, seq, prev_seq: None, before: None };
        assert!(ring.publish_own(record));
    }

    #[test]
    fn changes_of_this_node_alone_leave_the_ring_too_and_who_has_not_had_them_reads_the_store() {
        let (ring, mut user) = (Ring::new(Place::complete(at(0))), alice());
        let written = LENGTH as u64 + 10;
        for seq in 1..=written {
            publish(&ring, &mut user, seq);
            if seq % 4 == 0 {
                assert!(ring.move_on_by_own(&at(seq)));
            }
        }
        assert_eq!(ring.read().changes.len(), LENGTH);
        assert_eq!(ring.join(&Place::complete(at(9))), None, "the tenth is gone");
        assert_eq!(ring.join(&Place::complete(at(10))), Some(10));
        assert_eq!(ring.join(&Place::complete(at(written))), Some(written));
    }

    #[test]
    fn s21_large_changes_and_their_frames_take_a_bounded_memory() {
        let (ring, mut user) = (Ring::new(Place::complete(at(0))), alice());
        let numbers = to_raw_value(&json!({"numbers": vec![1; 2_000]})).unwrap();
        user.attributes = Attributes::parse(&numbers).unwrap();
        for seq in 1..=LENGTH as u64 {
            publish(&ring, &mut user, seq);
            let Next::Change(change) = ring.get(seq - 1) else { panic!("it was just published") };
            for subscription in 1..=READ_BY {
                change.frame(subscription, Form::Public, Scope::In);
            }
            assert!(ring.read().kept.bytes() <= Kept::MAX);
        }
        let inner = ring.read();
        let frames: usize = READ_BY as usize * inner.changes[0].frame(1, Form::Public, Scope::In).len();
        let each = inner.kept.bytes() / inner.changes.len();
        assert!(each > frames + 4_000, "{each} bytes a change, {frames} of them frames");
        assert!(inner.changes.len() > 100, "{} are kept", inner.changes.len());
        inner.changes.iter().for_each(|change| change.let_go());
        assert_eq!(inner.kept.bytes(), 0);
    }

    /// Subscriptions of different ids that each change is written for.
    const READ_BY: u32 = 4;
}
