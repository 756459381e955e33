//! Fills an embedded store with invented users: `cargo run --release --example seed_users -- <file> <count> [seed]`.

use std::path::PathBuf;
use std::time::Instant;

use doorward::store::sqlite::SqliteStore;
use doorward::store::{PasswordHash, Store};
use futures_util::StreamExt;

mod people;

/// Writes in flight: enough for full groups of the writer.
const IN_FLIGHT: usize = 512;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, count, seed @ ..] = arguments.as_slice() else {
        return Err("usage: seed_users <file> <count> [seed]".into());
    };
    let seed = seed.first().map_or(Ok(1), |seed| seed.parse())?;
    let store = SqliteStore::open(&PathBuf::from(file))?;
    let started = Instant::now();

    // No password of anybody: these users cannot log in.
    let nobody = PasswordHash::new("!".into());
    let writes = people::People::new(seed).take(count.parse()?).map(|user| store.user_create(user, nobody.clone()));
    let mut writes = futures_util::stream::iter(writes).buffer_unordered(IN_FLIGHT).enumerate();
    while let Some((at, written)) = writes.next().await {
        written?;
        if (at + 1) % 100_000 == 0 {
            eprintln!("{} users after {:.1?}", at + 1, started.elapsed());
        }
    }
    store.close().await;
    eprintln!("done after {:.1?}", started.elapsed());
    Ok(())
}
