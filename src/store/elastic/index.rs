//! The indices: their names, mappings and settings.
//!
//! Each is reached by an alias, `doorward-users`, and its name ends in a number, `doorward-users-000001`, so that
//! `doorward migrate` can put a new one in its place. `_meta.doorward` of the mapping says what it is.

use elasticsearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Answer, Client, Deadline, Request, Shards};
use super::{OpenError, SCHEMA};
use crate::store::StoreError;

/// What an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Users.
    Users,
    /// Reservations of e-mail addresses.
    Emails,
    /// Documents of which there is one: `admins`.
    State,
    /// Sessions.
    Sessions,
}

/// All kinds, in the order in which they are created: where there are users, there is everything.
pub(super) const KINDS: [Kind; 4] = [Kind::State, Kind::Emails, Kind::Sessions, Kind::Users];

/// The aliases under a prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) users: String,
    pub(super) emails: String,
    pub(super) state: String,
    pub(super) sessions: String,
}

impl Names {
    /// The aliases under this prefix, which `config` has checked to be a part of index names.
    pub(super) fn new(prefix: &str) -> Self {
        let name = |kind| format!("{prefix}-{kind}");
        Self { users: name("users"), emails: name("emails"), state: name("state"), sessions: name("sessions") }
    }

    /// The alias of a kind.
    pub(super) fn alias(&self, kind: Kind) -> &str {
        match kind {
            Kind::Users => &self.users,
            Kind::Emails => &self.emails,
            Kind::State => &self.state,
            Kind::Sessions => &self.sessions,
        }
    }
}

/// What an index says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) kind: Kind,
    /// The version of its mapping and of its documents.
    pub(super) schema: u32,
    /// The histories of the indices it was copied from, oldest first: `former.g0` of a document is its place in the
    /// first of them.
    pub(super) formers: Vec<String>,
}

/// An index, as the cluster describes it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) meta: Meta,
    /// Primary shards.
    pub(super) shards: usize,
}

impl Index {
    /// The name of the next index behind an alias.
    pub(super) fn next_name(alias: &str, current: Option<&Self>) -> String {
        let number = current.and_then(|index| index.name.rsplit('-').next()?.parse::<u32>().ok()).unwrap_or(0);
        format!("{alias}-{:06}", number + 1)
    }
}

impl Client {
    /// The index behind an alias or of a name, or `None`.
    /// Errors: `Foreign` when it is not one of ours, `NewerSchema`.
    pub(super) async fn index(&self, kind: Kind, name: &str, deadline: Deadline) -> Result<Option<Index>, OpenError> {
        let request = Request::new(Method::Get, format!("/{name}?flat_settings=true"));
        let answer = self.send(&request, deadline).await?;
        if answer.status == 404 && answer.error_type() == "index_not_found_exception" {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(OpenError::Refused(answer.status, answer.error_type()));
        }
        let indices: serde_json::Map<String, Value> = answer.read()?;
        let mut indices = indices.into_iter();
        let (Some((found, body)), None) = (indices.next(), indices.next()) else {
            return Err(OpenError::Foreign(format!("the alias {name} names several indices")));
        };
        let foreign = || OpenError::Foreign(format!("the index {found} is not one of Doorward's {kind:?}"));
        let meta = Meta::deserialize(&body["mappings"]["_meta"]["doorward"]).map_err(|_| foreign())?;
        if meta.kind != kind {
            return Err(foreign());
        }
        if meta.schema > SCHEMA {
            return Err(OpenError::NewerSchema { found: meta.schema });
        }
        let shards = body["settings"]["index.number_of_shards"].as_str().and_then(|text| text.parse().ok());
        let shards = shards.ok_or_else(foreign)?;
        Ok(Some(Index { name: found, meta, shards }))
    }

    /// Creates an index unless there is one of this name; with an alias, where nothing is in its place yet.
    /// Source: Elasticsearch Create index API.
    pub(super) async fn create_index(
        &self,
        name: &str,
        alias: Option<&str>,
        meta: &Meta,
        shards: usize,
        deadline: Deadline,
    ) -> Result<(), OpenError> {
        let mut body = json!({"settings": settings(meta.kind, shards), "mappings": mappings(meta)});
        if let Some(alias) = alias {
            body["aliases"] = json!({alias: {"is_write_index": true}});
        }
        let request = Request::json(Method::Put, format!("/{name}"), &body).patient(deadline);
        let answer = self.send(&request, deadline).await?;
        match answer.error_type().as_str() {
            _ if answer.is_success() => Ok(()),
            // Another gateway was quicker, or the answer to an earlier attempt was lost.
            "resource_already_exists_exception" => Ok(()),
            "invalid_alias_name_exception" | "invalid_index_name_exception" => {
                Err(OpenError::Foreign(format!("there is an index in the place of {}", alias.unwrap_or(name))))
            }
            error => Err(OpenError::Refused(answer.status, error.to_owned())),
        }
    }

    /// Makes every write that returned visible to searches of an index.
    ///
    /// Copies that are not there count as neither successful nor failed. Of replicas that is right: no search goes to them. A
    /// shard without a primary counts so, too, but only after the server has waited a minute for one, and no attempt of ours
    /// waits longer than 30 s. (Measured on 9.2.8; a search or count in that state says `failed`, or is refused.)
    /// Source: Elasticsearch Refresh API.
    pub(super) async fn refresh(&self, index: &str, deadline: Deadline) -> Result<(), StoreError> {
        #[derive(Deserialize)]
        struct Refreshed {
            #[serde(rename = "_shards")]
            shards: Shards,
        }
        let request = Request::new(Method::Post, format!("/{index}/_refresh"));
        let read = |answer: Answer| answer.read_done::<Refreshed>()?.shards.all_there();
        Ok(self.send_until(&request, deadline, read).await?)
    }
}

fn settings(kind: Kind, shards: usize) -> Value {
    json!({
        "number_of_shards": if kind == Kind::Users { shards } else { 1 },
        "auto_expand_replicas": "0-1",
        // Set, since an index without a value stops refreshing when nobody searches it.
        "refresh_interval": "1s",
    })
}

fn mappings(meta: &Meta) -> Value {
    let kept = || json!({"type": "keyword", "index": false, "doc_values": false});
    let kept_number = || json!({"type": "long", "index": false, "doc_values": false});
    let keyword = || json!({"type": "keyword"});
    let number = || json!({"type": "long"});
    let properties = match meta.kind {
        Kind::Users => json!({
            "username": kept(),
            "username_key": keyword(),
            "email": kept(),
            "email_key": keyword(),
            "display_name": kept(),
            "display_fold": keyword(),
            "words": {
                "type": "text",
                "analyzer": "whitespace",
                "index_prefixes": {"min_chars": 1, "max_chars": 15},
                "index_options": "docs",
                "norms": false,
            },
            "bio": kept(),
            "avatar_url": kept(),
            // JSON, as text: what apps keep there is nobody's mapping.
            "attributes": kept(),
            "status": keyword(),
            "role": keyword(),
            "created_at": number(),
            "updated_at": number(),
            "rev": number(),
            "last_change": kept(),
            "generation": kept_number(),
            "password": kept(),
            "ops": kept(),
            "prev_seq": kept_number(),
            "before": kept(),
            "former": {"properties": formers(meta)},
        }),
        Kind::Emails => json!({
            "user": keyword(),
            "state": keyword(),
            "at": number(),
            "ops": kept(),
        }),
        Kind::Sessions => json!({
            "user_key": keyword(),
            "ended": {"type": "boolean"},
            "created_at": number(),
            "expires_at": number(),
            // JSON, as text: nobody searches it.
            "session": kept(),
            "ops": kept(),
        }),
        Kind::State => json!({
            "admins": kept(),
            "leaving": {"properties": {"user": kept(), "op": kept()}},
            "ops": kept(),
        }),
    };
    json!({"dynamic": "strict", "_meta": {"doorward": meta}, "properties": properties})
}

/// The places in former indices: one object for each, so that a shard and its number stay together.
fn formers(meta: &Meta) -> Value {
    let place = json!({"properties": {
        "shard": {"type": "integer"},
        "number": {"type": "long"},
        "prev": {"type": "long", "index": false, "doc_values": false},
    }});
    (0..meta.formers.len()).map(|at| (format!("g{at}"), place.clone())).collect::<serde_json::Map<_, _>>().into()
}
