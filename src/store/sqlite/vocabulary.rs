//! Every word of every user, in memory, for finding the words near to one.
//!
//! On disk the same walk is ten times slower. The words are arranged by first letter and length, because a near
//! word shares the one and nearly shares the other; about 40 bytes a word.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::users::search::{edits, edits_allowed};

/// The words up to some row of the table `words`. Words that have since lost their last user are near to a query but
/// find nobody; when they have become the greater part, all is read anew.
#[derive(Default)]
pub(super) struct Vocabulary {
    last_id: i64,
    /// How many are here, and how many may be before they are held against the table.
    held: usize,
    check_at: usize,
    /// By first letter and number of code points.
    shelves: HashMap<(char, usize), Vec<Entry>>,
}

/// How many words without a user may be here besides as many as have one.
const SPARE_WORDS: usize = 10_000;

struct Entry {
    signature: u64,
    word: Box<str>,
}

impl Vocabulary {
    /// Whether the connection sees words that are not here.
    pub(super) fn is_behind(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let newest: Option<i64> =
            connection.prepare_cached("SELECT max(id) FROM words")?.query_row([], |row| row.get(0))?;
        Ok(newest > Some(self.last_id))
    }

    /// Takes over the words that were added since.
    pub(super) fn catch_up(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.held >= self.check_at {
            let live: usize = connection.query_row("SELECT count(*) FROM words", [], |row| row.get(0))?;
            let bound = 2 * live + SPARE_WORDS;
            if self.held > bound {
                *self = Self::default();
            }
            self.check_at = bound;
        }
        let mut statement = connection.prepare_cached("SELECT id, word FROM words WHERE id > ?1 ORDER BY id")?;
        let mut rows = statement.query([self.last_id])?;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            self.add(row.get(1)?);
            // One by one: when reading is interrupted the next call goes on from here.
            self.last_id = id;
        }
        Ok(())
    }

    fn add(&mut self, word: String) {
        let Some(first) = word.chars().next() else { return };
        let entry = Entry { signature: signature(word.chars()), word: word.into_boxed_str() };
        self.shelves.entry((first, entry.word.chars().count())).or_default().push(entry);
        self.held += 1;
    }

    /// The words that a query word matches only because it is fuzzy: at most so many, the nearest first.
    pub(super) fn near(&self, query_word: &str, limit_words: usize) -> Vec<&str> {
        let query: Vec<char> = query_word.chars().collect();
        let limit = edits_allowed(query.len());
        let Some(&first) = query.first().filter(|_| limit > 0) else { return Vec::new() };
        let query_signature = signature(query.iter().copied());
        let (mut near, mut chars) = (Vec::new(), Vec::new());
        for length in query.len() - limit..=query.len() + limit {
            for entry in self.shelves.get(&(first, length)).into_iter().flatten() {
                // One edit adds at most one letter and takes away at most one.
                if (entry.signature ^ query_signature).count_ones() as usize > 2 * limit {
                    continue;
                }
                chars.clear();
                chars.extend(entry.word.chars());
                if let Some(edits) = edits(&query, &chars).filter(|_| !entry.word.starts_with(query_word)) {
                    near.push((edits, &*entry.word));
                }
            }
        }
        near.sort_unstable();
        near.into_iter().take(limit_words).map(|(_, word)| word).collect()
    }
}

/// Which letters a word holds, as a set of 64 classes of letters.
fn signature(chars: impl Iterator<Item = char>) -> u64 {
    chars.fold(0, |set, c| set | 1 << (c as u32 % 64))
}
