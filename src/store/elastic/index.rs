//! The indices: their names, mappings and settings.
//!
//! Each is reached by an alias, `doorward-users`, and its name ends in a number, `doorward-users-000001`, so that
//! `doorward migrate` can put a new one in its place. `_meta.doorward` of the mapping says what it is, and of which set.

use elasticsearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::{Answer, Client, Deadline, Request, Shards};
use super::{OpenError, SCHEMA, shape};
use crate::store::StoreError;

/// What an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// The data set that it is a part of; `None` where an earlier version has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data_set: Option<String>,
    /// Not everything is there yet that belongs into it. Of the state: not all indices of the set were made yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unfinished: bool,
}

impl Meta {
    /// Of an index of this program's schema that was copied from none.
    pub(super) fn new(kind: Kind, data_set: &str) -> Self {
        let data_set = Some(data_set.to_owned());
        Self { kind, schema: SCHEMA, formers: Vec::new(), data_set, unfinished: false }
    }

    /// The same once everything is there.
    pub(super) fn finished(&self) -> Self {
        Self { unfinished: false, ..self.clone() }
    }
}

/// An index, as the cluster describes it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) meta: Meta,
    /// Primary shards.
    pub(super) shards: usize,
    /// Whether it takes neither reads nor writes.
    pub(super) closed: bool,
    /// The aliases that name it.
    pub(super) aliases: Vec<String>,
    /// What it has that this program has not given it.
    pub(super) fault: Option<String>,
}

impl Index {
    /// Reads a description. Errors: `Foreign` when the index is not one of ours, `NewerSchema`.
    pub(super) fn read(name: String, kind: Kind, body: &Value) -> Result<Self, OpenError> {
        let foreign = || OpenError::Foreign(format!("the index {name} is not one of Doorward's {kind:?}"));
        let meta = Meta::deserialize(&body["mappings"]["_meta"]["doorward"]).map_err(|_| foreign())?;
        if meta.kind != kind {
            return Err(foreign());
        }
        if meta.schema > SCHEMA {
            return Err(OpenError::NewerSchema { found: meta.schema });
        }
        let shards = body["settings"]["index.number_of_shards"].as_str().and_then(|text| text.parse().ok());
        let shards = shards.ok_or_else(foreign)?;
        // Source: `IndexMetadata.VERIFIED_BEFORE_CLOSE_SETTING` of Elasticsearch, set while an index is closed.
        let closed = body["settings"]["index.verified_before_close"] == "true";
        let fault = shape::fault(body, &meta);
        let aliases = body["aliases"].as_object().into_iter().flat_map(|aliases| aliases.keys().cloned()).collect();
        Ok(Self { name, meta, shards, closed, aliases, fault })
    }

    /// The number that a name ends in; 0 where it has none.
    pub(super) fn number(name: &str) -> u32 {
        name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The name of the index behind an alias that has this number.
    pub(super) fn name(alias: &str, number: u32) -> String {
        format!("{alias}-{number:06}")
    }

    /// Errors: `Misshapen`.
    pub(super) fn check_shape(self) -> Result<Self, OpenError> {
        match self.fault {
            None => Ok(self),
            Some(fault) => Err(OpenError::Misshapen { index: self.name, fault }),
        }
    }
}

/// The alias of one index alone. A write by it makes no new index where this one is gone, which a write by the index's
/// own name does.
pub(super) fn own_alias(index: &str) -> String {
    format!("{index}-own")
}

impl Client {
    /// The descriptions of the indices that a path names; of those that are not there, none.
    /// Source: Elasticsearch Get index API.
    pub(super) async fn describe(&self, names: &str, deadline: Deadline) -> Result<Map<String, Value>, OpenError> {
        let path = format!("/{names}?flat_settings=true&ignore_unavailable=true&expand_wildcards=all");
        let answer = self.send(&Request::new(Method::Get, path), deadline).await?;
        done(&answer)?;
        Ok(answer.read()?)
    }

    /// The index behind an alias or of a name, or `None`.
    /// Errors: `Foreign` when it is not one of ours, `NewerSchema`.
    pub(super) async fn index(&self, kind: Kind, name: &str, deadline: Deadline) -> Result<Option<Index>, OpenError> {
        let mut indices = self.describe(name, deadline).await?.into_iter();
        match (indices.next(), indices.next()) {
            (None, _) => Ok(None),
            (Some((found, body)), None) => Index::read(found, kind, &body).map(Some),
            (Some((one, _)), Some((other, _))) => {
                let indices = format!("{one}, {other}");
                Err(OpenError::AliasOfSeveral { alias: name.to_owned(), indices })
            }
        }
    }

    /// Creates an index, which has its own alias alone, unless there is one of this name. The index as it is then.
    /// Errors: `InTheWay`; `Misshapen`, and then what was made is away again.
    /// Source: Elasticsearch Create index API.
    pub(super) async fn create_index(
        &self,
        name: &str,
        meta: &Meta,
        shards: usize,
        deadline: Deadline,
    ) -> Result<Index, OpenError> {
        let own = json!({own_alias(name): {}});
        let body = json!({"settings": settings(meta.kind, shards), "mappings": told(meta), "aliases": own});
        let request = Request::json(Method::Put, format!("/{name}"), &body).patient(deadline);
        let answer = self.send(&request, deadline).await?;
        // Another gateway was quicker, or the answer to an earlier attempt was lost.
        let is_there = answer.error_type() == "resource_already_exists_exception";
        if !is_there {
            done(&answer)?;
        }
        let made = self.index(meta.kind, name, deadline).await;
        let made = made.map_err(|error| match error {
            OpenError::Foreign(_) => OpenError::InTheWay(name.to_owned()),
            error => error,
        });
        let made = made?.ok_or_else(|| OpenError::Unavailable(format!("{name} was made, and is gone")))?;
        if made.fault.is_some() && !is_there {
            // No alias has named it, so nobody has used it.
            self.send(&Request::new(Method::Delete, format!("/{name}")).patient(deadline), deadline).await?;
        }
        made.check_shape()
    }

    /// Has aliases name an index besides its own one, which is given to it again.
    /// Source: Elasticsearch Aliases API. It refuses a second index for an alias that others write by.
    pub(super) async fn name_index(&self, index: &str, alias: &str, deadline: Deadline) -> Result<(), OpenError> {
        let actions = json!({"actions": [
            {"add": {"index": index, "alias": own_alias(index)}},
            {"add": {"index": index, "alias": alias, "is_write_index": true}},
        ]});
        let request = Request::json(Method::Post, "/_aliases".to_owned(), &actions).patient(deadline);
        done(&self.send(&request, deadline).await?)
    }

    /// Has an index say this of itself. Source: Elasticsearch Update mapping API.
    pub(super) async fn describe_index(&self, index: &str, meta: &Meta, deadline: Deadline) -> Result<(), OpenError> {
        let body = json!({"_meta": {"doorward": meta}});
        let request = Request::json(Method::Put, format!("/{index}/_mapping"), &body).patient(deadline);
        done(&self.send(&request, deadline).await?)
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

/// Errors: `Refused`, with what Elasticsearch says.
fn done(answer: &Answer) -> Result<(), OpenError> {
    if answer.is_success() {
        return Ok(());
    }
    let body: Value = answer.read()?;
    let reason = body["error"]["reason"].as_str().unwrap_or("without a reason");
    Err(OpenError::Refused(answer.status, format!("{}: {reason}", answer.error_type())))
}

fn settings(kind: Kind, shards: usize) -> Value {
    let mut settings = json!({
        "index.number_of_shards": if kind == Kind::Users { shards } else { 1 },
        "index.auto_expand_replicas": "0-1",
        // Set, since an index without a value stops refreshing when nobody searches it.
        "index.refresh_interval": "1s",
    });
    for (name, value) in shape::SETTLED {
        settings[name] = json!(value);
    }
    settings
}

/// The mapping as it is told when an index is made: with what would else be a template's.
fn told(meta: &Meta) -> Value {
    let mut mappings = mappings(meta);
    mappings["_routing"] = json!({"required": false});
    mappings["_source"] = json!({"enabled": true});
    mappings
}

/// The mapping of an index, as the cluster tells it.
pub(super) fn mappings(meta: &Meta) -> Value {
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
            // Called `words` in schema 1: an earlier gateway cannot write texts here that are folded as before.
            "terms": {
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
