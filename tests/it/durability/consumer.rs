//! A consumer of the users feed that believes nothing.

use std::collections::BTreeMap;

use doorward::store::{Position, Record};

use super::history::State;

/// Which numbers the writes of a home take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// One for each revision: what was refused or cut off takes none.
    OnePerRevision,
    /// One for each revision, and some for what makes none: a user written once more unchanged, or a new primary.
    AtLeastOnePerRevision,
}

/// How far it is, and what it knows of every user.
#[derive(Debug)]
pub struct Consumer {
    numbers: Numbers,
    position: Position,
    users: BTreeMap<String, Known>,
}

/// The newest state that was given of a user.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    rev: u64,
    shard: usize,
    seq: u64,
}

impl Consumer {
    /// One that knows nothing, at the start of a feed.
    pub fn new(start: Position, numbers: Numbers) -> Self {
        Self { numbers, position: start, users: BTreeMap::new() }
    }

    /// How far it is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Takes over what changed up to a position, and tells everything about it that is not as the users are `now`,
    /// one line each.
    pub fn take(&mut self, records: &[Record], end: Position, now: &BTreeMap<String, State>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut reached = self.position.numbers.clone();
        let mut revisions = 0;
        for record in records {
            let (name, rev) = (record.user.username.as_str().to_owned(), record.user.rev);
            if record.seq <= reached[record.shard] {
                lines.push(format!("{name}: number {} came after {}", record.seq, reached[record.shard]));
            }
            let old = self.users.get(&name).copied().unwrap_or_default();
            if !self.follows(record, old) {
                lines.push(format!("{name}: revision {rev} {record:?} came after {old:?}"));
            }
            revisions += rev.saturating_sub(old.rev);
            reached[record.shard] = record.seq;
            self.users.insert(name, Known { rev, shard: record.shard, seq: record.seq });
        }
        let taken: u64 =
            end.numbers.iter().zip(&self.position.numbers).map(|(to, from)| to.saturating_sub(*from)).sum();
        let agrees = match self.numbers {
            Numbers::OnePerRevision => reached == end.numbers && taken == revisions,
            Numbers::AtLeastOnePerRevision => {
                reached.iter().zip(&end.numbers).all(|(reached, end)| reached <= end) && taken >= revisions
            }
        };
        if !agrees {
            lines.push(format!("{revisions} revisions took {taken} numbers, to {reached:?}; the feed ends at {end:?}"));
        }
        for (name, state) in now {
            let known = self.users.get(name).map_or(0, |known| known.rev);
            if known != state.rev {
                lines.push(format!("{name}: the feed says revision {known}, but it is {}", state.rev));
            }
        }
        lines.extend(self.users.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{name} is gone")));
        self.position = end;
        lines
    }

    /// Whether a record can come after what is known of its user.
    fn follows(&self, record: &Record, old: Known) -> bool {
        let (rev, one_each) = (record.user.rev, self.numbers == Numbers::OnePerRevision);
        let is_next = match record.prev_seq {
            None => rev == 1,
            Some(prev) if rev == old.rev => prev < old.seq,
            Some(prev) if rev == old.rev + 1 && one_each => prev == old.seq,
            Some(prev) if rev == old.rev + 1 => prev >= old.seq,
            Some(prev) => prev > old.seq,
        };
        let is_new = rev > old.rev || (rev == old.rev && !one_each);
        is_new && is_next && record.prev_seq.is_none_or(|prev| prev < record.seq)
    }

    /// What is wrong with the records that were given behind an earlier position: each user who was written since
    /// must be there, as known, and nobody else.
    pub fn resume(&self, position: &Position, records: &[Record]) -> Vec<String> {
        let given: BTreeMap<&str, u64> =
            records.iter().map(|record| (record.user.username.as_str(), record.seq)).collect();
        let since = self.users.iter().filter(|(_, known)| known.seq > position.numbers[known.shard]);
        let wanted: BTreeMap<&str, u64> = since.map(|(name, known)| (name.as_str(), known.seq)).collect();
        if given == wanted { Vec::new() } else { vec![format!("behind {position:?}: {given:?} and not {wanted:?}")] }
    }
}

#[cfg(test)]
mod tests;
