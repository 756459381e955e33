//! The last active admin stays: one document, changed by compare-and-set before any admin falls.
//!
//! Invariant: everybody in `admins` is an active admin. Who falls (by demotion, deactivation or erasure) is first taken
//! off the list, which must keep somebody, and put among those `leaving`; who rises is put on the list afterwards. A
//! crash can only leave an active admin off the list. So before a fall is refused, active admins who are not on it are
//! looked for; one who is among those leaving is first *fenced*: written once more unchanged, so that the fall under way
//! can no longer take effect.

use serde::{Deserialize, Serialize};

use super::ElasticStore;
use super::client::Deadline;
use super::document::UserDocument;
use super::documents::{DocId, Document, Found, Op, Ops, Outcome, When, WriteError};
use crate::store::{ListQuery, Sort, SortField, StoreError};
use crate::users::filter::Filter;
use crate::users::{User, Username};

/// How many active admins off the list are looked at before a fall is refused.
const OTHERS_MAX: usize = 10;

/// The document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Admins {
    /// Keys of usernames.
    admins: Vec<String>,
    leaving: Vec<Leaving>,
    ops: Ops,
}

/// A fall that is under way, or that nobody has finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Leaving {
    user: String,
    op: Op,
}

impl Document for Admins {
    const IS_DELETED: bool = false;

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

impl Admins {
    fn is_leaving(&self, user: &str) -> bool {
        self.leaving.iter().any(|leaving| leaving.user == user)
    }
}

/// The permission to fall, until [`ElasticStore::settle`].
pub(super) struct Fall(Leaving);

impl ElasticStore {
    /// Takes an active admin off the list. Errors: `LastAdmin`.
    ///
    /// The state of the user that the fall replaces must have been read before.
    pub(super) async fn fall(&self, user: &Username, deadline: Deadline) -> Result<Fall, WriteError> {
        let leaving = Leaving { user: user.key(), op: Op::new() };
        loop {
            let found = self.admins(deadline).await?;
            let mut next = found.as_ref().map(|found| found.document.clone()).unwrap_or_default();
            next.admins.retain(|admin| *admin != leaving.user);
            if next.admins.is_empty() {
                next.admins = self.admins_off_the_list(&next, user, deadline).await?;
                next.leaving.retain(|leaving| !next.admins.contains(&leaving.user));
            }
            if next.admins.is_empty() {
                return Err(StoreError::LastAdmin.into());
            }
            // It may be there already, when this is not the first attempt.
            if !next.leaving.contains(&leaving) {
                next.leaving.push(leaving.clone());
            }
            if self.write_admins(found.as_ref(), next, deadline).await? {
                return Ok(Fall(leaving));
            }
        }
    }

    /// After a fall, whether it happened or not, or after a rise: brings the list up to what the user is now.
    pub(super) async fn settle(&self, user: &Username, fall: Option<Fall>, deadline: Deadline) {
        while let Err(error) = self.try_settle(user, fall.as_ref(), deadline).await {
            let held = matches!(error, WriteError::Held);
            if !held || !deadline.pause(super::HOLD).await {
                tracing::debug!(?error, "the list of admins is behind; the next fall will look");
                return;
            }
        }
    }

    async fn try_settle(&self, user: &Username, fall: Option<&Fall>, deadline: Deadline) -> Result<(), WriteError> {
        let key = user.key();
        loop {
            let found = self.admins(deadline).await?;
            let mut next = found.as_ref().map(|found| found.document.clone()).unwrap_or_default();
            let before = (next.admins.len(), next.leaving.len());
            next.leaving.retain(|leaving| fall.is_none_or(|fall| *leaving != fall.0));
            // Read after the list: whoever begins to fall from now on changes it first.
            if !next.admins.contains(&key) && !next.is_leaving(&key) && self.is_active_admin(user, deadline).await? {
                next.admins.push(key.clone());
            }
            if before == (next.admins.len(), next.leaving.len())
                || self.write_admins(found.as_ref(), next, deadline).await?
            {
                return Ok(());
            }
        }
    }

    async fn admins(&self, deadline: Deadline) -> Result<Option<Found<Admins>>, StoreError> {
        self.client.get(&self.names.state, &DocId::one("admins"), deadline).await
    }

    /// False when it was changed meanwhile; perhaps to this first.
    async fn write_admins(
        &self,
        found: Option<&Found<Admins>>,
        mut next: Admins,
        deadline: Deadline,
    ) -> Result<bool, WriteError> {
        next.ops = next.ops.next();
        let when = found.map_or(When::Absent(&self.names.state), |found| When::At(&found.place));
        match self.client.write(&DocId::one("admins"), when, &next, deadline).await {
            Ok(outcome) => Ok(!matches!(outcome, Outcome::Conflict(_))),
            Err(WriteError::Overtaken) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Some active admins besides the user, none of whom can fall by a fall that has begun already.
    async fn admins_off_the_list(
        &self,
        list: &Admins,
        user: &Username,
        deadline: Deadline,
    ) -> Result<Vec<String>, WriteError> {
        let filter = serde_json::json!({
            "role": {"eq": "admin"}, "status": {"eq": "active"}, "username": {"ne": user.as_str()},
        });
        let filter = Filter::parse(&filter).expect("a filter by the rules");
        let sort = Sort { field: SortField::Username, descending: false };
        let query = ListQuery { filter: Some(filter), sort, after: None, limit: OTHERS_MAX };
        // What other nodes have written counts, too.
        self.client.refresh(&self.names.users, deadline).await?;
        let mut others = Vec::new();
        for other in self.list(&query, deadline).await?.users {
            let key = other.username.key();
            if list.is_leaving(&key) {
                self.fence(&other.username, deadline).await?;
            }
            if self.is_active_admin(&other.username, deadline).await? {
                others.push(key);
            }
        }
        Ok(others)
    }

    /// Writes a user once more unchanged: what was to replace the state as it was numbered before cannot any more.
    async fn fence(&self, user: &Username, deadline: Deadline) -> Result<(), WriteError> {
        while let Some(found) = self.user_found(user, deadline).await? {
            let again = UserDocument::again(&found)?;
            let outcome = self.client.write(&DocId::of_user(user), When::At(&found.place), &again, deadline).await?;
            if !matches!(outcome, Outcome::Conflict(_)) {
                self.freshness.written();
                break;
            }
        }
        Ok(())
    }

    async fn is_active_admin(&self, user: &Username, deadline: Deadline) -> Result<bool, StoreError> {
        let found: Option<Found<UserDocument>> = self.user_found(user, deadline).await?;
        found.map_or(Ok(false), |found| Ok(User::try_from(&found.document.fields)?.is_active_admin()))
    }
}
