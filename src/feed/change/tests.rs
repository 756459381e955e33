//! The judgement of `in` and `out` against a model that remembers every state.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::store::Position;
use crate::users::rules::{self, Act};
use crate::users::{Email, Role};

/// Users of the model.
const USERS: usize = 4;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// This user changes, into the filter or out of it.
    Write(usize, bool),
    /// The reader takes a page of so many.
    Read(usize),
    /// The reader takes a page, but is cut off behind so many of its changes and returns with that position.
    Cut(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..USERS, any::<bool>()).prop_map(|(user, matches)| Step::Write(user, matches)),
        2 => (1..4_usize).prop_map(Step::Read),
        1 => (1..4_usize, 1..4_usize).prop_map(|(limit, taken)| Step::Cut(limit, taken)),
    ]
}

/// A store that keeps newest states only.
#[derive(Default)]
struct Store {
    records: BTreeMap<usize, Record>,
    last: u64,
}

impl Store {
    fn write(&mut self, user: usize, matches: bool) {
        self.last += 1;
        let old = self.records.get(&user);
        let username = Username::parse(&format!("user{user}")).unwrap();
        let email = Email::parse("user@example.com").unwrap();
        let act = Act { actor: None, at: Time::from_ms(0), reason: None };
        let name = if matches { "in" } else { "out" };
        let mut state = rules::create(username, email, Some(name.to_owned()), Role::User, act);
        state.rev = old.map_or(0, |old| old.user.rev) + 1;
        let before = old.map(|old| Before {
            email: None,
            display_name: old.user.display_name.clone(),
            status: old.user.status,
            role: old.user.role,
            updated_at: old.user.updated_at,
            rev: old.user.rev,
        });
        let prev_seq = old.map(|old| old.seq);
        self.records.insert(user, Record { user: Arc::new(state), shard: 0, seq: self.last, prev_seq, before });
    }

    fn page(&self, from: u64, limit: usize) -> Changes {
        let mut records: Vec<Record> = self.records.values().filter(|record| record.seq > from).cloned().collect();
        records.sort_by_key(|record| record.seq);
        let more = records.len() > limit;
        records.truncate(limit);
        let position = position(records.last().map_or(from, |record| record.seq));
        Changes { records, position, more, complete: !more }
    }
}

fn position(number: u64) -> Position {
    Position { history: "model".to_owned(), numbers: vec![number], former: None }
}

/// A client with a filter: what it holds, and where it is.
struct Client {
    place: Place,
    held: BTreeSet<String>,
    outs: usize,
}

impl Client {
    fn read(&mut self, store: &Store, filter: &Filter, limit: usize, taken: usize) {
        let (changes, after) = changes_of(&self.place, store.page(self.place.position.numbers[0], limit));
        let cut = taken < changes.len();
        for change in changes.iter().take(taken) {
            let name = change.user().username.as_str().to_owned();
            match change.scope(Some(filter)) {
                Some(Scope::In) => drop(self.held.insert(name)),
                Some(Scope::Out) => {
                    self.outs += 1;
                    self.held.remove(&name);
                }
                None => {}
            }
            // What a client has is the text.
            self.place = Place::decode(&change.place.encode()).unwrap();
        }
        if !cut {
            self.place = after;
        }
    }
}

fn matching(store: &Store) -> BTreeSet<String> {
    let matching = store.records.values().filter(|record| record.user.display_name == "in");
    matching.map(|record| record.user.username.as_str().to_owned()).collect()
}

proptest! {
    #[test]
    fn whoever_reads_to_the_end_holds_exactly_who_matches(steps in prop::collection::vec(step(), 1..60)) {
        let filter = Filter::parse(&json!({"display_name": {"eq": "in"}})).unwrap();
        let mut store = Store::default();
        let mut client = Client { place: Place::complete(position(0)), held: BTreeSet::new(), outs: 0 };
        for step in steps {
            match step {
                Step::Write(user, matches) => store.write(user, matches),
                Step::Read(limit) => client.read(&store, &filter, limit, limit),
                Step::Cut(limit, taken) => client.read(&store, &filter, limit, taken),
            }
        }
        while client.place != Place::complete(position(store.last)) {
            client.read(&store, &filter, 2, 2);
        }
        prop_assert_eq!(client.held, matching(&store));
    }

    #[test]
    fn whoever_misses_no_state_is_told_of_nobody_whom_they_did_not_hold(
        writes in prop::collection::vec((0..USERS, any::<bool>()), 1..40),
    ) {
        let filter = Filter::parse(&json!({"display_name": {"eq": "in"}})).unwrap();
        let mut store = Store::default();
        let mut client = Client { place: Place::complete(position(0)), held: BTreeSet::new(), outs: 0 };
        for (user, matches) in writes {
            store.write(user, matches);
            let (held, outs) = (client.held.len(), client.outs);
            client.read(&store, &filter, 1, 1);
            prop_assert_eq!(client.outs - outs, held.saturating_sub(client.held.len()));
            prop_assert_eq!(&client.held, &matching(&store));
        }
    }
}
