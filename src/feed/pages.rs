//! Pages of changes from the store: one at a time for a few of all who ask, and read once for all who are at the same place.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::change::{Change, Kept, changes_of};
use super::position::Place;
use super::{Feed, tail};
use crate::store::StoreError;

/// How many changes a subscription behind the ring reads at once.
const PAGE: usize = 16;
/// Pages that are read at once for all who are behind. They take turns in the order in which they asked.
pub const PAGES_AT_ONCE: usize = 2;
/// How long a page is kept for others, so that those who come back at about the same time share it.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// How long it is known that a page could not be read.
const FAILED_FOR: Duration = Duration::from_millis(100);
/// The most bytes of pages that are kept, and about how many pages that is.
const KEPT_BYTES: u64 = 4 << 20;
const KEPT_PAGES: usize = 128;

/// The newest states behind a place, as changes.
pub struct Page {
    /// In the order of their numbers within each shard.
    pub changes: Vec<Arc<Change>>,
    /// The place behind them.
    pub after: Place,
    /// Whether there was more behind them.
    pub more: bool,
}

/// A page that was read for everyone at its place, or why it could not be.
///
/// It stays right when it is no longer new: what was written since comes behind it.
#[derive(Clone)]
pub struct Shared(Arc<Read>);

struct Read {
    page: Result<Page, StoreError>,
    /// How often the ring had moved when it was asked for.
    moves: u64,
    at: Instant,
    bytes: u64,
}

/// Where pages are read.
pub struct Pages {
    turns: Semaphore,
    shared: Cache<Place, Shared, Bytes>,
    /// With the frames that are ready.
    kept: Kept,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Place, Shared> for Bytes {
    fn weight(&self, _: &Place, shared: &Shared) -> u64 {
        shared.0.bytes
    }
}

impl Pages {
    /// None yet.
    pub fn new() -> Self {
        Self {
            turns: Semaphore::new(PAGES_AT_ONCE),
            shared: Cache::with_weighter(KEPT_PAGES, KEPT_BYTES, Bytes),
            kept: Kept::default(),
        }
    }

    /// Drops what is too old to be shared.
    pub fn forget_old(&self) {
        self.shared.retain(|_, shared| shared.0.is_young());
    }

    /// For tests: while these are held, no page is read.
    #[cfg(test)]
    pub async fn all_turns(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.acquire_many(PAGES_AT_ONCE as u32).await.expect("the semaphore is never closed")
    }
}

impl Feed {
    /// A page behind a place, as it is now, when it is its turn.
    pub async fn page(self: &Arc<Self>, place: &Place, limit: usize) -> Result<Page, StoreError> {
        let (feed, place) = (self.clone(), place.clone());
        // A task of its own: a socket whose client does not read is not polled, and would keep its turn from all others.
        let page = AbortOnDropHandle::new(tokio::spawn(async move { feed.read_page(&place, limit).await }));
        page.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    /// A page behind a place for a subscription, which others there may have read a moment ago.
    pub(super) async fn shared_page(self: &Arc<Self>, place: &Place) -> Result<Shared, StoreError> {
        let (feed, place) = (self.clone(), place.clone());
        let shared = AbortOnDropHandle::new(tokio::spawn(async move {
            let pages = &feed.pages.shared;
            pages.remove_if(&place, |shared| !shared.leads_on(&feed, &place));
            let read = async { Ok::<_, Infallible>(feed.read_to_share(&place).await) };
            match pages.get_or_insert_async(&place, read).await {
                Ok(shared) => shared,
                Err(never) => match never {},
            }
        }));
        let shared = shared.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        shared.0.page.as_ref().map(|_| shared.clone()).map_err(StoreError::clone)
    }

    /// The same, as soon as the store gives it.
    pub(super) async fn shared_page_at_last(self: &Arc<Self>, place: &Place) -> Result<Shared, StoreError> {
        let mut failures = 0;
        loop {
            match self.shared_page(place).await {
                Err(StoreError::Unavailable(_) | StoreError::Timeout) => {
                    tokio::time::sleep(tail::pause(failures)).await;
                    failures += 1;
                }
                done => return done,
            }
        }
    }

    async fn read_page(&self, place: &Place, limit: usize) -> Result<Page, StoreError> {
        let _turn = self.pages.turns.acquire().await.expect("the semaphore is never closed");
        let page = self.changes_after(place, limit, "others").await?;
        let more = page.more;
        let (changes, after) = changes_of(place, page);
        Ok(Page { changes: changes.into_iter().map(Arc::new).collect(), after, more })
    }

    async fn read_to_share(&self, place: &Place) -> Shared {
        let moves = self.ring.moves();
        let page = self.read_page(place, PAGE).await;
        let changes = page.as_ref().map_or(&[][..], |page| &page.changes);
        changes.iter().for_each(|change| change.keep(&self.pages.kept));
        let bytes = changes.iter().map(|change| change.bytes() as u64).sum::<u64>() + size_of::<Read>() as u64;
        Shared(Arc::new(Read { page, moves, at: Instant::now(), bytes }))
    }
}

impl Shared {
    /// The page.
    pub fn page(&self) -> &Page {
        self.0.page.as_ref().expect("who could not read it was given the error")
    }

    /// How often the ring had moved when it was asked for.
    pub fn moves(&self) -> u64 {
        self.0.moves
    }

    /// Whether it is of use to somebody at its place: one that ends there is not, once there is news.
    fn leads_on(&self, feed: &Feed, place: &Place) -> bool {
        let has_more = self.0.page.as_ref().is_ok_and(|page| page.after != *place);
        self.0.is_young() && (has_more || self.0.page.is_err() || self.0.moves == feed.ring.moves())
    }
}

impl Read {
    fn is_young(&self) -> bool {
        self.at.elapsed() < if self.page.is_ok() { KEPT_FOR } else { FAILED_FOR }
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.page.iter().flat_map(|page| &page.changes).for_each(|change| change.let_go());
    }
}
