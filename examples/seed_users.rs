//! Fills a store with invented users: `cargo run --release --example seed_users -- <home> <count> [seed]`.
//!
//! The home is a file of the embedded store, or `http://host:port/prefix` of an Elasticsearch.

use std::time::Instant;

use doorward::store::{PasswordHash, Store};
use futures_util::StreamExt;

mod home;
mod people;

use home::Home;

/// Writes in flight to the embedded store: enough for full groups of its writer.
const IN_FLIGHT: usize = 512;
/// Users sent to Elasticsearch at once.
const AT_ONCE: usize = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [home, count, seed @ ..] = arguments.as_slice() else {
        return Err("usage: seed_users <home> <count> [seed]".into());
    };
    let seed = seed.first().map_or(Ok(1), |seed| seed.parse())?;
    let users = people::People::new(seed).take(count.parse()?);
    let started = Instant::now();
    let progress = |done: usize| {
        if done.is_multiple_of(100_000) {
            eprintln!("{done} users after {:.1?}", started.elapsed());
        }
    };

    // No password of anybody: these users cannot log in.
    let nobody = PasswordHash::new("!".into());
    match Home::open(home).await? {
        Home::Sqlite(store) => {
            let writes = users.map(|user| store.user_create(user, nobody.clone()));
            let mut writes = futures_util::stream::iter(writes).buffer_unordered(IN_FLIGHT).enumerate();
            while let Some((at, written)) = writes.next().await {
                written?;
                progress(at + 1);
            }
            store.close().await;
        }
        Home::Elastic(store) => {
            let (mut users, mut done) = (users, 0);
            loop {
                let some: Vec<_> = users.by_ref().take(AT_ONCE).collect();
                if some.is_empty() {
                    break;
                }
                store.load(&some, &nobody).await?;
                done += some.len();
                progress(done);
            }
        }
    }
    eprintln!("done after {:.1?}", started.elapsed());
    Ok(())
}
