//! What this node knows of users and sessions: one object of each, for as long as anybody holds it.
//!
//! Whoever asks for a thing gets the object that everybody else has, so a change that is put there reaches all. The objects
//! that were met last are kept although nobody holds them.

use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

type All<K, V> = Arc<DashMap<K, Weak<Entry<K, V>>>>;

/// An object of a registry.
#[derive(Debug)]
pub struct Entry<K: Eq + Hash, V> {
    key: K,
    value: V,
    /// Where it is found by others.
    all: All<K, V>,
}

impl<K: Eq + Hash, V> Deref for Entry<K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.all.remove_if(&self.key, |_, entry| entry.strong_count() == 0);
    }
}

/// The objects by their keys.
#[derive(Debug)]
pub struct Registry<K: Eq + Hash + Clone, V> {
    all: All<K, V>,
    /// Keeps objects alive. Nobody is given one from here: `all` decides which one there is.
    recent: Cache<K, Kept<K, V>, Bytes>,
}

/// An object that is kept, and about how many bytes it takes: as many as when it was kept, as the cache wants it.
type Kept<K, V> = (Arc<Entry<K, V>>, u64);

#[derive(Debug, Clone)]
struct Bytes;

impl<K: Eq + Hash, V> Weighter<K, Kept<K, V>> for Bytes {
    fn weight(&self, _: &K, kept: &Kept<K, V>) -> u64 {
        kept.1
    }
}

/// What a usual object takes: by it a cache is laid out.
const USUAL_BYTES: u64 = 2 << 10;

impl<K: Eq + Hash + Clone, V> Registry<K, V> {
    /// An empty one, which keeps so many bytes of objects that nobody holds.
    pub fn new(max_bytes: u64) -> Self {
        let usual = usize::try_from(max_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        Self { all: Arc::default(), recent: Cache::with_weighter(usual, max_bytes, Bytes) }
    }

    /// The object of a key, if there is one.
    pub fn get(&self, key: &K) -> Option<Arc<Entry<K, V>>> {
        // Asked for, so that it stays.
        let _ = self.recent.get(key);
        self.all.get(key).and_then(|entry| entry.upgrade())
    }

    /// The object of a key; a new one when there was none.
    pub fn get_or_insert(&self, key: K, new: impl FnOnce() -> V) -> Arc<Entry<K, V>> {
        let make = |key| Arc::new(Entry { key, value: new(), all: self.all.clone() });
        match self.all.entry(key) {
            Place::Occupied(mut place) => match place.get().upgrade() {
                Some(entry) => entry,
                None => {
                    let entry = make(place.key().clone());
                    place.insert(Arc::downgrade(&entry));
                    entry
                }
            },
            Place::Vacant(place) => {
                let entry = make(place.key().clone());
                place.insert(Arc::downgrade(&entry));
                entry
            }
        }
    }

    /// Keeps an object, which takes about so many bytes, although nobody may hold it, until many others have been kept.
    pub fn keep(&self, entry: &Arc<Entry<K, V>>, bytes: usize) {
        self.recent.insert(entry.key.clone(), (entry.clone(), bytes as u64));
    }

    /// Gives all objects that somebody holds, and knows none any more.
    pub fn forget(&self) -> Vec<Arc<Entry<K, V>>> {
        self.recent.clear();
        let mut held = Vec::new();
        // None is dropped in here: that would wait for the part of the map that is locked.
        self.all.retain(|_, entry| {
            held.extend(entry.upgrade());
            false
        });
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_object_of_a_key_for_as_long_as_anybody_holds_it() {
        let registry: Registry<u32, u32> = Registry::new(1);
        let first = registry.get_or_insert(1, || 10);
        for key in 2..100 {
            let entry = registry.get_or_insert(key, || 20);
            registry.keep(&entry, 1);
        }
        assert!(Arc::ptr_eq(&first, &registry.get_or_insert(1, || 11)), "it was not kept, but it is held");
        assert!(Arc::ptr_eq(&first, &registry.get(&1).unwrap()));
        drop(first);
        assert!(registry.get(&1).is_none());
        assert_eq!(**registry.get_or_insert(1, || 12), 12);
        assert!(registry.all.len() <= 3, "what nobody holds takes no room: {}", registry.all.len());
    }

    #[test]
    fn what_is_forgotten_is_never_found_again_although_it_is_held() {
        let registry: Registry<u32, u32> = Registry::new(10);
        let held = registry.get_or_insert(1, || 10);
        registry.keep(&held, 1);
        assert_eq!(registry.forget().len(), 1);
        registry.keep(&held, 1);
        assert!(registry.get(&1).is_none());
        assert_eq!(**registry.get_or_insert(1, || 11), 11);
    }
}
