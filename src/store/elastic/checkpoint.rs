//! What an index has written, shard by shard.
//!
//! A number counts as written when the shard's global checkpoint includes it: then it, and everything below, is on all
//! copies that can become the primary, and final. Numbers are counted from 1 here, so that 0 includes nothing.

use std::collections::BTreeMap;

use elasticsearch::http::Method;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::client::{Answer, Client, Deadline, Failure, Request, Shards};

/// What comes of looking at one index.
type Looked = Result<Checkpoint, Failure>;

/// The numbers of an index.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    /// The name of the index itself.
    pub(super) index: String,
    /// Identifies the index and the histories of its shards: another one's numbers mean something else.
    pub(super) history: String,
    /// What is final, a shard.
    pub(super) written: Vec<u64>,
    /// The greatest in use, final or not, a shard.
    pub(super) newest: Vec<u64>,
    /// The node that has the primary, a shard.
    pub(super) primaries: Vec<String>,
    /// Whether every copy could be asked. A node that is cut off from the others cannot ask theirs, and may still believe
    /// that its own copy is the primary.
    pub(super) is_whole: bool,
}

impl Checkpoint {
    /// Whether both say the same of the same index.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.history == other.history && self.written == other.written
    }
}

#[derive(Deserialize)]
struct Stats {
    #[serde(rename = "_shards", default)]
    shards: Shards,
    #[serde(default)]
    indices: BTreeMap<String, IndexStats>,
}

#[derive(Deserialize)]
struct IndexStats {
    uuid: String,
    #[serde(default)]
    shards: BTreeMap<usize, Vec<CopyStats>>,
}

#[derive(Deserialize)]
struct CopyStats {
    routing: Routing,
    seq_no: SeqNo,
    commit: Commit,
}

#[derive(Deserialize)]
struct Routing {
    primary: bool,
    node: String,
}

#[derive(Deserialize)]
struct SeqNo {
    max_seq_no: i64,
    global_checkpoint: i64,
}

#[derive(Deserialize)]
struct Commit {
    user_data: UserData,
}

#[derive(Deserialize)]
struct UserData {
    history_uuid: String,
}

impl Client {
    /// What the index of this name or alias has written by now.
    ///
    /// While a primary moves from node to node, some node lacks it for a moment.
    pub(super) async fn checkpoint(&self, name: &str, deadline: Deadline) -> Looked {
        let read = |answer| {
            let [checkpoint] = read_all([name], &answer)?;
            checkpoint
        };
        self.send_until(&look_at([name]), deadline, read).await
    }

    /// The same of several at once, each found or not by itself.
    pub(super) async fn checkpoints<const N: usize>(
        &self,
        names: [&str; N],
        deadline: Deadline,
    ) -> Result<[Looked; N], Failure> {
        self.send_until(&look_at(names), deadline, |answer| read_all(names, &answer)).await
    }
}

/// Asks how far these indices are. Source: Elasticsearch Index stats API at the level of shards.
fn look_at<const N: usize>(names: [&str; N]) -> Request {
    let path = format!(
        "/{}/_stats/docs?level=shards&ignore_unavailable=true&filter_path=_shards.failed,indices.*.uuid,\
         indices.*.shards.*.routing.primary,indices.*.shards.*.routing.node,indices.*.shards.*.seq_no,\
         indices.*.shards.*.commit.user_data.history_uuid",
        names.join(",")
    );
    Request::new(Method::Get, path)
}

/// What the answer says of each.
fn read_all<const N: usize>(names: [&str; N], answer: &Answer) -> Result<[Looked; N], Failure> {
    let Stats { shards, mut indices } = answer.read_done()?;
    let is_whole = shards.all_there().is_ok();
    Ok(names.map(|name| {
        // The index behind an alias is named after it.
        let is_meant =
            |index: &str| index.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        let index = indices.keys().find(|index| is_meant(index)).cloned();
        let found = index.and_then(|index| indices.remove_entry(&index));
        found
            .and_then(|(index, stats)| checkpoint_of(index, stats, is_whole))
            .ok_or_else(|| Failure::passing(format!("a shard of {name} has no primary")))
    }))
}

/// `None` where a shard has no primary.
fn checkpoint_of(index: String, stats: IndexStats, is_whole: bool) -> Option<Checkpoint> {
    let mut history = Sha256::new_with_prefix(&stats.uuid);
    let (mut written, mut newest, mut primaries) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (shard, copies)) in stats.shards.into_iter().enumerate() {
        let primary = copies.into_iter().find(|copy| copy.routing.primary).filter(|_| shard == at)?;
        history.update(&primary.commit.user_data.history_uuid);
        let number = |seq_no: i64| u64::try_from(seq_no + 1).unwrap_or(0);
        written.push(number(primary.seq_no.global_checkpoint));
        newest.push(number(primary.seq_no.max_seq_no));
        primaries.push(primary.routing.node);
    }
    let history = history.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    Some(Checkpoint { index, history, written, newest, primaries, is_whole })
}
