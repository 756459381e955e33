//! A user as one caller may see it: the permission table, written out as JSON.
//!
//! The table shows a user in two forms, and each state is written at most once in each: a session's own user,
//! or one that many read, costs a copy.

use std::sync::Arc;

use serde::ser::{Error, Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::permission::{Caller, Field, Target, may_read};
use crate::sessions::CallerUser;
use crate::users::User;

/// A user with the fields that the caller may read.
#[derive(Debug, Clone)]
pub struct UserView {
    user: Arc<User>,
    form: Form,
}

/// Which fields are shown. That there are no other sets of fields is tested below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// To the user themself and to admins.
    Full,
    /// To everyone signed in.
    Public,
}

impl Form {
    /// The form in which `caller` sees `target`.
    pub fn of(caller: Caller, target: Target) -> Self {
        if may_read(caller, Field::Email, target) { Self::Full } else { Self::Public }
    }

    /// Whether this form has the field.
    pub fn shows(self, field: Field) -> bool {
        let target = match self {
            Self::Full => Target::Oneself,
            Self::Public => Target::Another,
        };
        may_read(Caller::User, field, target)
    }
}

impl UserView {
    /// `user` as `caller` sees it.
    pub fn new(user: Arc<User>, caller: &CallerUser) -> Self {
        let form = Form::of(caller.kind(), caller.target(&user.username));
        Self::in_form(user, form)
    }

    /// `user` in one form.
    pub fn in_form(user: Arc<User>, form: Form) -> Self {
        Self { user, form }
    }

    /// `user` as they see themself.
    pub fn of_oneself(user: Arc<User>) -> Self {
        Self::in_form(user, Form::Full)
    }
}

impl Serialize for UserView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = match self.form {
            Form::Full => &self.user.encoded.full,
            Form::Public => &self.user.encoded.public,
        };
        if let Some(json) = encoded.get() {
            return json.serialize(serializer);
        }
        let json: Box<RawValue> = to_raw_value(&Fields(&self.user, self.form)).map_err(S::Error::custom)?;
        encoded.get_or_init(|| json).serialize(serializer)
    }
}

/// A user's fields in one form.
struct Fields<'a>(&'a User, Form);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(user, form) = self;
        let mut map = serializer.serialize_map(None)?;
        for &field in Field::ALL.iter().filter(|&&field| form.shows(field)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a01_every_cell_of_the_table_shows_one_of_the_two_forms() {
        for caller in [Caller::User, Caller::Admin] {
            for target in [Target::Oneself, Target::Another] {
                let form = Form::of(caller, target);
                for &field in Field::ALL {
                    assert_eq!(form.shows(field), may_read(caller, field, target), "{caller:?} {target:?} {field:?}");
                }
            }
        }
    }
}
