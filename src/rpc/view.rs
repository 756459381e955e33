//! A user as one caller may see it: the permission table, written out as JSON.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::permission::{Caller, Field, Target, may_read};
use crate::sessions::CallerUser;
use crate::users::User;

/// A user with the fields that the caller may read.
#[derive(Debug, Clone)]
pub struct UserView {
    user: Arc<User>,
    caller: Caller,
    target: Target,
}

impl UserView {
    /// `user` as `caller` sees it.
    pub fn new(user: Arc<User>, caller: &CallerUser) -> Self {
        let target = caller.target(&user.username);
        Self { user, caller: caller.kind(), target }
    }

    /// `user` as they see themself.
    pub fn of_oneself(user: Arc<User>) -> Self {
        let caller = Caller::from_role(user.role);
        Self { user, caller, target: Target::Oneself }
    }
}

impl Serialize for UserView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let user = &self.user;
        let mut map = serializer.serialize_map(None)?;
        for &field in Field::ALL {
            if !may_read(self.caller, field, self.target) {
                continue;
            }
            let name = field.name();
            match field {
                Field::Username => map.serialize_entry(name, &user.username)?,
                Field::Email => map.serialize_entry(name, &user.email)?,
                Field::DisplayName => map.serialize_entry(name, &user.display_name)?,
                Field::Bio => map.serialize_entry(name, &user.bio)?,
                Field::AvatarUrl => map.serialize_entry(name, &user.avatar_url)?,
                Field::Attributes => map.serialize_entry(name, &user.attributes)?,
                Field::Status => map.serialize_entry(name, &user.status)?,
                Field::Role => map.serialize_entry(name, &user.role)?,
                Field::CreatedAt => map.serialize_entry(name, &user.created_at)?,
                Field::UpdatedAt => map.serialize_entry(name, &user.updated_at)?,
                Field::Rev => map.serialize_entry(name, &user.rev)?,
                Field::LastChange => map.serialize_entry(name, &user.last_change)?,
                // Nobody reads these: the table says so, and there is nothing to write if it did not.
                Field::Generation | Field::PasswordHash | Field::Seq | Field::PrevSeq | Field::Before => {}
            }
        }
        map.end()
    }
}
