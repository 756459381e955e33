//! Measures lists and searches of a filled store: `cargo run --release --example measure_store -- <home> [samples]`.
//!
//! The home is a file of the embedded store, or `http://host:port/prefix` of an Elasticsearch.
//! Times are those of the caller, awaiting one call after the other.

use std::time::{Duration, Instant};

use doorward::store::{ListQuery, PageKey, PasswordChange, SearchQuery, Sort, SortField, Store, StoreError};
use doorward::users::User;
use doorward::users::filter::Filter;
use doorward::users::fold::words;
use serde_json::{Value, json};

mod home;

use home::Home;

const PAGE: usize = 200;
const DEEP_PAGE: usize = 5_000;
/// The largest page that every store gives.
const STRIDE: usize = 9_800;

const SEARCHES: &[&str] = &[
    "a",
    "m",
    "z",
    "ma",
    "li",
    "mar",
    "mari",
    "maria",
    "anna",
    "alexandr",
    "李",
    "иван",
    "μαρια",
    "محمد",
    "mar ia",
    "a b",
    "a b c d",
    "anna schmidt",
    "jose garcia",
    "schmidt",
    "schmitd",
    "jonson",
    "micheal",
    "alexandar",
    "maria grosmann",
    "papadopulos",
    "martinez42",
    "dragon_1234",
    "karoberstavikdor",
    "kuznetzov",
    "xqzzyw",
    "christofer okonkwo",
    "player",
    "coolcat anna",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let home = arguments.next().ok_or("usage: measure_store <home> [samples]")?;
    let samples = arguments.next().map_or(Ok(100), |samples| samples.parse())?;
    let opening = Instant::now();
    let home = Home::open(&home).await?;
    let store = home.store();
    eprintln!("opened after {:.1?}", opening.elapsed());
    search(store, "warm", None).await?;
    eprintln!("searched after {:.1?}; {} users", opening.elapsed(), store.user_count(None).await?);

    eprintln!("\n{:<44} {:>9} {:>9} {:>9} {:>8}", "list of 200 users", "p50", "p99", "max", "found");
    for field in [SortField::Username, SortField::DisplayName, SortField::CreatedAt, SortField::UpdatedAt] {
        for descending in [false, true] {
            let sort = Sort { field, descending };
            let name = format!("{}{field:?}", if descending { "-" } else { "" });
            let deep = deep_key(store, sort).await?;
            // In turns, so that both meet the same weather.
            let (mut first, mut deeper) = (Vec::new(), Vec::new());
            for _ in 0..samples {
                first.push(list(store, sort, None, None).await?);
                deeper.push(list(store, sort, None, deep.clone()).await?);
            }
            print(&format!("{name} page 1"), first);
            print(&format!("{name} page {DEEP_PAGE}"), deeper);
        }
    }
    for filter in [
        json!({"status": {"eq": "active"}}),
        json!({"role": {"eq": "admin"}}),
        json!({"status": {"eq": "erased"}}),
        json!({"role": {"eq": "admin"}, "status": {"eq": "deactivated"}}),
        json!({"username": {"prefix": "zoe"}}),
        json!({"display_name": {"prefix": "an"}}),
        json!({"email": {"eq": "nobody@example.com"}}),
    ] {
        for field in [SortField::Username, SortField::CreatedAt] {
            let mut times = Vec::new();
            for _ in 0..samples.min(20) {
                times.push(list(store, Sort { field, descending: true }, Some(&filter), None).await?);
            }
            print(&format!("-{field:?} {filter}"), times);
        }
    }
    let started = Instant::now();
    store.user_count(Some(Filter::parse(&json!({"role": {"eq": "admin"}}))?)).await?;
    eprintln!("count of all admins: {:.1?}", started.elapsed());

    eprintln!("\n{:<44} {:>9} {:>9} {:>9} {:>8}", "search, 50 hits", "p50", "p99", "max", "count");
    let active = json!({"status": {"eq": "active"}});
    let mut all = Vec::new();
    for filter in [None, Some(&active)] {
        for text in SEARCHES {
            let mut times = Vec::new();
            for _ in 0..samples {
                times.push(search(store, text, filter).await?);
            }
            all.extend_from_slice(&times);
            print(&format!("{text}{}", if filter.is_some() { " (active)" } else { "" }), times);
        }
    }
    print("all searches", all);
    one_user(store, samples).await?;
    store.close().await;
    Ok(())
}

/// Lookups and writes of single users, one after the other: what a group commit costs when it has one member.
async fn one_user(store: &dyn Store, samples: usize) -> Result<(), Box<dyn std::error::Error>> {
    eprintln!("\n{:<44} {:>9} {:>9} {:>9}", "one user", "p50", "p99", "max");
    let sort = Sort { field: SortField::DisplayName, descending: false };
    let users = store.user_list(ListQuery { filter: None, sort, after: None, limit: samples }).await?.users;
    let (mut gets, mut updates, mut renames) = (Vec::new(), Vec::new(), Vec::new());
    for user in users {
        let started = Instant::now();
        store.user_get(&user.username).await?;
        gets.push((started.elapsed(), 1));
        let mut user = User::clone(&user);
        user.rev += 1;
        user.bio.push('.');
        let started = Instant::now();
        store.user_replace(user.clone(), PasswordChange::Keep).await?;
        updates.push((started.elapsed(), 1));
        user.rev += 1;
        user.display_name.push_str(" Renamed");
        let started = Instant::now();
        store.user_replace(user, PasswordChange::Keep).await?;
        renames.push((started.elapsed(), 1));
    }
    print("user_get", gets);
    print("user_replace", updates);
    print("user_replace with another name", renames);
    Ok(())
}

/// The key behind which the deep page begins, or where the list ends before it.
async fn deep_key(store: &dyn Store, sort: Sort) -> Result<Option<PageKey>, Box<dyn std::error::Error>> {
    let mut after = None;
    // The way there need not be walked in pages of that size.
    for _ in 0..(DEEP_PAGE - 1) * PAGE / STRIDE {
        let page = store.user_list(ListQuery { filter: None, sort, after: after.clone(), limit: STRIDE }).await?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(after)
}

async fn list(
    store: &dyn Store,
    sort: Sort,
    filter: Option<&Value>,
    after: Option<PageKey>,
) -> Result<(Duration, usize), Box<dyn std::error::Error>> {
    let filter = filter.map(Filter::parse).transpose()?;
    let started = Instant::now();
    let found = match store.user_list(ListQuery { filter, sort, after, limit: PAGE }).await {
        Err(StoreError::Timeout) => 0,
        page => page?.users.len(),
    };
    Ok((started.elapsed(), found))
}

async fn search(
    store: &dyn Store,
    text: &str,
    filter: Option<&Value>,
) -> Result<(Duration, usize), Box<dyn std::error::Error>> {
    let filter = filter.map(Filter::parse).transpose()?;
    let started = Instant::now();
    let page =
        store.user_search(SearchQuery { words: words(text), fuzzy: true, filter, after: None, limit: 50 }).await?;
    Ok((started.elapsed(), page.count))
}

fn print(name: &str, mut samples: Vec<(Duration, usize)>) {
    samples.sort_unstable();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].0.as_secs_f64() * 1000.0;
    let found = samples[0].1;
    eprintln!("{name:<44} {:>9.3} {:>9.3} {:>9.3} {found:>8}", at(0.5), at(0.99), at(1.0));
}
