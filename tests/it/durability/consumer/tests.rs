//! The consumer itself: what it must accept, and what it must not.

use std::sync::Arc;

use doorward::users::rules::{Act, create};
use doorward::users::{Email, Role, User, Username};

use super::*;

fn record(rev: u64, seq: u64, prev_seq: Option<u64>) -> Record {
    let act = Act { actor: None, at: doorward::clock::Clock::default().now(), reason: None };
    let (name, email) = (Username::parse("alice").unwrap(), Email::parse("alice@example.com").unwrap());
    let user = User { rev, ..create(name, email, None, Role::User, act) };
    Record { user: Arc::new(user), shard: 0, seq, prev_seq, before: None }
}

fn at(rev: u64) -> BTreeMap<String, State> {
    [("alice".to_owned(), State { rev, ..State::new("alice", "alice@example.com") })].into()
}

fn position(number: u64) -> Position {
    Position { history: "one".to_owned(), numbers: vec![number], former: None }
}

/// A consumer that knows alice at revision 1, number 1.
fn consumer(numbers: Numbers) -> Consumer {
    let mut consumer = Consumer::new(position(0), numbers);
    assert_eq!(consumer.take(&[record(1, 1, None)], position(1), &at(1)), Vec::<String>::new());
    consumer
}

#[test]
fn a_feed_has_every_revision_in_order_and_no_number_for_nothing() {
    let mut consumer = consumer(Numbers::OnePerRevision);
    assert_eq!(consumer.take(&[record(3, 3, Some(2))], position(3), &at(3)), Vec::<String>::new());
    assert_eq!(consumer.take(&[record(4, 4, Some(3))], position(4), &at(4)), Vec::<String>::new());
    assert!(!consumer.take(&[], position(4), &at(5)).is_empty(), "a change is missing");
}

#[test]
fn a_feed_that_is_wrong_is_told() {
    let wrong = [
        (vec![], 2, 1, "a number without a change"),
        (vec![record(2, 2, Some(1))], 3, 2, "a number too many"),
        (vec![record(2, 3, Some(1))], 3, 2, "a number is skipped"),
        (vec![record(2, 1, Some(1))], 1, 2, "a number twice"),
        (vec![record(1, 2, Some(1))], 2, 1, "no new revision"),
        (vec![record(2, 2, Some(0))], 2, 2, "it does not follow the state before"),
        (vec![record(2, 2, None)], 2, 2, "it says it is new"),
    ];
    for (records, end, rev, why) in wrong {
        let lines = consumer(Numbers::OnePerRevision).take(&records, position(end), &at(rev));
        assert!(!lines.is_empty(), "{why}");
    }
}

#[test]
fn where_numbers_may_stand_for_nothing_a_revision_still_needs_one() {
    let right = [
        (vec![], 2, 1, "a number without a change"),
        (vec![record(1, 2, None)], 2, 1, "alice written once more"),
        (vec![record(2, 4, Some(2))], 5, 2, "and then changed"),
    ];
    for (records, end, rev, what) in right {
        let lines = consumer(Numbers::AtLeastOnePerRevision).take(&records, position(end), &at(rev));
        assert_eq!(lines, Vec::<String>::new(), "{what}");
    }
    let wrong = [
        (vec![record(3, 2, Some(1))], 2, 3, "two revisions by one number"),
        (vec![record(2, 3, Some(2))], 2, 2, "a number behind the end"),
        (vec![record(2, 2, Some(0))], 2, 2, "it does not follow the state before"),
    ];
    for (records, end, rev, why) in wrong {
        let lines = consumer(Numbers::AtLeastOnePerRevision).take(&records, position(end), &at(rev));
        assert!(!lines.is_empty(), "{why}");
    }
}

#[test]
fn behind_an_earlier_position_is_everybody_who_was_written_since() {
    let consumer = consumer(Numbers::OnePerRevision);
    assert_eq!(consumer.resume(&position(0), &[record(1, 1, None)]), Vec::<String>::new());
    assert_eq!(consumer.resume(&position(1), &[]), Vec::<String>::new());
    assert_eq!(consumer.resume(&position(0), &[]).len(), 1, "alice is missing");
    assert_eq!(consumer.resume(&position(1), &[record(1, 1, None)]).len(), 1, "alice was given before");
}
