//! What a subscriber was told, and whether it may have been told that.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The users that a subscriber holds: what a careful client keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// By name the newest revision heard of, and whether the user is in.
    known: BTreeMap<String, (u64, bool)>,
}

impl Held {
    /// Takes over a page of a snapshot or list.
    pub fn add(&mut self, users: &Value) {
        for user in users.as_array().expect("a page has users") {
            self.take(user, true);
        }
    }

    /// Applies a change. False for one that was known already.
    pub fn apply(&mut self, params: &Value) -> bool {
        self.take(&params["user"], params["scope"] == "in")
    }

    /// The revisions of the users who are in.
    pub fn users(&self) -> BTreeMap<&str, u64> {
        self.known.iter().filter(|(_, (_, is_in))| *is_in).map(|(name, (rev, _))| (name.as_str(), *rev)).collect()
    }

    fn take(&mut self, user: &Value, is_in: bool) -> bool {
        let name = user["username"].as_str().expect("a user has a name").to_owned();
        let rev = user["rev"].as_u64().expect("a user has a revision");
        let known = self.known.entry(name).or_default();
        let is_news = rev > known.0;
        if is_news {
            *known = (rev, is_in);
        }
        is_news
    }
}

/// A filter, and the same rule written by hand for users as they are shown.
#[derive(Debug, Clone)]
pub struct Watched {
    pub filter: Option<Value>,
    pub matches: fn(&Value) -> bool,
}

impl Watched {
    /// Filters of every kind; the last can be used by admins only.
    pub fn all() -> Vec<Self> {
        vec![
            Self { filter: None, matches: |_| true },
            Self { filter: Some(json!({"status": {"eq": "active"}})), matches: |user| user["status"] == "active" },
            Self {
                filter: Some(json!({"display_name": {"prefix": "X"}})),
                matches: |user| user["display_name"].as_str().is_some_and(|name| name.starts_with('x')),
            },
            Self {
                filter: Some(json!({"or": [{"role": {"eq": "admin"}}, {"not": {"display_name": {"prefix": "x"}}}]})),
                matches: |user| {
                    user["role"] == "admin" || !user["display_name"].as_str().is_some_and(|name| name.starts_with('x'))
                },
            },
            Self {
                filter: Some(json!({"email": {"prefix": "user1"}})),
                matches: |user| user["email"].as_str().is_some_and(|email| email.starts_with("user1")),
            },
        ]
    }

    /// Of all users as they are now, the revisions of those who match.
    pub fn expected<'a>(&self, users: &'a [Value]) -> BTreeMap<&'a str, u64> {
        let matching = users.iter().filter(|user| (self.matches)(user));
        matching
            .map(|user| (user["username"].as_str().expect("a name"), user["rev"].as_u64().expect("a rev")))
            .collect()
    }

    /// What is wrong with a change by itself.
    pub fn fault(&self, params: &Value) -> Option<String> {
        let (user, is_in) = (&params["user"], params["scope"] == "in");
        (is_in && !(self.matches)(user)).then(|| format!("in, but does not match: {user}"))
    }
}
