//! Many documents at once: for moving them, and for filling a new store.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Deadline, Request};
use super::document::UserDocument;
use super::documents::{DocId, Document};
use super::emails::Reservation;
use super::{ElasticStore, OpenError, STEP};
use crate::store::{PasswordHash, StoreError};
use crate::users::User;

/// The pause before writing again what the cluster had no room for.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A document to be written, unless this state or a newer one is there already.
pub(super) struct Versioned {
    pub(super) id: String,
    /// Greater for a newer state.
    pub(super) version: u64,
    pub(super) source: Value,
}

impl Versioned {
    /// The first state of a document.
    pub(super) fn first(id: DocId, document: &impl Document) -> Self {
        let source = serde_json::to_value(document).expect("documents have only string keys");
        Self { id: id.into(), version: 1, source }
    }
}

#[derive(Deserialize)]
struct Answers {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: Done,
}

#[derive(Deserialize)]
struct Done {
    status: u16,
}

impl Client {
    /// Writes documents to the index behind an alias. Source: Elasticsearch Bulk API with external versions.
    pub(super) async fn bulk(&self, alias: &str, documents: &[Versioned]) -> Result<(), OpenError> {
        let mut lines = String::new();
        for Versioned { id, version, source } in documents {
            let action = json!({"index": {"_id": id, "version": version, "version_type": "external"}});
            lines.push_str(&format!("{action}\n{source}\n"));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let request = Request::lines(format!("/{alias}/_bulk?require_alias=true&timeout=30s"), lines);
        loop {
            let deadline = Deadline::within(STEP);
            let answer = self.send(&request.clone().patient(deadline), deadline).await?;
            if !answer.is_success() {
                return Err(OpenError::Refused(answer.status, answer.error_type()));
            }
            let statuses = answer.read::<Answers>()?.items.into_iter().map(|item| item.index.status);
            // 409: this state, or a newer one, is there already.
            match statuses.filter(|status| !matches!(status, 200 | 201 | 409)).max() {
                None => return Ok(()),
                Some(429) => tokio::time::sleep(BACK_OFF).await,
                Some(status) => return Err(OpenError::Refused(status, "for one of many documents".to_owned())),
            }
        }
    }
}

impl ElasticStore {
    /// Fills a store that nobody else writes to, all with the same password hash: for examples and measurements. The
    /// users must have different names and addresses; their list of admins is made when it is first needed.
    pub async fn load(&self, users: &[User], password: &PasswordHash) -> Result<(), StoreError> {
        let unavailable = |error: OpenError| StoreError::Unavailable(error.to_string());
        let reserved = users.iter().filter_map(|user| {
            let email = user.email.as_ref()?;
            Some(Versioned::first(DocId::of_email(email), &Reservation::held(&user.username)))
        });
        self.client.bulk(&self.names.emails, &reserved.collect::<Vec<_>>()).await.map_err(unavailable)?;
        let users = users
            .iter()
            .map(|user| Versioned::first(DocId::of_user(&user.username), &UserDocument::create(user, password)));
        self.client.bulk(&self.names.users, &users.collect::<Vec<_>>()).await.map_err(unavailable)?;
        self.freshness.written();
        Ok(())
    }
}
