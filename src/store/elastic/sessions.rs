//! Sessions as documents, and how the end of one becomes known to every gateway.
//!
//! An ended session stays as a document that says so until it expires. The index has one shard, and every write has its
//! next number: whoever looks for ended sessions behind the last number seen misses none. The user's document could tell
//! of it instead, by a number that every end makes greater, and spare this second tail; but then each logout would be a
//! change of the user, written where profiles are and sent to everyone who follows the feed.

use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ElasticStore;
use super::checkpoint::Checkpoint;
use super::client::Deadline;
use super::documents::{DocId, Document, Found, Ops, Outcome, When, WriteError};
use super::finding::Copies;
use crate::store::StoreError;
use crate::users::{Session, Username};

/// The most sessions of one search: `index.max_result_window` is 10,000.
const PAGE: usize = 10_000;

/// When the tail has looked at the sessions not longer ago, nobody else needs to.
const LOOKED_LATELY: Duration = Duration::from_millis(500);

/// How many sessions a login deletes at most, and how many are too many at once.
const ROOM_AT_ONCE: usize = 20;

/// One session. Times are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionDocument {
    user_key: String,
    ended: bool,
    created_at: i64,
    expires_at: i64,
    /// JSON of [`Session`].
    session: String,
    ops: Ops,
}

impl Document for SessionDocument {
    const IS_DELETED: bool = true;

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

impl SessionDocument {
    fn new(session: &Session, ops: Ops) -> Self {
        Self {
            user_key: session.user.key(),
            ended: session.ended,
            created_at: session.created_at.ms(),
            expires_at: session.expires_at.ms(),
            session: serde_json::to_string(session).expect("a session has only string keys"),
            ops,
        }
    }

    fn session(&self) -> Result<Session, StoreError> {
        serde_json::from_str(&self.session)
            .map_err(|_| StoreError::Unexpected("a document of a session is damaged".to_owned()))
    }
}

impl ElasticStore {
    /// Keeps a new session.
    pub(super) async fn create_session(&self, session: &Session, deadline: Deadline) -> Result<(), StoreError> {
        self.unheld(deadline, || Box::pin(self.try_create_session(session, deadline))).await
    }

    async fn try_create_session(&self, session: &Session, deadline: Deadline) -> Result<(), WriteError> {
        let document = SessionDocument::new(session, Ops::default().next());
        let when = When::Absent(&self.names.sessions);
        match self.client.write(&DocId::of_session(session.id), when, &document, deadline).await? {
            Outcome::Done(_) | Outcome::Followed(_) => Ok(()),
            Outcome::Conflict(_) => Err(StoreError::RevConflict { current_rev: session.rev }.into()),
        }
    }

    /// Deletes some sessions of the same user that expired long ago, and gives some that are too many. Of neither does it
    /// see what was written since the index was last refreshed, a second ago at most: a refresh for each login would cost more.
    pub(super) async fn make_room(
        &self,
        session: &Session,
        max: usize,
        deadline: Deadline,
    ) -> Result<Vec<Session>, StoreError> {
        let of_user = json!({"term": {"user_key": session.user.key()}});
        let long_ago = json!({"range": {"expires_at": {"lt": session.clears_before().ms()}}});
        let search = search(&json!([of_user, long_ago]), &json!([{"expires_at": "asc"}]), ROOM_AT_ONCE, None);
        let expired = self.client.find::<IgnoredAny>(&self.names.sessions, Copies::All, &search, deadline).await?.hits;
        for id in expired.iter().filter_map(|hit| Uuid::parse_str(&hit.id).ok()) {
            if let Some(found) = self.session_found(id, deadline).await? {
                self.client.delete(&DocId::of_session(id), &found.place, deadline).await;
            }
        }
        let query = json!({"bool": {"filter": [of_user, {"term": {"ended": false}}],
            "must_not": {"ids": {"values": [session.id.to_string()]}}}});
        let search = json!({"query": query, "sort": [{"expires_at": "desc"}, {"created_at": "desc"}],
            "from": max.saturating_sub(1), "size": ROOM_AT_ONCE, "track_total_hits": false});
        let surplus =
            self.client.find::<SessionDocument>(&self.names.sessions, Copies::All, &search, deadline).await?.hits;
        surplus.iter().map(|hit| hit.source.session()).collect()
    }

    /// One session.
    pub(super) async fn session(&self, id: Uuid, deadline: Deadline) -> Result<Option<Session>, StoreError> {
        self.session_found(id, deadline).await?.map(|found| found.document.session()).transpose()
    }

    /// One session, whose document is kept for the replacement that follows. Should that come late, its condition says so.
    pub(super) async fn session_to_replace(&self, id: Uuid, deadline: Deadline) -> Result<Option<Session>, StoreError> {
        let Some(found) = self.session_found(id, deadline).await? else { return Ok(None) };
        let session = found.document.session()?;
        self.sessions_to_replace.insert(id, Arc::new(found));
        Ok(Some(session))
    }

    async fn session_found(&self, id: Uuid, deadline: Deadline) -> Result<Option<Found<SessionDocument>>, StoreError> {
        self.client.get(&self.names.sessions, &DocId::of_session(id), deadline).await
    }

    /// Replaces the state before `session`.
    pub(super) async fn replace_session(&self, session: &Session, deadline: Deadline) -> Result<(), StoreError> {
        self.unheld(deadline, || Box::pin(self.try_replace_session(session, deadline))).await
    }

    async fn try_replace_session(&self, session: &Session, deadline: Deadline) -> Result<(), WriteError> {
        let follows = |found: &Found<SessionDocument>| {
            let current_rev = found.document.session()?.rev;
            if Some(current_rev) == session.rev.checked_sub(1) {
                return Ok(());
            }
            Err(StoreError::RevConflict { current_rev })
        };
        let read = self.sessions_to_replace.remove(&session.id).map(|(_, found)| found);
        let found = match read.filter(|found| follows(found).is_ok()) {
            Some(found) => found,
            None => Arc::new(self.session_found(session.id, deadline).await?.ok_or(StoreError::NotFound)?),
        };
        follows(&found)?;
        let document = SessionDocument::new(session, found.document.ops.next());
        let when = When::At(&found.place);
        match self.client.write(&DocId::of_session(session.id), when, &document, deadline).await? {
            Outcome::Done(_) | Outcome::Followed(_) => Ok(()),
            Outcome::Conflict(Some(now)) => {
                Err(StoreError::RevConflict { current_rev: now.document.session()?.rev }.into())
            }
            Outcome::Conflict(None) => Err(StoreError::NotFound.into()),
        }
    }

    /// The sessions of a user that were not ended, oldest first.
    pub(super) async fn open_sessions(&self, user: &Username, deadline: Deadline) -> Result<Vec<Session>, StoreError> {
        // What other gateways have written counts, too.
        let written = self.client.checkpoint(&self.names.sessions, deadline).await?;
        self.sessions_shown.catch_up(&self.client, &written, deadline).await?;
        let filter = json!([{"term": {"user_key": user.key()}}, {"term": {"ended": false}}]);
        let sort = json!([{"created_at": "asc"}, {"_seq_no": "asc"}]);
        let (mut sessions, mut after) = (Vec::new(), None);
        // A script that logs in for each of its calls has more than one search gives: none may be left out of an end of all.
        loop {
            let search = search(&filter, &sort, PAGE, after);
            let hits = self.client.find::<SessionDocument>(&written.index, Copies::All, &search, deadline).await?.hits;
            after = hits.last().map(|last| last.sort.clone());
            let count = hits.len();
            for hit in hits {
                sessions.push(hit.source.session()?);
            }
            if count < PAGE {
                return Ok(sessions);
            }
        }
    }

    /// Returns once sessions were written since they were last looked for, as far as the tail has seen.
    pub(super) async fn wait_for_ended_sessions(&self) {
        let seen = self.sessions_seen.lock().await.clone();
        let mut looked = self.sessions_looked.subscribe();
        let is_news = |now: &Checkpoint| seen.as_ref().is_none_or(|seen| !seen.agrees_with(now));
        // The sender lives as long as this store.
        let _ = looked.wait_for(|looked| looked.as_ref().is_some_and(|(_, now)| is_news(now))).await;
    }

    /// The sessions that were ended since the last call.
    pub(super) async fn ended_sessions(&self, deadline: Deadline) -> Result<Vec<Session>, StoreError> {
        let looked = self.sessions_looked.borrow().clone();
        let now = match looked {
            Some((at, now)) if at.elapsed() < LOOKED_LATELY => now,
            _ => self.feed.checkpoint(&self.names.sessions, deadline).await?,
        };
        let mut place = self.sessions_seen.lock().await;
        let seen = place.get_or_insert_with(|| now.clone());
        if seen.agrees_with(&now) {
            return Ok(Vec::new());
        }
        if seen.history == now.history && now.newest < seen.written {
            return Err(StoreError::Unavailable(
                "a node that answers is behind the sessions that were seen".to_owned(),
            ));
        }
        // Another index, moved there or restored, has other numbers: all its ended sessions are read.
        let from = if seen.history == now.history { seen.written.first().copied().unwrap_or(0) } else { 0 };
        self.feed.refresh(&now.index, deadline).await?;
        let filter = json!([{"range": {"_seq_no": {"gte": from}}}, {"term": {"ended": true}}]);
        let search = search(&filter, &json!([{"_seq_no": "asc"}]), PAGE, None);
        let primary = now.primaries.first().map_or(Copies::All, |node| Copies::On(0, node));
        let hits = self.feed.find::<SessionDocument>(&now.index, primary, &search, deadline).await?.hits;
        let ended = hits.iter().map(|hit| hit.source.session()).collect::<Result<Vec<_>, _>>()?;
        *seen = match hits.last().and_then(|hit| hit.sort.first()?.as_u64()) {
            // There may be more; the last one is given again.
            Some(last) if hits.len() == PAGE => Checkpoint { written: vec![last], ..now },
            _ => now,
        };
        Ok(ended)
    }
}

/// A search in order, behind the place where the one before ended.
fn search(filter: &Value, sort: &Value, size: usize, after: Option<Vec<Value>>) -> Value {
    let query = json!({"bool": {"filter": filter}});
    let mut search = json!({"query": query, "sort": sort, "size": size, "track_total_hits": false});
    if let Some(after) = after {
        search["search_after"] = Value::Array(after);
    }
    search
}
