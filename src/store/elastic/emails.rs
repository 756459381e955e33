//! Uniqueness of e-mail addresses: one reservation document for each, created only where there is none.
//!
//! An address belongs to a user when both sides agree: the reservation names the user, and the user has the address. It
//! is reserved (pending) before the user is written, and confirmed (held) afterwards. What a crash leaves in between is
//! taken over by the next who wants the address: at once from one's own user, or from one who has given it up; from a
//! pending one after [`PENDING_LIFE`]. All changes are compare-and-set, so whoever was taken over learns it. What another
//! operation of the same user relies on is never deleted: a pending reservation only by who made it anew, a held one
//! only when the user does not have the address.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ElasticStore;
use super::client::Deadline;
use super::document::UserDocument;
use super::documents::{DocId, Document, Found, Ops, Outcome, When, WriteError};
use super::finding::Copies;
use crate::clock::Clock;
use crate::store::{StoreError, Unique};
use crate::users::{Email, Username};

/// How long a reservation waits for its user: several times as long as any operation lasts.
const PENDING_LIFE: Duration = Duration::from_secs(30);

/// How many reservations of an erased user are looked at in one go. There is one at most, but for what failures have left.
const RESERVATIONS_AT_ONCE: usize = 100;

/// Who has an address, or is about to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reservation {
    /// The key of the username.
    pub(super) user: String,
    state: State,
    /// When it was made, in milliseconds since 1970.
    at: i64,
    ops: Ops,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pending,
    Held,
}

impl Document for Reservation {
    const IS_DELETED: bool = true;

    fn ops(&self) -> &Ops {
        &self.ops
    }
}

impl Reservation {
    /// Of an address that a user has.
    pub(super) fn held(user: &Username) -> Self {
        Self { user: user.key(), state: State::Held, at: Clock::default().now().ms(), ops: Ops::default().next() }
    }

    /// Whether it has waited longer for its user than one can take. By the wall clocks of two nodes: one that is far
    /// off can end a reservation early, which its owner notices when confirming it.
    fn is_stale(&self) -> bool {
        let age = Clock::default().now().ms().abs_diff(self.at);
        self.state == State::Held || u128::from(age) > PENDING_LIFE.as_millis()
    }
}

/// A reservation that this operation has made.
pub(super) struct Claim {
    id: DocId,
    found: Found<Reservation>,
    /// Whether it was the user's already, and perhaps still is that of another operation.
    inherited: bool,
}

impl ElasticStore {
    /// Who has reserved an address.
    pub(super) async fn reservation(
        &self,
        email: &Email,
        deadline: Deadline,
    ) -> Result<Option<Found<Reservation>>, StoreError> {
        self.client.get(&self.names.emails, &DocId::of_email(email), deadline).await
    }

    /// Reserves an address for a user. Errors: `AlreadyExists`.
    pub(super) async fn reserve(
        &self,
        email: &Email,
        user: &Username,
        deadline: Deadline,
    ) -> Result<Claim, WriteError> {
        let id = DocId::of_email(email);
        let mut found: Option<Found<Reservation>> = None;
        loop {
            let ops = found.as_ref().map(|found| found.document.ops.next()).unwrap_or_else(|| Ops::default().next());
            let reservation =
                Reservation { user: user.key(), state: State::Pending, at: Clock::default().now().ms(), ops };
            let when = found.as_ref().map_or(When::Absent(&self.names.emails), |found| When::At(&found.place));
            match self.client.write(&id, when, &reservation, deadline).await {
                Ok(Outcome::Done(place)) => {
                    let inherited = found.is_some_and(|found| found.document.user == reservation.user);
                    return Ok(Claim { id, found: Found { place, document: reservation }, inherited });
                }
                Ok(Outcome::Conflict(now)) => found = now,
                // Taken over already: what follows must not be lost.
                Ok(Outcome::Followed(now)) => found = Some(now),
                Err(WriteError::Overtaken) => found = self.reservation(email, deadline).await?,
                Err(error) => return Err(error),
            }
            if let Some(other) = &found
                && other.document.user != reservation.user
                && !self.is_given_up(&other.document, email, deadline).await?
            {
                return Err(StoreError::AlreadyExists(Unique::Email).into());
            }
        }
    }

    /// Whether nobody has the address by this reservation, nor is about to.
    async fn is_given_up(
        &self,
        reservation: &Reservation,
        email: &Email,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let owner = Username::parse(&reservation.user)
            .map_err(|_| StoreError::Unexpected("a reservation is damaged: user".to_owned()))?;
        let owner = self.user_found(&owner, deadline).await?;
        let has_it = owner.is_some_and(|found: Found<UserDocument>| found.document.has_email(email));
        Ok(!has_it && reservation.is_stale())
    }

    /// Makes a reservation lasting, after its user was written. False when it was taken over meanwhile.
    pub(super) async fn confirm(&self, claim: Claim, deadline: Deadline) -> bool {
        let Claim { id, found: Found { place, document: reservation }, .. } = claim;
        let mut place = Some(place);
        let mut held = Reservation { state: State::Held, ops: reservation.ops.next(), ..reservation };
        loop {
            let when = place.as_ref().map_or(When::Absent(&self.names.emails), When::At);
            let now = match self.client.write(&id, when, &held, deadline).await {
                Ok(Outcome::Done(_) | Outcome::Followed(_)) => return true,
                Ok(Outcome::Conflict(now)) => now,
                Err(error) => {
                    // Both sides agree already; being held only spares others a look at the user.
                    tracing::debug!(?error, "a reservation was not confirmed");
                    return true;
                }
            };
            if now.as_ref().is_some_and(|now| now.document.user != held.user) {
                return false;
            }
            // Another operation of the user has changed it, or deleted it before the user was written.
            held.ops = now.as_ref().map_or_else(Ops::default, |now| now.document.ops.clone()).next();
            place = now.map(|now| now.place);
        }
    }

    /// Gives up a reservation whose user was not written.
    pub(super) async fn give_up(&self, claim: &Claim, deadline: Deadline) {
        if !claim.inherited {
            self.client.delete(&claim.id, &claim.found.place, deadline).await;
        }
    }

    /// Gives up an address that the user no longer has.
    pub(super) async fn release(&self, email: &Email, user: &Username, deadline: Deadline) {
        if let Err(error) = self.try_release(email, user, deadline).await {
            tracing::debug!(%error, "a reservation was not given up; the next who wants it will see");
        }
    }

    async fn try_release(&self, email: &Email, user: &Username, deadline: Deadline) -> Result<(), StoreError> {
        if let Some(found) = self.reservation(email, deadline).await?
            && found.document.user == user.key()
            && self.is_given_up(&found.document, email, deadline).await?
        {
            self.client.delete(&DocId::of_email(email), &found.place, deadline).await;
        }
        Ok(())
    }

    /// Deletes the reservations of a user who is erased, also those that a crash or a failure has left.
    pub(super) async fn clear_away_reservations(&self, user: &Username, deadline: Deadline) -> Result<(), StoreError> {
        let search = json!({"query": {"term": {"user": user.key()}}, "size": RESERVATIONS_AT_ONCE});
        loop {
            self.client.refresh(&self.names.emails, deadline).await?;
            let left = self.client.find::<IgnoredAny>(&self.names.emails, Copies::All, &search, deadline).await?.hits;
            if left.is_empty() {
                return Ok(());
            }
            // Until a search has shown that all are gone: of a deletion it is not told what became of it.
            for hit in left {
                let id = DocId::of_hit(&hit);
                let found = self.client.get::<Reservation>(&self.names.emails, &id, deadline).await?;
                if let Some(found) = found.filter(|found| found.document.user == user.key()) {
                    self.client.delete(&id, &found.place, deadline).await;
                }
            }
            if !deadline.pause(super::HOLD).await {
                return Err(StoreError::Timeout);
            }
        }
    }
}
