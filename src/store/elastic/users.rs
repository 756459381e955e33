//! Users: created, replaced, looked up.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::client::Deadline;
use super::document::{FIELDS, UserDocument, UserFields};
use super::documents::{DocId, Found, Outcome, Place, When, WriteError};
use super::{ElasticStore, HOLD};
use crate::store::{PasswordChange, PasswordHash, StoreError, Unique, Written};
use crate::users::rules::{self, Act};
use crate::users::{Change, Email, User, Username};

impl ElasticStore {
    /// Runs a write, and runs it anew while `doorward migrate` holds the index.
    pub(super) async fn unheld<'a, T>(
        &self,
        deadline: Deadline,
        mut write: impl FnMut() -> BoxFuture<'a, Result<T, WriteError>>,
    ) -> Result<T, StoreError> {
        loop {
            match write().await {
                Ok(done) => return Ok(done),
                Err(WriteError::Failed(error)) => return Err(error),
                Err(WriteError::Overtaken) => {
                    let cause = "too many others have followed to tell what became of a write";
                    return Err(StoreError::OutcomeUnknown(cause.to_owned()));
                }
                Err(WriteError::Held) if deadline.pause(HOLD).await => {}
                Err(WriteError::Held) => {
                    return Err(StoreError::Unavailable("a migration holds writes for too long".to_owned()));
                }
            }
        }
    }

    /// The document of a user.
    pub(super) async fn user_found(
        &self,
        username: &Username,
        deadline: Deadline,
    ) -> Result<Option<Found<UserDocument>>, StoreError> {
        self.client.get(&self.names.users, &DocId::of_user(username), deadline).await
    }

    /// One user.
    pub(super) async fn get(&self, username: &Username, deadline: Deadline) -> Result<Option<Arc<User>>, StoreError> {
        let found: Option<Found<UserFields>> =
            self.client.get(&self.names.users, &DocId::of_user(username), deadline).await?;
        found.map(|found| User::try_from(&found.document).map(Arc::new)).transpose()
    }

    /// One user, whose document is kept for the replacement that follows. Should that come late, its condition says so.
    pub(super) async fn get_to_replace(
        &self,
        username: &Username,
        deadline: Deadline,
    ) -> Result<Option<Arc<User>>, StoreError> {
        let Some(found) = self.user_found(username, deadline).await? else { return Ok(None) };
        let user = User::try_from(&found.document.fields)?;
        self.to_replace.insert(username.key(), Arc::new(found));
        Ok(Some(Arc::new(user)))
    }

    /// Those of these users that exist.
    pub(super) async fn get_many(
        &self,
        usernames: &[Username],
        deadline: Deadline,
    ) -> Result<Vec<Arc<User>>, StoreError> {
        if usernames.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<DocId> = usernames.iter().map(DocId::of_user).collect();
        let found = self.client.get_many::<UserFields>(&self.names.users, &ids, &FIELDS.join(","), deadline).await?;
        found.values().map(|fields| User::try_from(fields).map(Arc::new)).collect()
    }

    /// The user who has an address: the reservation and the user must agree.
    pub(super) async fn get_by_email(
        &self,
        email: &Email,
        deadline: Deadline,
    ) -> Result<Option<Arc<User>>, StoreError> {
        let reserved = self.reservation(email, deadline).await?;
        let username = reserved.and_then(|reserved| Username::parse(&reserved.document.user).ok());
        // Nobody is read, too: a login by an address that nobody has must take as long as another.
        let user = self.get(&username.unwrap_or_else(Username::of_nobody), deadline).await?;
        Ok(user.filter(|user| user.email.as_ref().is_some_and(|own| own.key() == email.key())))
    }

    /// Keeps a new user.
    pub(super) async fn create(
        &self,
        user: &User,
        password: &PasswordHash,
        deadline: Deadline,
    ) -> Result<Written, StoreError> {
        self.unheld(deadline, || Box::pin(self.try_create(user, password, deadline))).await
    }

    async fn try_create(
        &self,
        user: &User,
        password: &PasswordHash,
        deadline: Deadline,
    ) -> Result<Written, WriteError> {
        let taken = || WriteError::from(StoreError::AlreadyExists(Unique::Username));
        if self.user_found(&user.username, deadline).await?.is_some() {
            return Err(taken());
        }
        let claim = match &user.email {
            Some(email) => Some(self.reserve(email, &user.username, deadline).await),
            None => None,
        };
        let claim = claim.transpose().map_err(WriteError::before_the_change)?;
        let document = UserDocument::create(user, password);
        let when = When::Absent(&self.names.users);
        let written = self.client.write(&DocId::of_user(&user.username), when, &document, deadline).await;
        let place = match written {
            Ok(Outcome::Done(place)) => Some(place),
            Ok(Outcome::Followed(_)) => None,
            // It may have happened, and then the claim is right; if not, the next who wants the address will see.
            Err(error) if error.is_unknown() => return Err(error),
            // Who created a document is known for good, so nothing else can have happened.
            written => {
                if let Some(claim) = &claim {
                    self.give_up(claim, deadline).await;
                }
                return Err(written.err().unwrap_or_else(taken));
            }
        };
        if let Some(claim) = claim
            && !self.confirm(claim, deadline).await
        {
            // The name stays taken, as that of an erased user.
            let Change { actor, at, .. } = user.last_change.clone();
            let erased = rules::erase(user, Act { actor, at, reason: None }).expect("a new user is not erased");
            self.take_back(place, document, user, erased, &PasswordChange::Remove, deadline).await?;
            return Err(StoreError::AlreadyExists(Unique::Email).into());
        }
        self.freshness.written();
        if user.is_active_admin() {
            self.settle(&user.username, None, deadline).await;
        }
        Ok(self.own_write(user, None, place))
    }

    /// What is told of a write of ours, which has made the state at `place`; `None` where others have followed.
    fn own_write(&self, user: &User, old: Option<&Found<UserDocument>>, place: Option<Place>) -> Written {
        let record = place.as_ref().and_then(|place| self.own_change(user, old, place));
        Written { seq: place.as_ref().map(Place::number), record }
    }

    /// Writes `instead` after a state whose address was given to another before it was confirmed: so late that
    /// nobody was told of it.
    async fn take_back(
        &self,
        place: Option<Place>,
        document: UserDocument,
        written: &User,
        instead: User,
        password: &PasswordChange,
        deadline: Deadline,
    ) -> Result<(), WriteError> {
        let unknown = |cause: String| StoreError::OutcomeUnknown(format!("a user has lost an address: {cause}"));
        let place = place.ok_or_else(|| unknown("others have changed the user since".to_owned()))?;
        let found = Found { place, document };
        let next = UserDocument::replace(&found, written, &instead, password);
        let id = DocId::of_user(&written.username);
        let taken_back = self.client.write(&id, When::At(&found.place), &next, deadline).await;
        self.freshness.written();
        taken_back.map(drop).map_err(|error| unknown(format!("{error:?}")).into())
    }

    /// Replaces the state before `user`.
    pub(super) async fn replace(
        &self,
        user: &User,
        password: &PasswordChange,
        deadline: Deadline,
    ) -> Result<Written, StoreError> {
        loop {
            let write = || Box::pin(self.try_replace(user, password, deadline)) as BoxFuture<'_, _>;
            if let Some(written) = self.unheld(deadline, write).await? {
                return Ok(written);
            }
        }
    }

    /// The write, or `None` when the state before was written once more meanwhile.
    async fn try_replace(
        &self,
        user: &User,
        password: &PasswordChange,
        deadline: Deadline,
    ) -> Result<Option<Written>, WriteError> {
        let read = self.to_replace.remove(&user.username.key()).map(|(_, found)| found);
        let found = match read.filter(|found| Some(found.document.fields.rev) == user.rev.checked_sub(1)) {
            Some(found) => found,
            None => Arc::new(self.user_found(&user.username, deadline).await?.ok_or(StoreError::NotFound)?),
        };
        let old = User::try_from(&found.document.fields)?;
        if Some(old.rev) != user.rev.checked_sub(1) {
            return Err(StoreError::RevConflict { current_rev: old.rev }.into());
        }
        let key = |user: &User| user.email.as_ref().map(Email::key);
        let has_new_email = key(user) != key(&old);
        let claim = match &user.email {
            Some(email) if has_new_email => Some(self.reserve(email, &user.username, deadline).await),
            _ => None,
        };
        let claim = claim.transpose().map_err(WriteError::before_the_change)?;
        let fall = match old.is_active_admin() && !user.is_active_admin() {
            true => Some(self.fall(&user.username, deadline).await),
            false => None,
        };
        let fall = match fall.transpose() {
            Ok(fall) => fall,
            Err(error) => {
                if let Some(claim) = &claim {
                    self.give_up(claim, deadline).await;
                }
                return Err(error.before_the_change());
            }
        };

        let document = UserDocument::replace(&found, &old, user, password);
        let when = When::At(&found.place);
        let written = match self.client.write(&DocId::of_user(&user.username), when, &document, deadline).await {
            Err(error) if error.is_unknown() => {
                // It may have happened, and then claim and fall are right; if not, the next who meets them will see.
                self.freshness.written();
                return Err(error);
            }
            written => written,
        };
        let done = matches!(written, Ok(Outcome::Done(_) | Outcome::Followed(_)));
        if done {
            self.freshness.written();
        }
        if let Some(claim) = claim.as_ref().filter(|_| !done) {
            self.give_up(claim, deadline).await;
        }
        if fall.is_some() || (done && user.is_active_admin() && !old.is_active_admin()) {
            self.settle(&user.username, fall, deadline).await;
        }
        let place = match written? {
            Outcome::Done(place) => Some(place),
            Outcome::Followed(_) => None,
            Outcome::Conflict(Some(now)) if now.document.fields.rev == old.rev => return Ok(None),
            Outcome::Conflict(Some(now)) => {
                return Err(StoreError::RevConflict { current_rev: now.document.fields.rev }.into());
            }
            Outcome::Conflict(None) => return Err(StoreError::NotFound.into()),
        };
        if let Some(claim) = claim
            && !self.confirm(claim, deadline).await
        {
            let restored = User { email: old.email.clone(), rev: user.rev + 1, ..user.clone() };
            self.take_back(place, document, user, restored, &PasswordChange::Keep, deadline).await?;
            return Err(StoreError::AlreadyExists(Unique::Email).into());
        }
        if let Some(email) = old.email.as_ref().filter(|_| has_new_email) {
            self.release(email, &user.username, deadline).await;
        }
        Ok(Some(self.own_write(user, Some(&found), place)))
    }

    /// The password hash of a user. Nothing else is read: the less there is to read, the less does the time of a login tell
    /// whether there is such a user.
    pub(super) async fn password(
        &self,
        username: &Username,
        deadline: Deadline,
    ) -> Result<Option<PasswordHash>, StoreError> {
        #[derive(Deserialize)]
        struct Stored {
            password: Option<String>,
        }
        let found: Option<Found<Stored>> =
            self.client.get_field(&self.names.users, &DocId::of_user(username), "password", deadline).await?;
        Ok(found.and_then(|found| found.document.password).map(PasswordHash::new))
    }

    /// Replaces `old` by `new` where it is still stored.
    pub(super) async fn upgrade_password(
        &self,
        username: &Username,
        old: &PasswordHash,
        new: &PasswordHash,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        self.unheld(deadline, || Box::pin(self.try_upgrade_password(username, old, new, deadline))).await
    }

    async fn try_upgrade_password(
        &self,
        username: &Username,
        old: &PasswordHash,
        new: &PasswordHash,
        deadline: Deadline,
    ) -> Result<(), WriteError> {
        while let Some(found) = self.user_found(username, deadline).await? {
            if found.document.password.as_deref() != Some(old.expose()) {
                break;
            }
            let mut next = UserDocument::again(&found)?;
            next.password = Some(new.expose().to_owned());
            let when = When::At(&found.place);
            let outcome = self.client.write(&DocId::of_user(username), when, &next, deadline).await?;
            if !matches!(outcome, Outcome::Conflict(_)) {
                self.freshness.written();
                break;
            }
        }
        Ok(())
    }
}
