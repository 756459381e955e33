//! The tail: the one reader of the store's newest changes on this node.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Feed;
use super::change::changes_of;
use super::position::Place;
use crate::store::StoreError;
use crate::users::User;

/// How many changes are read at a time.
const PAGE: usize = 500;
/// How often the store is asked although nothing has happened, to know that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The first pause after a failure; each further one may be twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Follows the store for as long as it is polled. Each change is handed to `apply` before it is published, so that a
/// node that tells of a change acts on it. `forget` is called when the data set was replaced under the running gateway.
pub async fn follow<A: Future<Output = ()> + Send>(
    feed: Arc<Feed>,
    apply: impl Fn(Arc<User>) -> A + Send,
    forget: impl Fn() + Send,
) {
    let (mut failures, mut was_foreign) = (0, false);
    loop {
        feed.pages.forget_old();
        let (place, asked) = (feed.ring.place(), Instant::now());
        if feed.ring.has_own()
            && let Ok(position) = feed.store.position().await
            && feed.ring.move_on_by_own(&position)
        {
            // One node alone never reads what it has written itself.
            feed.contact.heard();
            feed.end.heard_at(asked);
            feed.moved();
            feed.rest(asked).await;
            continue;
        }
        match feed.changes_after(&place, PAGE, "tail").await {
            Ok(page) => {
                let next = Instant::now() + feed.store.pace(asked.elapsed());
                (failures, was_foreign) = (0, false);
                feed.contact.heard();
                for record in &page.records {
                    apply(record.user.clone()).await;
                }
                let (more, complete) = (page.more, page.complete);
                let is_moving = place.position.former.is_some() || place.position.history != page.position.history;
                if is_moving {
                    // The users are in a new index: what was published has numbers of the former one. Whoever reads
                    // the ring finds his way in the store.
                    feed.ring.restart(changes_of(&place, page).1);
                    feed.wake();
                } else if !page.records.is_empty() || page.position != place.position {
                    let (changes, after) = changes_of(&place, page);
                    feed.publish(changes, after);
                }
                if complete {
                    feed.end.heard_at(asked);
                }
                if !more {
                    feed.rest(next).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read what changed; trying again");
                tokio::time::sleep(pause(failures)).await;
                failures += 1;
                // The store must say twice in a row that it is another one.
                let before = std::mem::replace(&mut was_foreign, error == StoreError::BadPosition);
                // Subscriptions find that their place is gone.
                if before
                    && was_foreign
                    && let Ok(position) = feed.store.position().await
                {
                    tracing::error!("the store is another one; following it from now");
                    forget();
                    feed.ring.restart(Place::complete(position));
                    feed.wake();
                }
            }
        }
    }
}

impl Feed {
    /// Waits until there may be something to read, and in any case until `next`: whatever tells of news, to read them costs
    /// the store the same.
    async fn rest(&self, next: Instant) {
        tokio::select! {
            () = self.store.changed_elsewhere() => {}
            () = self.written.notified() => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        tokio::time::sleep_until(next).await;
    }
}

/// How long to wait after this many failures in a row before: full jitter, so that nodes do not ask in step.
pub fn pause(failures: u32) -> Duration {
    let longest = PAUSE.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    longest.mul_f64(rand::random_range(0.1..=1.0))
}
