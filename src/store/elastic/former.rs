//! Positions of before a migration.
//!
//! A document that was copied keeps its place in the index it came from, until its next change. So what came after a
//! position of that index is: copied documents whose former number is greater, and all that were written since.

use serde_json::{Value, json};

use super::changes::{ChangeDocument, Written};
use super::index::Meta;
use crate::store::{Position, StoreError};

/// A position as one of the index of now. Errors: `BadPosition`.
pub(super) fn translate(position: &Position, written: &Written) -> Result<Position, StoreError> {
    let now = &written.position;
    if position.history == now.history {
        let was_reached = position.numbers.len() == now.numbers.len()
            && position.numbers.iter().zip(&written.newest).all(|(number, newest)| number <= newest);
        let known = chain(position).all(|former| generation(former, &written.index.meta).is_some());
        return if was_reached && known { Ok(position.clone()) } else { Err(StoreError::BadPosition) };
    }
    let known = generation(position, &written.index.meta).is_some()
        && chain(position).all(|former| generation(former, &written.index.meta).is_some());
    if !known {
        return Err(StoreError::BadPosition);
    }
    let numbers = vec![0; now.numbers.len()];
    Ok(Position { history: now.history.clone(), numbers, former: Some(Box::new(position.clone())) })
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
