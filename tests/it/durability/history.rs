//! What clients asked for and were told, and whether the users that are there afterwards can be explained by it.
//!
//! Every change makes one revision. So a user is explained when the revisions from the last known state to the
//! present one can each be given to a call: to an acknowledged one exactly where it was acknowledged, and to an
//! unanswered one anywhere, or nowhere. A refused call explains nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

/// A user, as far as the calls of the load change them. The display name, the bio and the member `stamp` of the
/// attributes are always set together, to a value that no other call sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub email: String,
    pub display_name: String,
    pub bio: String,
    pub stamp: String,
    pub active: bool,
    pub admin: bool,
    pub rev: u64,
}

impl State {
    /// Reads a user as an admin is shown them.
    pub fn read(user: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            email: text(&user["email"]),
            display_name: text(&user["display_name"]),
            bio: text(&user["bio"]),
            stamp: text(&user["attributes"]["stamp"]),
            active: user["status"] == "active",
            admin: user["role"] == "admin",
            rev: user["rev"].as_u64().expect("a user has a revision"),
        }
    }

    /// A new user.
    pub fn new(username: &str, email: &str) -> Self {
        Self {
            email: email.to_owned(),
            display_name: username.to_owned(),
            bio: String::new(),
            stamp: String::new(),
            active: true,
            admin: false,
            rev: 1,
        }
    }
}

/// What a call asks for.
#[derive(Debug, Clone)]
pub enum Change {
    /// `auth.register` and `users.create`.
    Create { email: String },
    /// `users.update`.
    Update { stamp: String, email: Option<String>, if_rev: Option<u64> },
    /// `users.deactivate` and `users.reactivate`.
    Activate(bool),
    /// `users.set_role`.
    MakeAdmin(bool),
}

impl Change {
    /// The state that it makes of `state`, or `None` where it makes no revision.
    fn apply(&self, username: &str, state: Option<&State>) -> Option<State> {
        let Some(state) = state else {
            return match self {
                Self::Create { email } => Some(State::new(username, email)),
                _ => None,
            };
        };
        let next = State { rev: state.rev + 1, ..state.clone() };
        match self {
            Self::Create { .. } => None,
            Self::Update { if_rev: Some(rev), .. } if *rev != state.rev => None,
            Self::Update { stamp, email, .. } => Some(State {
                email: email.as_ref().unwrap_or(&state.email).clone(),
                display_name: stamp.clone(),
                bio: stamp.clone(),
                stamp: stamp.clone(),
                ..next
            }),
            Self::Activate(active) => (state.active != *active).then_some(State { active: *active, ..next }),
            Self::MakeAdmin(admin) => (state.admin != *admin).then_some(State { admin: *admin, ..next }),
        }
    }

    /// Whether a call that finds `state` may succeed without making a revision.
    fn finds_done(&self, state: &State) -> bool {
        match self {
            Self::Create { .. } | Self::Update { .. } => false,
            Self::Activate(active) => state.active == *active,
            Self::MakeAdmin(admin) => state.admin == *admin,
        }
    }
}

/// One call of a history.
#[derive(Debug)]
struct Call {
    username: String,
    change: Change,
    /// What it was answered, `None` while it is not.
    answer: Option<State>,
}

/// The calls of one round, on top of the states before it.
#[derive(Debug, Default)]
pub struct History {
    before: BTreeMap<String, State>,
    calls: BTreeMap<u64, Call>,
    next: u64,
    open: usize,
    acknowledged: usize,
}

impl History {
    /// A history that begins with these users.
    pub fn new(before: BTreeMap<String, State>) -> Self {
        Self { before, ..Self::default() }
    }

    /// A call is about to be sent: its number.
    pub fn begin(&mut self, username: &str, change: Change) -> u64 {
        self.next += 1;
        self.open += 1;
        self.calls.insert(self.next, Call { username: username.to_owned(), change, answer: None });
        self.next
    }

    /// A call was answered with the user as it made them.
    pub fn acknowledge(&mut self, call: u64, state: State) {
        self.open -= 1;
        self.acknowledged += 1;
        self.calls.get_mut(&call).expect("it was begun").answer = Some(state);
    }

    /// A call was refused: it did nothing.
    pub fn refuse(&mut self, call: u64) {
        self.open -= 1;
        self.calls.remove(&call).expect("it was begun");
    }

    /// How many calls are unanswered.
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many changes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// How many revisions up to `now` nobody was told of.
    pub fn untold(&self, now: &BTreeMap<String, State>) -> u64 {
        let rev = |users: &BTreeMap<String, State>, name: &str| users.get(name).map_or(0, |state| state.rev);
        let made: u64 = now.iter().map(|(name, state)| state.rev - rev(&self.before, name)).sum();
        let answers = self.calls.values().filter_map(|call| Some((call.username.as_str(), call.answer.as_ref()?.rev)));
        let told: BTreeSet<_> = answers.filter(|(name, answer)| *answer > rev(&self.before, name)).collect();
        made - told.len() as u64
    }

    /// The revision that a user had when the history began: for conditions that may or may not hold.
    pub fn rev_before(&self, username: &str) -> Option<u64> {
        self.before.get(username).map(|state| state.rev)
    }

    /// Everything about `now` that the calls do not explain, one line each.
    pub fn unexplained(&self, now: &BTreeMap<String, State>) -> Vec<String> {
        let mut calls: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in self.calls.values() {
            calls.entry(&call.username).or_default().push(call);
        }
        let names: BTreeSet<&str> =
            self.before.keys().chain(now.keys()).map(String::as_str).chain(calls.keys().copied()).collect();
        let mut lines: Vec<String> = names
            .into_iter()
            .filter_map(|name| {
                let calls = calls.get(name).map_or(&[][..], Vec::as_slice);
                explain(name, self.before.get(name), calls, now.get(name)).err()
            })
            .collect();
        let mut holders: BTreeMap<String, &str> = BTreeMap::new();
        for (name, state) in now {
            if let Some(other) = holders.insert(state.email.to_ascii_lowercase(), name) {
                lines.push(format!("{name} and {other} have one address"));
            }
        }
        lines
    }
}

/// Whether the calls lead one user from `before` to `now`.
fn explain(name: &str, before: Option<&State>, calls: &[&Call], now: Option<&State>) -> Result<(), String> {
    let rev = now.map_or(0, |state| state.rev);
    let mut answers: BTreeMap<u64, Vec<(&Change, &State)>> = BTreeMap::new();
    let mut unanswered = Vec::new();
    for call in calls {
        match &call.answer {
            Some(state) if state.rev > rev => {
                return Err(format!("{name}: revision {} was acknowledged, but now it is {rev}", state.rev));
            }
            Some(state) => answers.entry(state.rev).or_default().push((&call.change, state)),
            None => unanswered.push(&call.change),
        }
    }
    let mut search = Search { name, answers, unanswered, now, dead_ends: HashSet::new() };
    let used = vec![false; search.unanswered.len()];
    match search.agrees(before, None) && search.leads_to_now(before.cloned(), used) {
        true => Ok(()),
        false => Err(format!(
            "{name}: {now:?} does not follow from {before:?}; acknowledged {:?}, unanswered {:?}",
            search.answers, search.unanswered
        )),
    }
}

/// The search for an order of one user's calls.
struct Search<'a> {
    name: &'a str,
    answers: BTreeMap<u64, Vec<(&'a Change, &'a State)>>,
    unanswered: Vec<&'a Change>,
    now: Option<&'a State>,
    dead_ends: HashSet<(Option<State>, Vec<bool>)>,
}

impl Search<'_> {
    /// Whether `state` can become the present one by calls that are not used yet.
    fn leads_to_now(&mut self, state: Option<State>, used: Vec<bool>) -> bool {
        let rev = state.as_ref().map_or(0, |state| state.rev);
        if rev >= self.now.map_or(0, |now| now.rev) {
            return state.as_ref() == self.now;
        }
        if self.dead_ends.contains(&(state.clone(), used.clone())) {
            return false;
        }
        let makers = self.answers.get(&(rev + 1)).map_or(0, Vec::len);
        for maker in 0..makers {
            let (change, _) = self.answers[&(rev + 1)][maker];
            if let Some(next) = change.apply(self.name, state.as_ref())
                && self.agrees(Some(&next), Some(maker))
                && self.leads_to_now(Some(next), used.clone())
            {
                return true;
            }
        }
        for at in 0..self.unanswered.len() {
            if used[at] {
                continue;
            }
            if let Some(next) = self.unanswered[at].apply(self.name, state.as_ref())
                && self.agrees(Some(&next), None)
            {
                let mut used = used.clone();
                used[at] = true;
                if self.leads_to_now(Some(next), used) {
                    return true;
                }
            }
        }
        self.dead_ends.insert((state, used));
        false
    }

    /// Whether every answer at the revision of `state` says just this state and, but for the one of its maker, came
    /// of a call that found its change done.
    fn agrees(&self, state: Option<&State>, maker: Option<usize>) -> bool {
        let Some(state) = state else { return true };
        let answers = self.answers.get(&state.rev).map_or(&[][..], Vec::as_slice);
        let fits = |(at, (change, answer)): (usize, &(&Change, &State))| {
            *answer == state && (maker == Some(at) || change.finds_done(state))
        };
        answers.iter().enumerate().all(fits)
    }
}

#[cfg(test)]
mod tests;
