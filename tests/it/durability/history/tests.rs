//! The checker itself: what it must accept, and what it must not.

use super::*;

fn alice() -> State {
    State::new("alice", "alice@example.com")
}

fn stamped(state: &State, stamp: &str) -> State {
    let (display_name, bio, stamp) = (stamp.to_owned(), stamp.to_owned(), stamp.to_owned());
    State { display_name, bio, stamp, rev: state.rev + 1, ..state.clone() }
}

fn update(stamp: &str) -> Change {
    Change::Update { stamp: stamp.to_owned(), email: None, if_rev: None }
}

fn users(states: &[(&str, &State)]) -> BTreeMap<String, State> {
    states.iter().map(|&(name, state)| (name.to_owned(), state.clone())).collect()
}

/// A history of alice alone: `None` for a call that is not answered.
fn history(calls: &[(Change, Option<&State>)]) -> History {
    let mut history = History::new(users(&[("alice", &alice())]));
    for (change, answer) in calls {
        let call = history.begin("alice", change.clone());
        if let Some(state) = answer {
            history.acknowledge(call, (*state).clone());
        }
    }
    history
}

fn explained(calls: &[(Change, Option<&State>)], now: &State) -> bool {
    history(calls).unexplained(&users(&[("alice", now)])).is_empty()
}

#[test]
fn what_was_acknowledged_explains_the_state_and_its_loss_does_not() {
    let (one, two) = (stamped(&alice(), "one"), stamped(&stamped(&alice(), "one"), "two"));
    let calls = [(update("two"), Some(&two)), (update("one"), Some(&one))];
    assert!(explained(&calls, &two));
    assert!(!explained(&calls, &one), "the newest is lost");
    assert!(!explained(&calls, &alice()), "both are lost");
    assert!(!explained(&calls, &State { rev: 3, ..one.clone() }), "the revision is there, its values are not");
}

#[test]
fn an_unanswered_call_may_have_had_its_effect_whole_or_not_at_all() {
    let one = stamped(&alice(), "one");
    let calls = [(update("one"), None)];
    assert!(explained(&calls, &alice()));
    assert!(explained(&calls, &one));
    assert!(!explained(&calls, &State { bio: String::new(), ..one.clone() }), "half of it");
    assert!(!explained(&calls, &State { rev: 1, ..one.clone() }), "without its revision");
    assert!(!explained(&calls, &State { rev: 3, ..one }), "twice");
}

#[test]
fn an_unanswered_call_may_lie_between_acknowledged_ones() {
    let one = stamped(&alice(), "one");
    let admin = State { admin: true, rev: 3, ..one };
    let two = stamped(&admin, "two");
    let calls = [(update("one"), None), (update("never"), None), (Change::MakeAdmin(true), Some(&admin))];
    assert!(explained(&calls, &admin));
    assert!(!explained(&calls, &two), "by nobody");
    assert!(!explained(&[(Change::MakeAdmin(true), Some(&admin))], &admin), "revision 2 by nobody");
}

#[test]
fn a_refused_call_explains_nothing() {
    let mut history = history(&[]);
    let call = history.begin("alice", update("one"));
    history.refuse(call);
    assert_eq!(history.unexplained(&users(&[("alice", &alice())])), Vec::<String>::new());
    assert_eq!(history.unexplained(&users(&[("alice", &stamped(&alice(), "one"))])).len(), 1);
}

#[test]
fn two_acknowledged_updates_cannot_have_one_revision() {
    let one = stamped(&alice(), "one");
    assert!(!explained(&[(update("one"), Some(&one)), (update("one"), Some(&one))], &one));
    let off = State { active: false, rev: 2, ..alice() };
    let calls = [(Change::Activate(false), Some(&off)), (Change::Activate(false), Some(&off))];
    assert!(explained(&calls, &off), "the second found it done");
    assert!(!explained(&[(Change::Activate(true), Some(&off))], &off), "it does not say what was asked for");
}

#[test]
fn a_condition_that_does_not_hold_prevents_the_change() {
    let change = Change::Update { stamp: "one".to_owned(), email: None, if_rev: Some(7) };
    assert!(!explained(&[(change, None)], &stamped(&alice(), "one")));
}

#[test]
fn users_come_by_being_created_and_never_go() {
    let bob = State::new("bob", "bob@example.com");
    let mut history = history(&[]);
    history.begin("bob", Change::Create { email: "bob@example.com".to_owned() });
    assert!(history.unexplained(&users(&[("alice", &alice())])).is_empty());
    assert!(history.unexplained(&users(&[("alice", &alice()), ("bob", &bob)])).is_empty());
    assert_eq!(history.unexplained(&users(&[("alice", &alice()), ("carol", &bob)])).len(), 1);
    assert_eq!(history.unexplained(&users(&[("bob", &bob)])).len(), 1);
    let again = State { email: "ALICE@example.com".to_owned(), ..bob };
    assert_eq!(history.unexplained(&users(&[("alice", &alice()), ("bob", &again)])).len(), 2, "one address twice");
}
