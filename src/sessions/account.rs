//! Users as this node knows them: one object each, shared by every connection of theirs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Semaphore;

use super::Bucket;
use super::registry::{Entry, Registry};
use crate::store::SCANS_PER_USER;
use crate::users::{User, Username};

/// How many bytes of users whom nobody holds are kept in memory: some 30,000 usual ones, or 1,000 of the largest.
const RECENT_BYTES: u64 = 48 << 20;

/// A user as this node knows them now. There is one for a user on a node.
pub type Account = Entry<String, AccountState>;

/// What is in an [`Account`].
#[derive(Debug)]
pub struct AccountState {
    /// `None` until the user was read.
    user: RwLock<Option<Arc<User>>>,
    /// What is left of the calls that this user may make.
    pub(super) calls: Bucket,
    /// Taken by each of their calls that has the store look at many users.
    pub scans: Semaphore,
    /// Whether it is of a data set that is no longer served.
    forgotten: AtomicBool,
}

impl AccountState {
    fn unread() -> Self {
        let (user, calls, scans) = (RwLock::default(), Bucket::default(), Semaphore::new(SCANS_PER_USER));
        Self { user, calls, scans, forgotten: AtomicBool::new(false) }
    }

    /// The newest state known.
    ///
    /// # Panics
    /// Never: [`Accounts`] gives out an account only once its user was read.
    pub fn user(&self) -> Arc<User> {
        self.known().expect("an account is given out once its user was read")
    }

    fn known(&self) -> Option<Arc<User>> {
        self.user.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a newer state; an older one is ignored.
    fn update(&self, user: &Arc<User>) {
        let mut current = self.user.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| user.rev > current.rev) {
            *current = Some(user.clone());
        }
    }

    /// Whether its user is no longer kept current, since the data set is another one.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}

/// The users that this node knows: all whom a connection belongs to, and the last that were met.
#[derive(Debug)]
pub struct Accounts(Registry<String, AccountState>);

impl Default for Accounts {
    fn default() -> Self {
        Self(Registry::new(RECENT_BYTES))
    }
}

impl Accounts {
    /// The account of a user, if this node knows them.
    pub fn get(&self, username: &Username) -> Option<Arc<Account>> {
        self.0.get(&username.key()).filter(|account| account.known().is_some())
    }

    /// The account of a user who is read now; `None` when there is none. A change that is applied while the user is being
    /// read is not lost: the account is there before.
    pub async fn read<E>(
        &self,
        username: &Username,
        read: impl Future<Output = Result<Option<Arc<User>>, E>>,
    ) -> Result<Option<Arc<Account>>, E> {
        let account = self.0.get_or_insert(username.key(), AccountState::unread);
        let Some(user) = read.await? else { return Ok(None) };
        Ok(Some(self.known_as(account, &user)))
    }

    /// The account of a user who has just been read or made.
    pub fn insert(&self, user: &Arc<User>) -> Arc<Account> {
        self.known_as(self.0.get_or_insert(user.username.key(), AccountState::unread), user)
    }

    fn known_as(&self, account: Arc<Account>, user: &Arc<User>) -> Arc<Account> {
        account.update(user);
        self.keep(&account);
        account
    }

    /// Keeps an account, by the size that its user has now.
    fn keep(&self, account: &Arc<Account>) {
        self.0.keep(account, size_of::<Account>() + account.user().bytes());
    }

    /// Takes over a change of a user, and answers with the newest state; `None` when nobody here holds the account.
    pub fn apply(&self, user: &Arc<User>) -> Option<Arc<User>> {
        let account = self.0.get(&user.username.key())?;
        account.update(user);
        let known = account.known()?;
        self.keep(&account);
        Some(known)
    }

    /// Knows nobody any more; who is held is good for nothing.
    pub fn forget(&self) {
        for account in self.0.forget() {
            account.forgotten.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::users::rules::{self, Act};
    use crate::users::{Email, Role};

    fn act() -> Act {
        Act { actor: None, at: Time::from_ms(0), reason: None }
    }

    fn alice() -> Arc<User> {
        let (name, email) = (Username::parse("alice").unwrap(), Email::parse("alice@example.com").unwrap());
        Arc::new(rules::create(name, email, None, Role::User, act()))
    }

    #[test]
    fn s21_users_whom_nobody_holds_take_a_bounded_memory_however_large_they_are() {
        let accounts = Accounts(Registry::new(1 << 20));
        let large = User { bio: "x".repeat(2_000), ..User::clone(&alice()) };
        let named = |at: usize| Username::parse(&format!("user{at}")).unwrap();
        let kept = |range: std::ops::Range<usize>| range.filter(|at| accounts.get(&named(*at)).is_some()).count();
        for at in 0..1_000 {
            accounts.insert(&Arc::new(User { username: named(at), ..large.clone() }));
        }
        let before = kept(0..1_000);
        assert!(before > 50 && before * large.bytes() <= 1 << 20, "{before} are kept of {} bytes each", large.bytes());
        // Who grows takes the place of others.
        for at in 0..1_000 {
            let user = User { username: named(at), rev: 2, bio: "x".repeat(20_000), ..large.clone() };
            accounts.apply(&Arc::new(user));
        }
        assert!(kept(0..1_000) < before / 4, "{} are kept still", kept(0..1_000));
    }

    #[tokio::test]
    async fn s14_a_revocation_reaches_whoever_holds_a_user_however_they_were_met() {
        let (accounts, before) = (Accounts(Registry::new(1)), alice());
        let after = Arc::new(rules::deactivate(&before, act()).unwrap());
        // Held by one who is about to sign in, while others have taken her place among those met last.
        let held = accounts.insert(&before);
        for at in 0..10 {
            let other = Username::parse(&format!("other{at}")).unwrap();
            accounts.insert(&Arc::new(User { username: other, ..User::clone(&before) }));
        }
        accounts.apply(&after);
        assert_eq!(held.user().generation, 2);
        assert!(Arc::ptr_eq(&held, &accounts.get(&before.username).unwrap()));
    }

    #[tokio::test]
    async fn s14_a_revocation_that_comes_while_a_user_is_read_for_the_first_time_is_not_lost() {
        let (accounts, before) = (Accounts::default(), alice());
        let after = Arc::new(rules::deactivate(&before, act()).unwrap());
        let read = async {
            accounts.apply(&after);
            Ok::<_, ()>(Some(before.clone()))
        };
        let account = accounts.read(&before.username, read).await.unwrap().unwrap();
        assert_eq!(account.user().generation, 2);
    }
}
