//! One reader of the feed, at its own pace: beside the tail it takes changes from the ring, behind it pages
//! from the store. Both are shared with whoever else is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Feed;
use super::change::Change;
use super::pages::Shared;
use super::position::Place;
use super::ring::Next;
use crate::store::StoreError;

/// A reader. What it has not read costs nothing, but for the page that it is in.
pub struct Reader(At);

enum At {
    Ring {
        /// The ordinal of the next change.
        next: u64,
        /// Where it stands.
        place: Arc<Place>,
        /// The numbers that it has passed already, until the ring's place covers them.
        passed: Option<Box<[u64]>>,
    },
    Store(Box<Behind>),
}

/// A reader behind the ring.
struct Behind {
    /// Behind the page.
    place: Place,
    page: VecDeque<Arc<Change>>,
    /// Whether there was more behind the page; `None` before the first, and while the next is read.
    more: Option<bool>,
    /// How often the ring had moved when the page was asked for.
    moves: u64,
    reading: Option<BoxFuture<'static, Result<Shared, StoreError>>>,
}

impl Reader {
    /// A reader of everything behind a place that is known to be one of this data set.
    pub fn new(place: Place) -> Self {
        Self(At::Store(Box::new(Behind::new(place))))
    }

    /// The same for a place that anyone may have named. Errors: `BadPosition`, and what else the store says.
    pub async fn behind(feed: &Arc<Feed>, place: Place) -> Result<Self, StoreError> {
        let mut behind = Behind::new(place);
        if !feed.covers(&behind.place).await {
            // The store judges the position and gives the newest states only; the page is not read twice.
            behind.take(&feed.shared_page(&behind.place).await?);
        }
        Ok(Self(At::Store(Box::new(behind))))
    }

    /// The next change. Pending registers the task with the store where it is asked; news in the ring wake the
    /// socket that has looked, through its listener.
    pub fn poll_next(&mut self, feed: &Arc<Feed>, cx: &mut Context<'_>) -> Poll<Result<Arc<Change>, StoreError>> {
        loop {
            self.0 = match &mut self.0 {
                At::Ring { next, place, passed } => match feed.ring.get(*next) {
                    Next::Nothing => return Poll::Pending,
                    Next::Gone => At::Store(Box::new(Behind::new(Place::clone(place)))),
                    Next::Change(change) => {
                        *next += 1;
                        let (shard, seq) = change.number();
                        if passed.as_ref().is_some_and(|passed| seq <= passed[shard]) {
                            continue;
                        }
                        passed.take_if(|passed| change.place.position.covers(passed));
                        *place = change.place.clone();
                        return Poll::Ready(Ok(change));
                    }
                },
                At::Store(behind) => {
                    if let Some(change) = behind.page.pop_front() {
                        return Poll::Ready(Ok(change));
                    }
                    if behind.more != Some(true)
                        && let Some(next) = feed.ring.join(&behind.place)
                    {
                        let passed = Some(behind.place.position.numbers.clone().into());
                        At::Ring { next, place: Arc::new(behind.place.clone()), passed }
                    } else if behind.more == Some(false) && behind.moves == feed.ring.moves() {
                        // What was not final yet will be, perhaps without a change in the ring.
                        feed.waits_for_moves();
                        if behind.moves != feed.ring.moves() {
                            continue;
                        }
                        return Poll::Pending;
                    } else {
                        ready!(behind.poll_page(feed, cx))?;
                        continue;
                    }
                }
            };
        }
    }
}

impl Behind {
    fn new(place: Place) -> Self {
        Self { place, page: VecDeque::new(), more: None, moves: 0, reading: None }
    }

    fn take(&mut self, shared: &Shared) {
        let page = shared.page();
        (self.more, self.moves) = (Some(page.more), shared.moves());
        (self.page, self.place) = (page.changes.iter().cloned().collect(), page.after.clone());
    }

    fn poll_page(&mut self, feed: &Arc<Feed>, cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        let reading = self.reading.get_or_insert_with(|| {
            self.more = None;
            let (feed, place) = (feed.clone(), self.place.clone());
            async move { feed.shared_page_at_last(&place).await }.boxed()
        });
        let page = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        page.map(|page| self.take(&page)).into()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::Time;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{PasswordHash, Store};
    use crate::users::rules::{self, Act};
    use crate::users::{Email, Role, Username};

    async fn create(store: &dyn Store, name: &str) {
        let email = Email::parse(&format!("{name}@example.com")).unwrap();
        let act = Act { actor: None, at: Time::from_ms(0), reason: None };
        let user = rules::create(Username::parse(name).unwrap(), email, None, Role::User, act);
        store.user_create(user, PasswordHash::new("hash".to_owned())).await.unwrap();
    }

    #[tokio::test]
    async fn r04_a_page_that_is_being_read_is_followed_whatever_wakes_its_reader_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("doorward.db")).unwrap());
        let start = store.start().await.unwrap();
        // The ring is so far ahead that the reader never meets it.
        let mut ahead = start.clone();
        ahead.numbers[0] = 10_000;
        let feed = Arc::new(Feed::new(store.clone(), ahead.clone(), CancellationToken::new()));
        let mut reader = Reader::new(Place::complete(start));
        create(&*store, "alice").await;
        let change = poll_fn(|cx| reader.poll_next(&feed, cx)).await.unwrap();
        assert_eq!(change.user().username.as_str(), "alice");
        // At the end, it waits for the ring to move.
        let waits = |reader: &mut Reader| {
            let polled = reader.poll_next(&feed, &mut Context::from_waker(std::task::Waker::noop()));
            assert!(polled.is_pending());
        };
        waits(&mut reader);

        create(&*store, "bob").await;
        let turns = feed.pages.all_turns().await;
        feed.publish(Vec::new(), Place::complete(ahead));
        // It has asked for a page, and is woken twice before it is its turn.
        waits(&mut reader);
        waits(&mut reader);
        drop(turns);
        let page = tokio::time::timeout(Duration::from_secs(20), poll_fn(|cx| reader.poll_next(&feed, cx)));
        let change = page.await.expect("the page is followed").unwrap();
        assert_eq!(change.user().username.as_str(), "bob");
    }
}
