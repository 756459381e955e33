//! How a user changes: pure functions from one state to the next.
//!
//! Each answers with `None` when nothing would change, and else with a state one revision later whose
//! `last_change` says what happened. Who may ask is decided in `permission`; what must hold among all
//! users (unique addresses, the last admin) is the store's to refuse.

use crate::clock::Time;
use crate::users::{Attributes, Change, ChangeKind, Email, Encoded, Role, Status, User, Username};

/// Who changes a user, when, and why.
#[derive(Debug, Clone)]
pub struct Act {
    /// The user who acts; `None` is the command line, or the user-to-be at registration.
    pub actor: Option<Username>,
    /// When.
    pub at: Time,
    /// In the actor's words.
    pub reason: Option<String>,
}

/// Changes to the profile and address; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    /// A new display name; an inner `None` restores the username.
    pub display_name: Option<Option<String>>,
    /// A new bio.
    pub bio: Option<String>,
    /// A new avatar URL, or none.
    pub avatar_url: Option<Option<String>>,
    /// New attributes, replacing the former ones whole.
    pub attributes: Option<Attributes>,
    /// A new address.
    pub email: Option<Email>,
}

/// A new user at revision 1.
pub fn create(username: Username, email: Email, display_name: Option<String>, role: Role, act: Act) -> User {
    let display_name = display_name.unwrap_or_else(|| username.as_str().to_owned());
    let fields = ["username", "email", "display_name", "role"].map(str::to_owned).to_vec();
    let last_change = Change { kind: ChangeKind::Created, fields, actor: act.actor, at: act.at, reason: act.reason };
    User {
        username,
        email: Some(email),
        display_name,
        bio: String::new(),
        avatar_url: None,
        attributes: Attributes::default(),
        status: Status::Active,
        role,
        created_at: act.at,
        updated_at: act.at,
        rev: 1,
        last_change,
        generation: 1,
        encoded: Encoded::default(),
    }
}

/// The profile with `patch` applied.
pub fn update(user: &User, patch: &Patch, act: Act) -> Option<User> {
    let mut next = user.clone();
    let mut fields = Vec::new();
    if let Some(display_name) = &patch.display_name {
        let display_name = display_name.clone().unwrap_or_else(|| user.username.as_str().to_owned());
        set(&mut next.display_name, display_name, "display_name", &mut fields);
    }
    if let Some(bio) = &patch.bio {
        set(&mut next.bio, bio.clone(), "bio", &mut fields);
    }
    if let Some(avatar_url) = &patch.avatar_url {
        set(&mut next.avatar_url, avatar_url.clone(), "avatar_url", &mut fields);
    }
    if let Some(attributes) = &patch.attributes {
        set(&mut next.attributes, attributes.clone(), "attributes", &mut fields);
    }
    if let Some(email) = &patch.email {
        set(&mut next.email, Some(email.clone()), "email", &mut fields);
    }
    (!fields.is_empty()).then(|| stamp(next, ChangeKind::Updated, &fields, act))
}

/// The account closed; its tokens die.
pub fn deactivate(user: &User, act: Act) -> Option<User> {
    (user.status == Status::Active).then(|| {
        let next = User { status: Status::Deactivated, generation: user.generation + 1, ..user.clone() };
        stamp(next, ChangeKind::Deactivated, &["status"], act)
    })
}

/// The account open again. Its tokens of before stay dead.
pub fn reactivate(user: &User, act: Act) -> Option<User> {
    (user.status == Status::Deactivated).then(|| {
        let next = User { status: Status::Active, ..user.clone() };
        stamp(next, ChangeKind::Reactivated, &["status"], act)
    })
}

/// Another role; the tokens that carry the former one die.
pub fn set_role(user: &User, role: Role, act: Act) -> Option<User> {
    (user.role != role).then(|| {
        let next = User { role, generation: user.generation + 1, ..user.clone() };
        stamp(next, ChangeKind::RoleChanged, &["role"], act)
    })
}

/// The state after a new password; all tokens die.
pub fn set_password(user: &User, act: Act) -> User {
    let next = User { generation: user.generation + 1, ..user.clone() };
    stamp(next, ChangeKind::Updated, &["password"], act)
}

/// The state after a new password of the user's own choice; all tokens die, unless the user `keeps` them.
pub fn change_password(user: &User, keeps: bool, act: Act) -> User {
    let next = set_password(user, act);
    if keeps { User { generation: user.generation, ..next } } else { next }
}

/// Personal data blanked for good. The name stays, so that it is never given to another.
pub fn erase(user: &User, act: Act) -> Option<User> {
    (user.status != Status::Erased).then(|| {
        let next = User {
            email: None,
            display_name: user.username.as_str().to_owned(),
            bio: String::new(),
            avatar_url: None,
            attributes: Attributes::default(),
            status: Status::Erased,
            role: Role::User,
            generation: user.generation + 1,
            ..user.clone()
        };
        let fields = ["email", "display_name", "bio", "avatar_url", "attributes", "status", "role"];
        stamp(next, ChangeKind::Erased, &fields, act)
    })
}

fn set<T: PartialEq>(slot: &mut T, value: T, name: &'static str, fields: &mut Vec<&'static str>) {
    if *slot != value {
        *slot = value;
        fields.push(name);
    }
}

fn stamp(mut next: User, kind: ChangeKind, fields: &[&str], act: Act) -> User {
    next.rev += 1;
    next.updated_at = act.at;
    next.last_change = Change {
        kind,
        fields: fields.iter().map(|&field| field.to_owned()).collect(),
        actor: act.actor,
        at: act.at,
        reason: act.reason,
    };
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        Act { actor: None, at: Time::from_ms(7), reason: None }
    }

    fn alice() -> User {
        let email = Email::parse("alice@example.com").unwrap();
        create(Username::parse("alice").unwrap(), email, None, Role::User, act())
    }

    #[test]
    fn a_patch_that_changes_nothing_makes_no_revision() {
        let patch = Patch { bio: Some(String::new()), display_name: Some(None), ..Patch::default() };
        assert_eq!(update(&alice(), &patch, act()), None);
    }

    #[test]
    fn every_change_is_one_revision_later_and_says_what_it_did() {
        let alice = alice();
        let patch = Patch { bio: Some("hello".into()), ..Patch::default() };
        let changes = [
            (update(&alice, &patch, act()), ChangeKind::Updated, 1),
            (deactivate(&alice, act()), ChangeKind::Deactivated, 2),
            (set_role(&alice, Role::Admin, act()), ChangeKind::RoleChanged, 2),
            (Some(set_password(&alice, act())), ChangeKind::Updated, 2),
            (erase(&alice, act()), ChangeKind::Erased, 2),
        ];
        for (next, kind, generation) in changes {
            let next = next.unwrap();
            assert_eq!((next.rev, next.last_change.kind, next.generation), (2, kind, generation));
        }
        assert_eq!(reactivate(&alice, act()), None);
    }

    #[test]
    fn erasing_keeps_the_name_and_nothing_else_of_the_person() {
        let erased = erase(&alice(), act()).unwrap();
        assert_eq!((erased.username.as_str(), erased.email, erased.status), ("alice", None, Status::Erased));
        assert_eq!(erase(&User { status: Status::Erased, ..alice() }, act()), None);
    }
}
