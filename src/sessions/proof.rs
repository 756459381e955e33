//! The right to a call that waits: judged when the call comes, and once more in the step that writes.

use std::sync::Arc;

use uuid::Uuid;

use super::Peer;
use crate::permission::{Caller, Method, Target, Verdict, is_privileged, may_call};
use crate::store::PasswordHash;
use crate::users::{Status, User, Username};

/// Who makes a call, and what they have shown for it. Whatever changes a user or ends a session takes one, and judges it
/// by what the caller is at that moment.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The connection that asks; its socket closes after its reply where the change ends its own session.
    pub peer: Arc<Peer>,
    /// What it asks for.
    pub method: Method,
    /// The password that the caller has proven to know, where the method wants that.
    pub password: Option<ProvenPassword>,
    /// The caller's session, where it goes on although the change ends all.
    pub spared: Option<Uuid>,
}

/// A password that was right when it was checked.
#[derive(Debug, Clone)]
pub struct ProvenPassword {
    /// The user's revision before the hash was read. While the user is at that revision, the password is the same.
    pub rev: u64,
    /// What was stored.
    pub hash: PasswordHash,
}

/// Whom a change is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// Nobody there is.
    Nobody,
    /// This user.
    Somebody(&'a Username),
    /// The user whose state is this, as it will be replaced. Where it is the caller's own, it is the one that is judged.
    State(&'a User),
}

/// What a caller has lost since the call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Their session, or all of them.
    Session,
    /// The right, for another role.
    Right,
    /// The right to do so to themselves.
    RightOnOneself,
    /// The role that allows it may be stale: the store was not heard of.
    Contact,
    /// The password is another.
    Password,
}

impl Proof {
    /// Of a connection that asks for this.
    pub fn new(peer: &Arc<Peer>, method: Method) -> Self {
        Self { peer: peer.clone(), method, password: None, spared: None }
    }

    /// With the password that the caller has proven to know.
    pub fn with_password(self, password: ProvenPassword) -> Self {
        Self { password: Some(password), ..self }
    }

    /// Where the caller's session is spared.
    pub fn sparing(self, session: Uuid) -> Self {
        Self { spared: Some(session), ..self }
    }

    /// Whether the caller may still do it, by their session, generation and role now. `has_contact` is whether the store
    /// was heard of lately.
    pub fn judge(&self, about: About<'_>, has_contact: bool) -> Result<(), Lost> {
        let (mut caller, mut target) = (Caller::Anonymous, Target::Another);
        if let Some(identity) = self.peer.identity() {
            let user = identity.current_user().ok_or(Lost::Session)?;
            caller = Caller::from_role(user.role);
            match about {
                About::Somebody(name) if *name == user.username => target = Target::Oneself,
                About::State(now) if now.username == user.username => {
                    if identity.generation < now.generation || now.status != Status::Active {
                        return Err(Lost::Session);
                    }
                    (caller, target) = (Caller::from_role(now.role), Target::Oneself);
                }
                About::Nobody | About::Somebody(_) | About::State(_) => {}
            }
        }
        if matches!(about, About::Nobody) {
            target = Target::Nobody;
        }
        match may_call(caller, self.method, target) {
            Verdict::Allowed if is_privileged(caller, self.method, target) && !has_contact => Err(Lost::Contact),
            Verdict::Allowed => Ok(()),
            Verdict::SignInFirst => Err(Lost::Session),
            Verdict::Forbidden => Err(Lost::Right),
            Verdict::OwnPassword => Err(Lost::RightOnOneself),
        }
    }
}
