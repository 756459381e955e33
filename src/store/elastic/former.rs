//! Positions of before a migration.
//!
//! A document that was copied keeps its place in the index it came from, until its next change. So what came after a
//! position of that index is: copied documents whose former number is greater, and all that were written since.

use serde_json::{Value, json};

use super::SHARDS_MAX;
use super::changes::{ChangeDocument, Written};
use super::index::Meta;
use crate::store::Position;

/// The greatest number that an index can give: those of Elasticsearch are signed, and counted from 0.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// A position as one of the index of now; `None` for one of another data set, and for one that is not reached as far as
/// `written` knows.
///
/// Anybody can write such a text, so that nothing of it may reach a query unchecked.
pub(super) fn translate(position: &Position, written: &Written) -> Option<Position> {
    let (now, meta) = (&written.position, &written.index.meta);
    // Each former position is of an index from before the one that it belongs to.
    let mut later = meta.formers.len();
    let mut is_known = |former: &Position| {
        let generation = generation(former, meta).filter(|generation| *generation < later)?;
        later = generation;
        let is_possible = (1..=SHARDS_MAX).contains(&former.numbers.len());
        (is_possible && former.numbers.iter().all(|number| *number <= NUMBER_MAX)).then_some(())
    };
    if position.history == now.history {
        let was_reached = position.numbers.len() == now.numbers.len()
            && position.numbers.iter().zip(&written.newest).all(|(number, newest)| number <= newest);
        return (was_reached && chain(position).all(|former| is_known(former).is_some())).then(|| position.clone());
    }
    std::iter::once(position).chain(chain(position)).try_for_each(&mut is_known)?;
    let numbers = vec![0; now.numbers.len()];
    Some(Position { history: now.history.clone(), numbers, former: Some(Box::new(position.clone())) })
}

/// What documents must fulfil besides having a number behind the position.
pub(super) fn conditions(position: &Position, meta: &Meta) -> Vec<Value> {
    let behind = |former: &Position| {
        let generation = generation(former, meta)?;
        let places = former.numbers.iter().enumerate().map(|(shard, number)| {
            json!({"bool": {"filter": [
                {"term": {format!("former.g{generation}.shard"): shard}},
                {"range": {format!("former.g{generation}.number"): {"gt": number}}},
            ]}})
        });
        let written_since =
            json!({"bool": {"must_not": [{"exists": {"field": format!("former.g{generation}.number")}}]}});
        let should: Vec<Value> = places.chain([written_since]).collect();
        Some(json!({"bool": {"should": should, "minimum_should_match": 1}}))
    };
    chain(position).filter_map(behind).collect()
}

/// The number of the state that a document's state replaced, to be compared with the position: for former positions
/// only whether they include that state is known.
pub(super) fn prev_seq(document: &ChangeDocument, position: &Position, meta: &Meta) -> u64 {
    let Some(first) = chain(position).last() else { return document.prev_seq.unwrap_or(u64::MAX) };
    let place = generation(first, meta).and_then(|generation| document.former.get(&format!("g{generation}")));
    let included = place.is_some_and(|place| {
        place.prev.is_some_and(|prev| first.numbers.get(place.shard).is_some_and(|number| prev <= *number))
    });
    if included { 0 } else { u64::MAX }
}

/// The former positions of a position, latest first.
fn chain(position: &Position) -> impl Iterator<Item = &Position> {
    std::iter::successors(position.former.as_deref(), |former| former.former.as_deref())
}

/// Which of the indices that this one was copied from a position belongs to.
fn generation(position: &Position, meta: &Meta) -> Option<usize> {
    meta.formers.iter().position(|history| *history == position.history)
}
