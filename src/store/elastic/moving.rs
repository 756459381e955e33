//! The move of one index's documents to a new one while gateways go on serving.
//!
//! A new index is filled by reading the old one as a feed, pass after pass, until little is left. Then the old one takes
//! no more writes (gateways hold theirs, and try again), the rest is copied, and the alias changes hands. Copies carry
//! the number of their state as an external version, so that copying twice, or two migrations at once, end in the same:
//! a newer state is never overwritten by an older one.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::bulk::Versioned;
use super::checkpoint::Checkpoint;
use super::client::{Client, Deadline, Request};
use super::document::UserDocument;
use super::index::{Index, Kind, Meta, own_alias};
use super::migrate::Migration;
use super::{OpenError, SCHEMA, STEP, finding, query};

/// Documents copied at a time.
const PAGE: usize = 1_000;
/// When a pass has copied no more than so many documents, writes are held for the last one.
const FEW: u64 = 2_000;

/// The move of one index.
pub(super) struct Move<'a> {
    pub(super) client: &'a Client,
    pub(super) alias: &'a str,
    pub(super) from: Index,
    pub(super) shards: usize,
    pub(super) progress: &'a (dyn Fn(String) + Sync),
}

impl Move<'_> {
    /// Moves it, from where an interrupted move of the same has come.
    pub(super) async fn run(&self) -> Result<Migration, OpenError> {
        let Self { client, from, .. } = self;
        let checkpoint = self.written().await?;
        let formers = from.meta.formers.iter().cloned().chain([checkpoint.history.clone()]).collect();
        let meta = Meta { schema: SCHEMA, formers, unfinished: true, ..from.meta.clone() };
        let to = self.target(&meta).await?;

        let mut copied = vec![0; from.shards];
        loop {
            let before: u64 = copied.iter().sum();
            self.copy(&meta, &to, &mut copied).await?;
            if copied.iter().sum::<u64>() - before <= FEW {
                break;
            }
        }
        let began = tokio::time::Instant::now();
        client.hold(&from.name).await?;
        // Held they stay, whatever happens: another migration may be relying on it.
        self.finish(&meta, &to, &mut copied).await.map_err(|error| OpenError::Unfinished(Box::new(error)))?;
        Ok(Migration::Moved { from: from.name.clone(), to, held: began.elapsed() })
    }

    /// The new index: made here, or by another migration of the same.
    async fn target(&self, meta: &Meta) -> Result<String, OpenError> {
        let name = Index::name(self.alias, Index::number(&self.from.name) + 1);
        let there = self.client.create_index(&name, meta, self.shards, Deadline::within(STEP)).await?;
        // The other one may have everything already.
        match there.meta.finished() == meta.finished() && there.shards == self.shards {
            true => Ok(name),
            false => Err(OpenError::InTheWay(name)),
        }
    }

    /// Copies what is left while nothing is written, and gives the alias to the new index.
    async fn finish(&self, meta: &Meta, to: &str, copied: &mut [u64]) -> Result<(), OpenError> {
        while self.written().await?.newest != *copied {
            self.copy(meta, to, copied).await?;
        }
        self.client.refresh(to, Deadline::within(STEP)).await?;
        self.client.refresh(&self.from.name, Deadline::within(STEP)).await?;
        let count = async |index| self.client.count(index, &query::all(), Deadline::within(STEP)).await;
        let (old, new) = (count(&self.from.name).await?, count(to).await?);
        // Reservations may be given up between two passes, and stay in the copy until somebody wants the address.
        let differ = new < old || (meta.kind == Kind::Users && new != old);
        // Once another migration was quicker, gateways write to the copy.
        if differ && !self.is_in_place(meta.kind, to).await? {
            return Err(OpenError::Unavailable(format!("{to} has {new} documents instead of {old}; run it again")));
        }
        self.client.describe_index(to, &meta.finished(), Deadline::within(STEP)).await?;
        let actions = json!({"actions": [
            {"remove": {"index": self.from.name, "alias": self.alias, "must_exist": true}},
            {"add": {"index": to, "alias": self.alias, "is_write_index": true}},
        ]});
        let request = Request::json(Method::Post, "/_aliases".to_owned(), &actions);
        let answer = self.client.send(&request, Deadline::within(STEP)).await?;
        // Another migration may have been quicker, or an earlier attempt may have done it.
        match self.is_in_place(meta.kind, to).await? {
            true => Ok(()),
            false => Err(OpenError::Refused(answer.status, answer.error_type())),
        }
    }

    /// Whether the alias leads to this index.
    async fn is_in_place(&self, kind: Kind, index: &str) -> Result<bool, OpenError> {
        let behind = self.client.index(kind, self.alias, Deadline::within(STEP)).await?;
        Ok(behind.is_some_and(|behind| behind.name == index))
    }

    async fn written(&self) -> Result<Checkpoint, OpenError> {
        let checkpoint = self.client.checkpoint(&self.from.name, Deadline::within(STEP)).await?;
        if checkpoint.written.len() != self.from.shards {
            return Err(OpenError::Unavailable(format!("a shard of {} has no primary", self.from.name)));
        }
        Ok(checkpoint)
    }

    /// Copies what was written since `copied`, and moves that on.
    async fn copy(&self, meta: &Meta, to: &str, copied: &mut [u64]) -> Result<(), OpenError> {
        let written = self.written().await?.written;
        self.client.refresh(&self.from.name, Deadline::within(STEP)).await?;
        for (shard, until) in written.iter().enumerate() {
            while copied[shard] < *until {
                let documents = self.page(shard, copied[shard], *until).await?;
                let last = documents.last().filter(|_| documents.len() == PAGE).map(|document| document.version);
                let documents = documents.into_iter().map(|document| moved(meta, document, shard));
                let documents = documents.collect::<Result<Vec<Versioned>, OpenError>>()?;
                self.client.bulk(&own_alias(to), &documents).await?;
                copied[shard] = last.unwrap_or(*until);
                let (done, all): (u64, u64) = (copied.iter().sum(), written.iter().sum());
                (self.progress)(format!("{to}: {done} of {all} writes copied"));
            }
        }
        Ok(())
    }

    async fn page(&self, shard: usize, from: u64, until: u64) -> Result<Vec<Versioned>, OpenError> {
        let search = json!({
            "query": {"range": {"_seq_no": {"gte": from, "lt": until}}},
            "sort": [{"_seq_no": "asc"}],
            "size": PAGE,
            "track_total_hits": false,
        });
        let found =
            self.client.find(&self.from.name, finding::Copies::Of(shard), &search, Deadline::within(STEP)).await?;
        let numbered = |hit: finding::Hit<Value>| {
            let seq_no = hit.sort.first().and_then(Value::as_u64);
            let number = seq_no.ok_or_else(|| OpenError::Unavailable("a document has no number".to_owned()))? + 1;
            Ok(Versioned { id: hit.id, version: number, source: hit.source })
        };
        found.hits.into_iter().map(numbered).collect()
    }
}

/// A document as it goes to the new index. A user keeps the place that they had in the former one, and is compared and
/// found by this version's rules.
///
/// Its version is the number of its state.
fn moved(meta: &Meta, mut document: Versioned, shard: usize) -> Result<Versioned, OpenError> {
    if meta.kind == Kind::Users {
        let Versioned { version, source, .. } = &mut document;
        let generation = format!("g{}", meta.formers.len() - 1);
        source["former"][generation] = json!({"shard": shard, "number": version, "prev": source["prev_seq"]});
        source["prev_seq"] = Value::Null;
        UserDocument::refold(source)?;
    }
    Ok(document)
}

impl Client {
    /// Makes an index refuse writes. Those under way are finished when it returns.
    /// Source: Elasticsearch Add index block API.
    async fn hold(&self, index: &str) -> Result<(), OpenError> {
        let deadline = Deadline::within(STEP);
        let request = Request::new(Method::Put, format!("/{index}/_block/write")).patient(deadline);
        let answer = self.send(&request, deadline).await?;
        match answer.is_success() {
            true => Ok(()),
            false => Err(OpenError::Refused(answer.status, answer.error_type())),
        }
    }
}
