//! Documents by id: read in real time, and written so that the outcome is known.
//!
//! Elasticsearch may answer 409, or nothing, for a write that it applied. So each write carries a nonce among the
//! document's last `ops`; what is in doubt is sent again under the same condition, and a conflict is read back: either
//! our nonce is there, or the write has not taken effect and, its condition being gone, never will. A copy of the shard
//! that is behind may be the one that is read; it shows the state from before the conflict, and is asked again. Until the
//! conflict has been read back, the write is in doubt: no later failure can tell that it did not happen.

use std::collections::HashMap;
use std::time::Duration;

use elasticsearch::http::Method;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::client::{Answer, Client, Deadline, Effect, Failure, Kind, Request};
use super::finding::Hit;
use super::index::own_alias;
use crate::store::StoreError;
use crate::users::{Email, Username};

/// How many of its writes a document remembers: the first one, by which who created it is known for good, and the last.
const OPS_REMEMBERED: usize = 8;
/// The longest pause before a write is sent again whose conflict could not be read back from a copy that is behind.
const BEHIND: Duration = Duration::from_millis(50);
/// How long a document that others delete must be found missing after a conflict before it counts as deleted.
const DELETED_AFTER: Duration = Duration::from_millis(250);

/// The id of a document. Made of checked names only, so that no text from outside can become part of an address; its
/// characters mean nothing in a URL, and it begins with a letter or digit, so it is never `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DocId(String);

impl DocId {
    /// The id of a user: the key of the name.
    pub(super) fn of_user(username: &Username) -> Self {
        Self(username.key())
    }

    /// The id of a reservation: a hash, so that no address is in a URL or a log.
    pub(super) fn of_email(email: &Email) -> Self {
        let hash = Sha256::digest(email.key());
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The id of a session.
    pub(super) fn of_session(id: Uuid) -> Self {
        Self(id.to_string())
    }

    /// The id of a document that was found.
    pub(super) fn of_hit<T>(hit: &Hit<T>) -> Self {
        Self(hit.id.clone())
    }

    /// A document of which there is one.
    pub(super) fn one(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl From<DocId> for String {
    fn from(id: DocId) -> Self {
        id.0
    }
}

/// The nonce of one write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Op(String);

impl Op {
    /// A new one.
    pub(super) fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }
}

/// The writes of a document that it remembers, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ops(Vec<Op>);

impl Ops {
    /// These and a new one before them.
    pub(super) fn next(&self) -> Self {
        let mut ops: Vec<Op> = std::iter::once(Op::new()).chain(self.0.iter().cloned()).collect();
        if ops.len() > OPS_REMEMBERED {
            ops.remove(OPS_REMEMBERED - 1);
        }
        Self(ops)
    }

    fn newest(&self) -> Option<&Op> {
        self.0.first()
    }

    fn contains(&self, op: &Op) -> bool {
        self.0.contains(op)
    }

    /// Whether the newest write of `written` must be among these if it was ever done: it was to create the document, or
    /// these go back without a gap to the write before it.
    fn would_tell_of(&self, written: &Self) -> bool {
        let last = &self.0[..self.0.len().min(OPS_REMEMBERED - 1)];
        self.0.len() < OPS_REMEMBERED || written.0.get(1).is_none_or(|before| last.contains(before))
    }
}

/// A kind of document.
pub(super) trait Document: Serialize + DeserializeOwned {
    /// Whether documents of this kind are ever deleted. One that never is, and was read before, is missing only on a copy
    /// that is behind.
    const IS_DELETED: bool;

    /// Its last writes. Before a document is written again it gets [`Ops::next`] of them.
    fn ops(&self) -> &Ops;
}

/// Which state of a document was read: what the next write replaces, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The index itself, not its alias: numbers of another index mean something else.
    pub(super) index: String,
    /// Counts the writes of the shard, from 0.
    pub(super) seq_no: u64,
    /// Counts the primaries of the shard.
    pub(super) primary_term: u64,
}

impl Place {
    /// The number of the state: 0 is before the first, while Elasticsearch counts from 0.
    pub(super) fn number(&self) -> u64 {
        self.seq_no + 1
    }
}

/// A document as it was read.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// Its state's.
    pub(super) place: Place,
    /// Its content.
    pub(super) document: T,
}

/// On which condition a document is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum When<'a> {
    /// There is none under this alias.
    Absent(&'a str),
    /// It is in the state that was read.
    At(&'a Place),
}

impl When<'_> {
    /// Whether what was read after a conflict is older than that: the condition still holds there.
    fn is_met_by<T>(self, now: Option<&Found<T>>) -> bool {
        match self {
            Self::Absent(_) => now.is_none(),
            Self::At(place) => now.is_none_or(|now| now.place.index == place.index && now.place.seq_no <= place.seq_no),
        }
    }
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It was done: the state it made.
    Done(Place),
    /// It was done, and others have followed: the document now.
    Followed(Found<T>),
    /// It was not, and will not be, since the condition does not hold. The document now; of a kind that is deleted also
    /// `None`: it has been deleted, before the write or after it.
    Conflict(Option<Found<T>>),
}

/// A write that did not happen or may not have happened.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The index takes no writes until `doorward migrate` has finished: begin anew, with reading. Nothing was changed.
    Held,
    /// So many others have followed that the document does not remember whether this one was done.
    Overtaken,
    /// Any other reason.
    Failed(StoreError),
}

impl WriteError {
    /// Whether it may have happened after all.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Overtaken | Self::Failed(StoreError::OutcomeUnknown(_)))
    }

    /// The error of an operation whose own write has not begun: nothing was changed, whatever became of this one.
    pub(super) fn before_the_change(self) -> Self {
        match self {
            Self::Failed(StoreError::OutcomeUnknown(cause)) => Self::Failed(StoreError::Unavailable(cause)),
            error => error,
        }
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Deserialize)]
struct GetAnswer<T> {
    #[serde(rename = "_index")]
    index: String,
    #[serde(rename = "_id", default)]
    id: String,
    #[serde(default)]
    found: bool,
    #[serde(rename = "_seq_no", default)]
    seq_no: u64,
    #[serde(rename = "_primary_term", default)]
    primary_term: u64,
    #[serde(rename = "_source")]
    source: Option<T>,
    /// Of a document among many whose shard could not be asked.
    error: Option<IgnoredAny>,
}

impl<T> GetAnswer<T> {
    fn into_found(self) -> Option<Found<T>> {
        let place = Place { index: self.index, seq_no: self.seq_no, primary_term: self.primary_term };
        self.source.filter(|_| self.found).map(|document| Found { place, document })
    }
}

/// The documents of an alias's index.
impl Client {
    /// One document, or `None`. Sees every write that has returned.
    /// Source: Elasticsearch Get API (realtime).
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        alias: &str,
        id: &DocId,
        deadline: Deadline,
    ) -> Result<Option<Found<T>>, StoreError> {
        self.get_by(&Request::new(Method::Get, format!("/{alias}/_doc/{}", id.0)), deadline).await
    }

    /// The same of one field.
    pub(super) async fn get_field<T: DeserializeOwned>(
        &self,
        alias: &str,
        id: &DocId,
        field: &str,
        deadline: Deadline,
    ) -> Result<Option<Found<T>>, StoreError> {
        let path = format!("/{alias}/_doc/{}?_source_includes={field}", id.0);
        self.get_by(&Request::new(Method::Get, path), deadline).await
    }

    async fn get_by<T: DeserializeOwned>(
        &self,
        request: &Request,
        deadline: Deadline,
    ) -> Result<Option<Found<T>>, StoreError> {
        let answer = self.send(request, deadline).await?;
        // A missing index is 404, too, but has an error.
        if !answer.is_success() && (answer.status != 404 || !answer.error_type().is_empty()) {
            return Err(answer.unexpected().into());
        }
        Ok(answer.read::<GetAnswer<T>>()?.into_found())
    }

    /// These `fields` of those documents that exist, by id. Sees every write that has returned.
    /// Source: Elasticsearch Multi get API (realtime).
    pub(super) async fn get_many<T: DeserializeOwned>(
        &self,
        alias: &str,
        ids: &[DocId],
        fields: &str,
        deadline: Deadline,
    ) -> Result<HashMap<String, T>, StoreError> {
        #[derive(Deserialize)]
        #[serde(bound = "T: DeserializeOwned")]
        struct Answers<T> {
            docs: Vec<GetAnswer<T>>,
        }
        let ids: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        let request =
            Request::json(Method::Post, format!("/{alias}/_mget?_source_includes={fields}"), &json!({"ids": ids}));
        let read = |answer: Answer| match answer.read_done()? {
            Answers { docs } if docs.iter().any(|doc: &GetAnswer<T>| doc.error.is_some()) => {
                Err(Failure::passing("a part of the index gave no answer".to_owned()))
            }
            Answers { docs } => Ok(docs),
        };
        let docs = self.send_until(&request, deadline, read).await?;
        let documents = docs.into_iter().filter_map(|doc| {
            let id = doc.id.clone();
            doc.into_found().map(|found| (id, found.document))
        });
        Ok(documents.collect())
    }

    /// Writes a document on a condition, and finds out what became of it.
    /// Source: Elasticsearch Index API with `op_type=create`, or with `if_seq_no` and `if_primary_term`.
    pub(super) async fn write<T: Document>(
        &self,
        id: &DocId,
        when: When<'_>,
        document: &T,
        deadline: Deadline,
    ) -> Result<Outcome<T>, WriteError> {
        let (target, condition) = match when {
            When::Absent(alias) => (alias.to_owned(), "op_type=create".to_owned()),
            When::At(place) => {
                (own_alias(&place.index), format!("if_seq_no={}&if_primary_term={}", place.seq_no, place.primary_term))
            }
        };
        let op = document.ops().newest().expect("a document that is written has a new op");
        let body = serde_json::to_value(document).expect("documents have only string keys");
        // A shard without a primary is waited for as long as one attempt takes.
        let path = format!("/{target}/_doc/{}?{condition}&require_alias=true&timeout=1s", id.0);
        let write = Request::json(Method::Put, path, &body).resolving();
        let read_back = Request::new(Method::Get, format!("/{target}/_doc/{}", id.0)).resolving();
        // Whether there was a conflict that no copy has shown yet: our own write may have made it.
        let mut in_doubt = false;
        let mut missing_since = None;
        loop {
            let failure = match self.send(&write, deadline).await {
                Ok(answer) if answer.is_success() => return Ok(Outcome::Done(place_of(&answer)?)),
                Ok(answer) if answer.status == 409 => None,
                Ok(answer) => Some(answer.unexpected()),
                Err(failure) => Some(failure),
            };
            if let Some(failure) = &failure
                && failure.effect == Effect::None
                && !in_doubt
            {
                return Err(not_written(failure));
            }
            let now: Option<Found<T>> = self
                .get_by(&read_back, deadline)
                .await
                .map_err(|error| StoreError::OutcomeUnknown(format!("a write could not be read back: {error}")))?;
            match (now, failure) {
                (Some(now), _) if now.document.ops().newest() == Some(op) => return Ok(Outcome::Done(now.place)),
                (Some(now), _) if now.document.ops().contains(op) => return Ok(Outcome::Followed(now)),
                // Not there now, but it may still be on its way, or be missing on the copy that was read.
                (_, Some(failure)) => return Err(StoreError::OutcomeUnknown(failure.text).into()),
                (None, None) if T::IS_DELETED && matches!(when, When::At(_)) => {
                    let since: Instant = *missing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= DELETED_AFTER {
                        return Ok(Outcome::Conflict(None));
                    }
                }
                // Read from a copy that is behind; or the document has been deleted since, and now it can be written.
                (now, None) if when.is_met_by(now.as_ref()) => missing_since = None,
                (Some(now), None) if !now.document.ops().would_tell_of(document.ops()) => {
                    return Err(WriteError::Overtaken);
                }
                (now, None) => return Ok(Outcome::Conflict(now)),
            }
            in_doubt = true;
            if !deadline.pause(BEHIND).await {
                let cause = "every copy that was asked is behind a write";
                return Err(StoreError::OutcomeUnknown(cause.to_owned()).into());
            }
        }
    }

    /// Deletes a document if it is in the state that was read. What became of it is not told: for what another will
    /// clear away otherwise.
    pub(super) async fn delete(&self, id: &DocId, place: &Place, deadline: Deadline) {
        let Place { index, seq_no, primary_term } = place;
        let path = format!("/{index}/_doc/{}?if_seq_no={seq_no}&if_primary_term={primary_term}&timeout=1s", id.0);
        if let Err(failure) = self.send(&Request::new(Method::Delete, path), deadline).await {
            tracing::debug!(cause = failure.text, "a document could not be deleted; it will be cleared away later");
        }
    }
}

fn place_of(answer: &Answer) -> Result<Place, WriteError> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(rename = "_index")]
        index: String,
        #[serde(rename = "_seq_no")]
        seq_no: u64,
        #[serde(rename = "_primary_term")]
        primary_term: u64,
    }
    let written: Written = answer.read().map_err(|failure| StoreError::OutcomeUnknown(failure.text))?;
    Ok(Place { index: written.index, seq_no: written.seq_no, primary_term: written.primary_term })
}

/// A write that certainly did not happen.
fn not_written(failure: &Failure) -> WriteError {
    match failure.kind {
        Kind::Held => WriteError::Held,
        Kind::Timeout => WriteError::Failed(StoreError::Timeout),
        Kind::Unexpected => WriteError::Failed(StoreError::Unexpected(failure.text.clone())),
        _ => WriteError::Failed(StoreError::Unavailable(failure.text.clone())),
    }
}
