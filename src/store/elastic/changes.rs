//! The users index as its own change feed: every write of a document has the shard's next number, and a search may
//! filter and sort by it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::checkpoint::Checkpoint;
use super::client::{Client, Deadline};
use super::document::{FIELDS, FormerPlace, UserDocument, UserFields, before};
use super::documents::{Found, Place};
use super::finding::{self, Copies};
use super::index::Index;
use super::{ElasticStore, former};
use crate::store::{Before, Changes, Position, Record, StoreError};
use crate::users::{Status, User};

/// The most records of one answer: `index.max_result_window` is 10,000.
const PAGE_MAX: usize = 5_000;
/// How often the checkpoint is looked at while it moves, and at the least, while it does not.
const POLL_BUSY: Duration = Duration::from_millis(50);
const POLL_IDLE: Duration = Duration::from_millis(300);
/// The longest pause after what has changed was read. That takes a refresh, which costs the server as much as many writes: so
/// it takes at most one part in `SHARE` of the time.
const PACE_MAX: Duration = Duration::from_millis(250);
const SHARE: u32 = 5;
/// How often it is looked at for a write that is visible already, and how many times.
const POLL_VISIBLE: Duration = Duration::from_millis(20);
const POLLS_VISIBLE: usize = 25;

/// The pause after what has changed was read, which took so long.
pub(super) fn pace(took: Duration) -> Duration {
    (took * (SHARE - 1)).clamp(POLL_BUSY, PACE_MAX)
}

/// The part of a user's document that a change is made of.
#[derive(Deserialize)]
pub(super) struct ChangeDocument {
    #[serde(flatten)]
    fields: UserFields,
    pub(super) prev_seq: Option<u64>,
    before: Option<String>,
    #[serde(default)]
    pub(super) former: BTreeMap<String, FormerPlace>,
}

/// What the users index has written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// The index itself.
    pub(super) index: Arc<Index>,
    /// What is final.
    pub(super) position: Position,
    /// The greatest numbers in use, final or not.
    pub(super) newest: Vec<u64>,
    /// The nodes that say so.
    primaries: Vec<String>,
    /// Whether every copy of the index could be asked.
    is_whole: bool,
}

impl ElasticStore {
    /// What is written by now, asked by way of this client. The next node is asked where one knows less than was final before.
    pub(super) async fn written(&self, client: &Client, deadline: Deadline) -> Result<Written, StoreError> {
        for _ in 0..=client.nodes() {
            let checkpoint = client.checkpoint(&self.names.users, deadline).await?;
            let written = self.written_at(checkpoint, deadline).await?;
            if self.furthest.is_reached_by(&written) {
                return Ok(written);
            }
        }
        Err(StoreError::Unavailable("every node that answers is behind what is final".to_owned()))
    }

    /// The same for the feed, which looks after the sessions by the way.
    async fn look(&self, deadline: Deadline) -> Result<Written, StoreError> {
        let names = [self.names.users.as_str(), self.names.sessions.as_str()];
        let [users, sessions] = self.feed.checkpoints(names, deadline).await?;
        if let Ok(sessions) = sessions {
            self.sessions_looked.send_replace(Some((Instant::now(), sessions)));
        }
        let written = self.written_at(users?, deadline).await?;
        if self.furthest.is_reached_by(&written) { Ok(written) } else { self.written(&self.feed, deadline).await }
    }

    async fn written_at(&self, checkpoint: Checkpoint, deadline: Deadline) -> Result<Written, StoreError> {
        let Checkpoint { index, history, written, newest, primaries, is_whole } = checkpoint;
        let index = self.users_index(&index, deadline).await?;
        // A shard that is not there at all is not among the answers either.
        if written.len() != index.shards {
            return Err(StoreError::Unavailable("a shard of the users has no primary".to_owned()));
        }
        let position = Position { history, numbers: written, former: None };
        Ok(Written { index, position, newest, primaries, is_whole })
    }

    /// What is written, and a position as one of the index of now.
    ///
    /// Errors: `BadPosition` once every node has said that it is none, and nothing suggests that one of them is cut off from
    /// the others; otherwise `Unavailable`.
    async fn placed(&self, after: &Position, deadline: Deadline) -> Result<(Written, Position), StoreError> {
        let mut is_whole = true;
        for _ in 0..=self.feed.nodes() {
            let written = self.look(deadline).await?;
            if let Some(position) = former::translate(after, &written) {
                return Ok((written, position));
            }
            is_whole &= written.is_whole;
        }
        if is_whole {
            return Err(StoreError::BadPosition);
        }
        Err(StoreError::Unavailable(
            "a position is not known while not every copy of the users can be asked".to_owned(),
        ))
    }

    /// The newest states behind a position that are final.
    pub(super) async fn changes(
        &self,
        after: &Position,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Changes, StoreError> {
        let limit = limit.min(PAGE_MAX);
        let (written, mut position) = self.placed(after, deadline).await?;
        if position.numbers.iter().zip(&written.position.numbers).any(|(from, to)| from < to) {
            // Whatever is final by now must be found, in this very index: the alias may name another by now.
            self.shown.catch_up(&self.feed, &written, deadline).await?;
        }
        let (mut records, mut more, mut complete) = (Vec::new(), false, true);
        let (start, mut hiding) = (position.clone(), vec![0; position.numbers.len()]);
        for (shard, hiding) in hiding.iter_mut().enumerate() {
            let (from, to) = (position.numbers[shard], written.position.numbers[shard]);
            if from >= to {
                complete &= written.newest[shard] <= to;
                continue;
            }
            let room = limit - records.len();
            let mut found = self.shard_changes(&written, shard, from, &position, room, deadline).await?;
            // What is not final yet may be visible, and then hides the state that it replaced.
            let mut visible: Vec<Record> = found.extract_if(.., |record| record.seq > to).collect();
            more = found.len() > room;
            if more {
                // It may hide one of this page from beyond its end.
                visible = self.shard_changes(&written, shard, to, &position, PAGE_MAX, deadline).await?;
            }
            complete &= visible.is_empty();
            for record in &visible {
                if record.prev_seq.is_some_and(|prev_seq| prev_seq > from) {
                    *hiding = record.seq.max(*hiding);
                }
            }
            records.extend(found.into_iter().take(room));
            // A number whose state was replaced since is found no more, so the last one found need not be the last.
            position.numbers[shard] = match records.last() {
                Some(last) if more && last.shard == shard => last.seq,
                _ if more => from,
                _ => to,
            };
            if more {
                break;
            }
        }
        let may_hide = more || hiding.iter().any(|number| *number > 0);
        if may_hide && !self.becomes_final(&hiding, &written, deadline).await? {
            // Without it, the hidden state is the newest: the position must not be behind that before it was told.
            return Ok(Changes { records: Vec::new(), position: start, more: true, complete: false });
        }
        if !more {
            position.former = None;
        }
        Ok(Changes { records, position, more, complete: complete && !more })
    }

    /// Whether the writes up to these numbers, which are visible, become final soon: a primary that takes over need not
    /// have them.
    async fn becomes_final(&self, numbers: &[u64], seen: &Written, deadline: Deadline) -> Result<bool, StoreError> {
        for _ in 0..POLLS_VISIBLE {
            let now = self.written(&self.feed, deadline).await?;
            if now.position.history != seen.position.history || now.primaries != seen.primaries {
                break;
            }
            if now.position.covers(numbers) {
                return Ok(true);
            }
            tokio::time::sleep(POLL_VISIBLE).await;
        }
        Ok(false)
    }

    /// The newest states of a shard with numbers above `from`, in their order: `room` of them, and one more where there
    /// are more.
    async fn shard_changes(
        &self,
        written: &Written,
        shard: usize,
        from: u64,
        position: &Position,
        room: usize,
        deadline: Deadline,
    ) -> Result<Vec<Record>, StoreError> {
        let index = &written.index;
        let mut filter = vec![json!({"range": {"_seq_no": {"gte": from}}})];
        filter.extend(former::conditions(position, &index.meta));
        let fields: Vec<&str> = FIELDS.iter().copied().chain(["prev_seq", "before", "former"]).collect();
        let body = json!({
            "query": {"bool": {"filter": filter}},
            "sort": [{"_seq_no": "asc"}],
            "size": room + 1,
            "track_total_hits": false,
            "_source": fields,
        });
        // The copy whose numbers these are.
        let copy = Copies::On(shard, &written.primaries[shard]);
        let found = self.feed.find(&index.name, copy, &body, deadline).await?;
        let record = |hit: finding::Hit<ChangeDocument>| {
            let seq_no = hit.sort.first().and_then(Value::as_u64);
            let seq_no = seq_no.ok_or_else(|| StoreError::Unexpected("a change has no number".to_owned()))?;
            let user = User::try_from(&hit.source.fields)?;
            // A new user has replaced nothing, unless the state was written once more.
            let has_replaced = user.rev > 1 || hit.source.prev_seq.is_some();
            let prev_seq = has_replaced.then(|| former::prev_seq(&hit.source, position, &index.meta));
            Ok(Record {
                prev_seq,
                before: before(hit.source.before.as_deref())?,
                user: Arc::new(user),
                shard,
                seq: seq_no + 1,
            })
        };
        found.hits.into_iter().map(record).collect()
    }

    /// The change that a write of ours has made, as the feed will give it. `None` where only the index knows its shard.
    pub(super) fn own_change(&self, user: &User, old: Option<&Found<UserDocument>>, place: &Place) -> Option<Record> {
        let index = self.users.read().unwrap_or_else(PoisonError::into_inner).clone();
        if index.shards != 1 || index.name != place.index {
            return None;
        }
        let before = old.filter(|_| user.status != Status::Erased).map(|old| User::try_from(&old.document.fields));
        Some(Record {
            user: Arc::new(user.clone()),
            shard: 0,
            seq: place.number(),
            prev_seq: old.map(|old| old.place.number()),
            before: before.transpose().ok()?.as_ref().map(Before::of),
        })
    }

    /// Returns once something was written since the last return; may return early. For one caller at a time.
    pub(super) async fn wait_for_changes(&self) {
        let mut watch = self.watch.lock().await;
        loop {
            tokio::time::sleep_until(watch.next).await;
            let now = self.look(self.deadline()).await.ok().map(|written| written.position);
            // What cannot be read now may well have changed.
            let has_moved = now.is_none() || watch.seen != now;
            watch.pause = if has_moved { POLL_BUSY } else { (watch.pause * 2).min(POLL_IDLE) };
            watch.next = Instant::now() + watch.pause;
            if has_moved {
                watch.seen = now;
                return;
            }
        }
    }
}

/// What [`ElasticStore::wait_for_changes`] knows from one call to the next.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Option<Position>,
    /// When to look next, and how long after that once more.
    next: Instant,
    pause: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self { seen: None, next: Instant::now(), pause: POLL_BUSY }
    }
}
