//! Whether each index can be read and written now.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use elasticsearch::http::Method;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::ElasticStore;
use super::client::{Answer, Deadline, Failure, Kind as Why, Request};
use super::index::{KINDS, Kind};
use crate::store::{Failing, StoreError};

/// How long a hold of writes may last: longer than that of a migration, and than a write waits for its end.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// Since when each index takes no writes but is to take them again.
#[derive(Default)]
pub(super) struct Holds(Mutex<[Option<Instant>; KINDS.len()]>);

impl Holds {
    /// How long the hold of an index lasts; nothing where there is none.
    fn lasts(&self, kind: Kind, held: bool) -> Duration {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = &mut holds[kind as usize];
        *since = held.then(|| since.unwrap_or_else(Instant::now));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl ElasticStore {
    /// What fails now: `store.` and the kind of index, or `store` where all do.
    pub(super) async fn failing(&self, deadline: Deadline) -> Vec<Failing> {
        let failing = join_all(KINDS.map(async |kind| {
            let cause = self.check_index(kind, deadline).await.err()?;
            Some(Failing { part: part(kind), cause })
        }));
        let mut failing: Vec<Failing> = failing.await.into_iter().flatten().collect();
        if failing.len() == KINDS.len() {
            failing.truncate(1);
            failing[0].part = "store";
        }
        failing.sort_by_key(|failing| failing.part);
        failing
    }

    async fn check_index(&self, kind: Kind, deadline: Deadline) -> Result<(), StoreError> {
        if kind == Kind::Users {
            self.written(&self.client, deadline).await?;
        }
        // A condition that never holds is refused only by an index that takes writes.
        let path = format!(
            "/{}/_doc/probe?if_seq_no={}&if_primary_term=1&require_alias=true&timeout=1s",
            self.names.alias(kind),
            i64::MAX
        );
        let probed = self.client.send(&Request::json(Method::Put, path, &json!({})), deadline).await;
        let held = matches!(&probed, Err(Failure { kind: Why::Held, .. }));
        let lasts = self.holds.lasts(kind, held);
        match probed {
            Ok(Answer { status: 409, .. }) => Ok(()),
            Ok(answer) => Err(answer.unexpected().into()),
            Err(_) if held && lasts < HOLD_MAX => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

fn part(kind: Kind) -> &'static str {
    match kind {
        Kind::Users => "store.users",
        Kind::Emails => "store.emails",
        Kind::State => "store.state",
        Kind::Sessions => "store.sessions",
    }
}
