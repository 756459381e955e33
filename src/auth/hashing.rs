//! Password hashes: made and checked by a pool of threads of its own, so that no other call waits for one.
//!
//! bcrypt reads the first 72 bytes and stops at a NUL. So it never sees a password: it gets the text of a keyed
//! hash of it, 44 characters long whatever the password is. The key (the pepper) is not in the store, so a copy of the
//! store alone does not allow guessing.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;
use tracing::{error, info};
use zeroize::Zeroizing;

use super::password::{Password, Policy};
use super::pool::{Pool, Undone};
use crate::store::PasswordHash;
use crate::users::user::Refusal;

/// The lowest cost that bcrypt has: for tests. What a gateway may be configured with is `config`'s question.
pub const COST_MIN: u32 = 4;
/// The highest cost, of new hashes and stored ones alike: one check takes about a minute. Beyond it, a single
/// planted hash would hold a thread for hours.
pub const COST_MAX: u32 = 20;
/// The shortest pepper, in bytes: as long as the output of SHA-256.
pub const PEPPER_MIN_BYTES: usize = 32;

/// The secret that keys the pre-hash, kept outside the store. Zeroed on drop; its `Debug` is redacted.
#[derive(Debug)]
pub struct Pepper(SecretSlice<u8>);

impl Pepper {
    /// Takes over a secret of at least 32 bytes; `None` when it is shorter.
    pub fn new(secret: Vec<u8>) -> Option<Self> {
        let secret = SecretSlice::from(secret);
        (secret.expose_secret().len() >= PEPPER_MIN_BYTES).then_some(Self(secret))
    }
}

/// How the pool hashes.
#[derive(Debug)]
pub struct HashingOptions {
    /// How many threads; `None` is one a core.
    pub threads: Option<NonZeroUsize>,
    /// The base-2 logarithm of bcrypt's rounds, from [`COST_MIN`] to [`COST_MAX`].
    pub cost: u32,
    /// The key of the pre-hash. Hashes made with another one accept no password.
    pub pepper: Pepper,
    /// The most jobs that wait for a thread; one more is refused with [`Busy`]. Zero counts as one.
    pub queue: usize,
}

/// What a check of a password found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not the password, or nobody to have one.
    Wrong,
    /// The password.
    Right,
    /// The password, under a hash cheaper than new ones are: hash it again.
    RightButWeak,
}

/// The pool cannot take this now: its queue is full, or it is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords to hash")]
pub struct Busy {
    /// When the queue will have been worked off, as far as one can tell.
    pub retry_after: Duration,
}

/// Makes and checks password hashes. Dropping it, or [`Hasher::close`], ends its threads.
pub struct Hasher {
    pool: Pool,
    bcrypt: Arc<Bcrypt>,
    threads: NonZeroUsize,
    time_per_hash: Duration,
}

impl Hasher {
    /// Starts the threads, after timing one hash on the calling one (about a quarter of a second at cost 12).
    ///
    /// Errors: `InvalidInput` for a cost out of range; the operating system's when it gives no more threads.
    pub fn start(options: HashingOptions) -> std::io::Result<Self> {
        let HashingOptions { threads, cost, pepper, queue } = options;
        if !(COST_MIN..=COST_MAX).contains(&cost) {
            let message = format!("a bcrypt cost must be between {COST_MIN} and {COST_MAX}");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
        }
        let threads = threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let started = Instant::now(); // processor time matters here, also where a test has stopped tokio's clock
        let bcrypt = Arc::new(Bcrypt::new(cost, pepper));
        let time_per_hash = started.elapsed();
        let pool = Pool::start(threads.get(), queue.max(1))?;
        let ms = time_per_hash.as_millis() as u64;
        info!(bcrypt.cost = cost, ms_per_hash = ms, threads, "a password hash takes {ms} ms at cost {cost}");
        Ok(Self { pool, bcrypt, threads, time_per_hash })
    }

    /// A new hash of `password`. Errors: [`Busy`]. When the future is dropped early enough, nothing is computed.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, Busy> {
        let bcrypt = self.bcrypt.clone();
        self.pool.run(move || bcrypt.hash(&password)).await.map_err(|undone| self.busy(undone))
    }

    /// A hash of `text` as the new password of a user of this name and address, if `policy` lets them choose it.
    ///
    /// Errors: outside, [`Busy`]; inside, the refusals of [`Policy::check`], which may take as long as a sixth of a
    /// hash and is therefore done here.
    pub async fn hash_new(
        &self,
        policy: &Arc<Policy>,
        text: &str,
        username: &str,
        email: &str,
    ) -> Result<Result<PasswordHash, Refusal>, Busy> {
        let password = match Password::parse(text) {
            Ok(password) => password,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (bcrypt, policy) = (self.bcrypt.clone(), policy.clone());
        let (username, email) = (username.to_owned(), email.to_owned());
        let work = move || policy.check(password.expose(), &username, &email).map(|password| bcrypt.hash(&password));
        self.pool.run(work).await.map_err(|undone| self.busy(undone))
    }

    /// Whether `password` is the one that `stored` was made of. Errors: [`Busy`].
    ///
    /// `None`, for a user who does not exist or has no password, is always `Wrong`, in the same time: every check costs
    /// what a new hash costs, unless the stored hash is a costlier one.
    pub async fn verify(&self, password: Password, stored: Option<PasswordHash>) -> Result<Verdict, Busy> {
        let bcrypt = self.bcrypt.clone();
        self.pool.run(move || bcrypt.verify(&password, stored.as_ref())).await.map_err(|undone| self.busy(undone))
    }

    /// How long one hash took at start.
    pub fn time_per_hash(&self) -> Duration {
        self.time_per_hash
    }

    /// How many hashes wait for a thread.
    pub fn waiting(&self) -> usize {
        self.pool.queued()
    }

    /// Refuses new work, drops what waits and ends the threads. Blocks while they finish what they have in hand, at
    /// most one hash each.
    pub fn close(&self) {
        self.pool.close();
    }

    fn busy(&self, undone: Undone) -> Busy {
        let ahead = match undone {
            Undone::Full => self.pool.queued() + 1,
            Undone::Lost => 1,
        };
        let rounds = u32::try_from(ahead.div_ceil(self.threads.get())).unwrap_or(u32::MAX);
        Busy { retry_after: self.time_per_hash.saturating_mul(rounds) }
    }
}

/// bcrypt at one cost, over the keyed pre-hash.
struct Bcrypt {
    cost: u32,
    pepper: Pepper,
    /// What is checked where there is no hash; its result is not looked at.
    dummy: PasswordHash,
}

impl Bcrypt {
    fn new(cost: u32, pepper: Pepper) -> Self {
        Self { cost, pepper, dummy: bcrypt_hash(b"no pre-hash is this", cost) }
    }

    fn hash(&self, password: &Password) -> PasswordHash {
        bcrypt_hash(self.prehash(password).as_bytes(), self.cost)
    }

    fn verify(&self, password: &Password, stored: Option<&PasswordHash>) -> Verdict {
        let prehash = self.prehash(password);
        let check = self.check_of(stored);
        let right = bcrypt::verify(prehash.as_bytes(), check.hash.expose()).expect("its cost was read from this text");
        for cost in check.more {
            let _ = bcrypt::hash_with_salt(prehash.as_bytes(), cost, [0; 16]);
        }
        match right && check.known {
            true if check.cost < self.cost => Verdict::RightButWeak,
            true => Verdict::Right,
            false => Verdict::Wrong,
        }
    }

    /// What to do about a stored hash so that the time shows neither its absence nor that it is a cheaper one.
    fn check_of<'a>(&'a self, stored: Option<&'a PasswordHash>) -> Check<'a> {
        match stored.and_then(|stored| Some((stored, stored_cost(stored)?))) {
            Some((hash, cost)) => Check { hash, cost, known: true, more: cost..self.cost },
            None => Check { hash: &self.dummy, cost: self.cost, known: false, more: 0..0 },
        }
    }

    /// HMAC-SHA-256 of the normalised password under the pepper, in base64: no NUL, and less than 72 bytes.
    fn prehash(&self, password: &Password) -> Zeroizing<String> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.pepper.0.expose_secret()).expect("HMAC takes a key of any length");
        mac.update(password.expose().as_bytes());
        Zeroizing::new(STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The work of one check: 2^`cost` rounds, then 2^c for each c of `more`.
///
/// A hash of a lower cost c than the configured C still takes 2^c + (2^c + 2^(c+1) + … + 2^(C-1)) = 2^C.
struct Check<'a> {
    hash: &'a PasswordHash,
    cost: u32,
    /// Whether `hash` is the stored one.
    known: bool,
    more: Range<u32>,
}

/// The cost of a stored hash, or `None` for a text that no check can be made against; that is logged, without the text.
fn stored_cost(stored: &PasswordHash) -> Option<u32> {
    let cost = bcrypt::HashParts::from_str(stored.expose()).ok().map(|parts| parts.get_cost());
    let usable = cost.filter(|cost| (COST_MIN..=COST_MAX).contains(cost));
    if usable.is_none() {
        error!(bcrypt.cost = cost, "a stored password hash is malformed; its user cannot log in");
    }
    usable
}

/// bcrypt with a fresh salt. A panic, when the operating system has no randomness, costs the one caller.
fn bcrypt_hash(text: &[u8], cost: u32) -> PasswordHash {
    PasswordHash::new(bcrypt::hash(text, cost).expect("the cost was checked at start, and there is randomness"))
}

#[cfg(test)]
mod tests;
