//! Indices that are made anew in the place of lost ones: reservations of addresses from the users; the sessions and the
//! state without anything, since a login begins a session and admins who are off their list are looked for.
//!
//! Until its alias is there, an index is used by nobody: so nobody gets an address meanwhile, and to be interrupted leaves
//! an unused index, which the next attempt deletes.

use std::time::Duration;

use clap::ValueEnum;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bulk::Versioned;
use super::client::{Client, Deadline, Request};
use super::documents::DocId;
use super::emails::Reservation;
use super::finding::Copies;
use super::index::{Index, Kind, Meta, Names, own_alias};
use super::layout::Layout;
use super::migrate::Migration;
use super::{OpenError, STEP};
use crate::store::OPERATION_MAX;
use crate::store::StoreError;
use crate::users::{Email, Username};

/// Users read at a time.
const PAGE: usize = 1_000;
/// How long a write may take effect that was sent when the index was still there.
const LATE: Duration = Duration::from_secs(2);

/// An index that can be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rebuild {
    /// The reservations of addresses, from the users.
    Emails,
    /// The sessions, without any: everybody logs in again.
    Sessions,
    /// The state, empty: what it holds is found again when it is needed.
    State,
}

impl Rebuild {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Emails => Kind::Emails,
            Self::Sessions => Kind::Sessions,
            Self::State => Kind::State,
        }
    }
}

/// A user with an address.
#[derive(Deserialize)]
struct Addressed {
    username: String,
    email: String,
}

/// Makes an index anew that is missing.
pub(super) async fn rebuild(
    client: &Client,
    names: &Names,
    kind: Kind,
    data_set: &str,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Migration, OpenError> {
    let (alias, deadline) = (names.alias(kind), || Deadline::within(STEP));
    let layout = Layout::read(client, names).await?;
    let number = layout.spare(kind).iter().map(|index| Index::number(&index.name)).max().unwrap_or(0) + 1;
    // One of its own for each attempt: what another leaves, or still writes, is in no other's way.
    let (index, meta) = (Index::name(alias, number), Meta { unfinished: true, ..Meta::new(kind, data_set) });
    if kind != Kind::Sessions {
        progress(format!("{index}: waiting until no write of before is under way"));
        tokio::time::sleep(OPERATION_MAX + LATE).await;
    }
    client.create_index(&index, &meta, 1, deadline()).await?;
    let (users, twice) = match kind {
        Kind::Emails => {
            let (users, twice) = reserve_all(client, names, &index, progress).await?;
            (Some(users), twice)
        }
        _ => (None, Vec::new()),
    };
    client.describe_index(&index, &meta.finished(), deadline()).await?;
    // Refused when another attempt was quicker.
    client.name_index(&index, alias, deadline()).await?;
    for left in layout.spare(kind).iter().filter(|left| left.meta.unfinished) {
        let request = Request::new(Method::Delete, format!("/{}", left.name)).patient(deadline());
        client.send(&request, deadline()).await?;
    }
    Ok(Migration::Rebuilt { index, users, twice })
}

/// Reserves every user's address. Tells how many users have one, and who has one that is an older user's.
async fn reserve_all(
    client: &Client,
    names: &Names,
    index: &str,
    progress: &(dyn Fn(String) + Sync),
) -> Result<(u64, Vec<(String, String)>), OpenError> {
    let query = json!({"exists": {"field": "email_key"}});
    client.refresh(&names.users, Deadline::within(STEP)).await?;
    let all = client.count(&names.users, &query, Deadline::within(STEP)).await?;
    let mut search = json!({
        "query": query,
        // Who has the same address follows each other, the oldest first.
        "sort": [{"email_key": "asc"}, {"created_at": "asc"}, {"username_key": "asc"}],
        "size": PAGE,
        "track_total_hits": false,
        "_source": ["username", "email"],
    });
    let (mut users, mut twice, mut owner) = (0, Vec::new(), None::<(DocId, String)>);
    loop {
        let page = client.find::<Addressed>(&names.users, Copies::All, &search, Deadline::within(STEP)).await?.hits;
        let mut reservations = Vec::new();
        for hit in &page {
            let damaged = |_| StoreError::Unexpected(format!("a document of a user is damaged: {}", hit.id));
            let email = DocId::of_email(&Email::parse(&hit.source.email).map_err(damaged)?);
            let username = Username::parse(&hit.source.username).map_err(damaged)?;
            match &owner {
                Some((address, owner)) if *address == email => {
                    twice.push((owner.clone(), username.as_str().to_owned()));
                }
                _ => {
                    reservations.push(Versioned::first(email.clone(), &Reservation::held(&username)));
                    owner = Some((email, username.as_str().to_owned()));
                }
            }
        }
        client.bulk(&own_alias(index), &reservations).await?;
        users += page.len() as u64;
        progress(format!("{index}: {users} of {all} users with addresses"));
        match page.last() {
            Some(last) if page.len() == PAGE => search["search_after"] = Value::from(last.sort.clone()),
            _ => return Ok((users, twice)),
        }
    }
}
