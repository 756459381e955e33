//! Searches: what every store promises about who is found.

use std::collections::BTreeSet;

use doorward::store::{PageKey, PasswordChange, SEARCH_COUNT_MAX, SearchPage, SearchQuery, Store, StoreError};
use doorward::users::User;
use doorward::users::filter::Filter;
use doorward::users::fold::words;
use doorward::users::search::{match_user, score, words_of};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::contract::{create, next, user};
use super::lists::{any_filter, people};
use crate::support::count;

fn query(text: &str) -> SearchQuery {
    SearchQuery { words: words(text), fuzzy: true, filter: None, after: None, limit: 50 }
}

async fn names(store: &dyn Store, text: &str) -> Vec<String> {
    all(store, query(text)).await.0.into_iter().map(|(name, _)| name).collect()
}

/// All hits in their order, and the count.
async fn all(store: &dyn Store, mut query: SearchQuery) -> (Vec<(String, f64)>, usize) {
    let mut hits = Vec::new();
    loop {
        let SearchPage { hits: page, next, count } = store.user_search(query.clone()).await.unwrap();
        assert!(page.len() == query.limit || next.is_none());
        hits.extend(page.iter().map(|hit| (hit.user.username.to_string(), hit.score)));
        match next {
            Some(next) => query.after = Some(next),
            None => return (hits, count),
        }
    }
}

/// Compares with the rules, applied to one user after the other.
async fn check(store: &dyn Store, users: &[User], query: SearchQuery) -> usize {
    let expected: BTreeSet<String> = users
        .iter()
        .filter(|user| query.filter.as_ref().is_none_or(|filter| filter.matches(user)))
        .filter(|user| match_user(&query.words, &words_of(user), query.fuzzy).is_some())
        .map(|user| user.username.to_string())
        .collect();
    let (hits, count) = all(store, query.clone()).await;
    let found: BTreeSet<String> = hits.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(found, expected, "{query:?}");
    assert_eq!((hits.len(), count), (expected.len(), expected.len()), "{query:?}");
    assert!(hits.is_sorted_by(|one, other| one.1 >= other.1), "{query:?}");
    hits.len()
}

/// A few words of a user, cut short or mistyped.
fn any_words(random: &mut StdRng, user: &User) -> Vec<String> {
    let words = words_of(user);
    let count = 1 + usize::from(random.random_bool(0.3));
    let mut chosen = words.into_iter().choose_multiple(random, count);
    for word in &mut chosen {
        let mut chars: Vec<char> = word.chars().collect();
        for _ in 0..random.random_range(0..=2) {
            let at = random.random_range(0..chars.len());
            match random.random_range(0..5) {
                0 => chars.truncate(at + 1),
                1 if chars.len() > 1 => drop(chars.remove(at)),
                2 => chars.insert(at + 1, 'a'),
                3 if at + 1 < chars.len() => chars.swap(at, at + 1),
                _ => {}
            }
        }
        *word = chars.into_iter().collect();
    }
    chosen.dedup();
    chosen
}

pub(super) async fn hits_are_those_of_the_rules_best_first(store: &dyn Store) {
    let users = people(store, 400).await;
    let mut random = StdRng::seed_from_u64(23);
    let mut found = 0;
    for _ in 0..count(400, 5_000) {
        let user = users.choose(&mut random).unwrap();
        let words = any_words(&mut random, user);
        let (fuzzy, limit) = (random.random_bool(0.8), *[3, 50].choose(&mut random).unwrap());
        found += check(store, &users, SearchQuery { words, fuzzy, limit, ..query("") }).await;
    }
    assert!(found > 1000, "only {found} hits in all");
    for text in ["maria", "Μαρία", "МАРИЯ", "李", "张伟", "محمد", "مُحَمَّد", "jose", "lukasz", "grossmann", "anna ivanova"]
    {
        assert!(check(store, &users, query(text)).await > 0 || text == "anna ivanova" || text == "张伟", "{text}");
    }
    let best = |class| score(class);
    assert!(best(doorward::users::search::Class::Exact) > best(doorward::users::search::Class::Prefix));
}

pub(super) async fn a_search_follows_every_change_of_a_name(store: &dyn Store) {
    let alice = User { display_name: "Alice Ångström".into(), ..user("alice") };
    create(store, &alice).await;
    create(store, &User { display_name: "Bob Angstrom".into(), ..user("bob") }).await;
    assert_eq!(names(store, "angstrom").await.len(), 2);
    let married = next(&alice, |alice| alice.display_name = "Alice Zimmermann".into());
    store.user_replace(married, PasswordChange::Keep).await.unwrap();
    assert_eq!(names(store, "ångström").await, ["bob"]);
    assert_eq!(names(store, "zimermann").await, ["alice"]);
    assert_eq!(names(store, "alice zimm").await, ["alice"]);
}

pub(super) async fn a_filtered_search_gives_only_matching_users(store: &dyn Store) {
    let users = people(store, 300).await;
    let mut random = StdRng::seed_from_u64(29);
    for _ in 0..count(150, 2_000) {
        let filter = Filter::parse(&any_filter(&mut random, &users, 3)).unwrap();
        let text: String = "amsjпиμ李".chars().choose(&mut random).unwrap().into();
        check(store, &users, SearchQuery { filter: Some(filter), ..query(&text) }).await;
    }
}

pub(super) async fn counting_stops_at_its_limit_but_pages_go_on(store: &dyn Store) {
    let users: Vec<User> = (0..SEARCH_COUNT_MAX + 150)
        .map(|at| User { display_name: "Anna".into(), ..user(&format!("user{at}")) })
        .collect();
    for some in users.chunks(250) {
        join_all(some.iter().map(|user| create(store, user))).await;
    }
    let (hits, count) = all(store, SearchQuery { limit: 200, ..query("anna") }).await;
    assert_eq!((hits.len(), count), (users.len(), SEARCH_COUNT_MAX));
    let distinct: BTreeSet<String> = hits.into_iter().map(|(name, _)| name).collect();
    assert_eq!(distinct.len(), users.len());
    // One more tier behind a full one.
    let (hits, _) = all(store, SearchQuery { limit: 199, ..query("user1 anna") }).await;
    assert_eq!(
        hits.len(),
        users.iter().filter(|user| match_user(&words("user1 anna"), &words_of(user), true).is_some()).count()
    );
}

pub(super) async fn any_text_can_be_searched(store: &dyn Store) {
    create(store, &User { display_name: "AND OR NOT NEAR".into(), ..user("alice") }).await;
    for text in ["and", "not or", "NEAR", "and not alice"] {
        assert_eq!(names(store, text).await, ["alice"], "{text}");
    }
    for text in ["'; drop table users", "a* OR b*", "^alice\"", "col:x", "\u{0}", "(", "x".repeat(10_000).as_str()] {
        if !words(text).is_empty() {
            names(store, text).await;
        }
    }
    let many: Vec<String> = (0..200).map(|at| format!("word{at}")).collect();
    assert!(names(store, &many.join(" ")).await.is_empty());
    let no_words = store.user_search(query("")).await.unwrap();
    assert_eq!((no_words.hits.len(), no_words.count), (0, 0));
}

/// Of papa (パパ), haha (ハハ) and a user with 李明华 in their name, whatever program wrote them.
pub(super) async fn texts_are_folded_by_this_version(store: &dyn Store) {
    for name in ["パパ", "ハハ"] {
        let filter = Some(Filter::parse(&json!({"display_name": {"eq": name}})).unwrap());
        assert_eq!(store.user_count(filter).await.unwrap(), 1, "{name}");
        assert_eq!(names(store, name).await.len(), 1, "{name}");
    }
    assert_eq!(names(store, "明华").await.len(), 1);
    assert_eq!(names(store, "papa").await, ["papa"]);
}

pub(super) async fn a_strange_page_key_is_refused_by_search(store: &dyn Store) {
    create(store, &user("alice")).await;
    for key in
        [json!([]), json!([9, 1]), json!([0]), json!(["0", 1]), json!([0, "x"]), json!([-1, 1]), json!([0, 1, 2])]
    {
        let after = Some(serde_json::from_value::<PageKey>(key.clone()).unwrap());
        let answer = store.user_search(SearchQuery { after, ..query("alice") }).await;
        assert_eq!(answer.err(), Some(StoreError::BadPageKey), "{key}");
    }
}
