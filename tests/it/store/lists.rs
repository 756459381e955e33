//! Lists: what every store promises about sorts, pages and filters.

use std::cmp::Ordering;
use std::sync::Arc;

use doorward::clock::Time;
use doorward::store::{ListQuery, PageKey, Sort, SortField, Store, StoreError};
use doorward::users::User;
use doorward::users::filter::{Facts, Filter};
use doorward::users::fold::fold;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::contract::{create, next, user};
use super::people::People;
use crate::support::count;

const FIELDS: [SortField; 4] =
    [SortField::Username, SortField::DisplayName, SortField::CreatedAt, SortField::UpdatedAt];

/// So many invented users, some with equal sort values.
pub(super) async fn people(store: &dyn Store, count: usize) -> Vec<User> {
    let mut users: Vec<User> = People::new(7).take(count).collect();
    for at in (3..count).step_by(3) {
        users[at].display_name = users[at - 1].display_name.to_uppercase();
        users[at].created_at = users[at - 2].created_at;
        users[at].updated_at = users[at - 3].updated_at;
    }
    for some in users.chunks(100) {
        join_all(some.iter().map(|user| create(store, user))).await;
    }
    users
}

fn order(sort: Sort, one: &User, other: &User) -> Ordering {
    let by_field = match sort.field {
        SortField::Username => Ordering::Equal,
        SortField::DisplayName => fold(&one.display_name).cmp(&fold(&other.display_name)),
        SortField::CreatedAt => one.created_at.cmp(&other.created_at),
        SortField::UpdatedAt => one.updated_at.cmp(&other.updated_at),
    };
    let order = by_field.then_with(|| one.username.key().cmp(&other.username.key()));
    if sort.descending { order.reverse() } else { order }
}

/// The names of all pages, one after the other.
async fn pages(store: &dyn Store, filter: Option<&Filter>, sort: Sort, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.user_list(ListQuery { filter: filter.cloned(), sort, after, limit }).await.unwrap();
        assert!(page.users.len() == limit || page.next.is_none());
        names.extend(page.users.iter().map(|user: &Arc<User>| user.username.to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => return names,
        }
    }
}

fn expected(users: &[User], filter: Option<&Filter>, sort: Sort) -> Vec<String> {
    let mut users: Vec<&User> = users.iter().filter(|user| filter.is_none_or(|filter| filter.matches(user))).collect();
    users.sort_by(|one, other| order(sort, one, other));
    users.iter().map(|user| user.username.to_string()).collect()
}

pub(super) async fn every_sort_gives_everybody_once_in_order_both_ways(store: &dyn Store) {
    let users = people(store, 120).await;
    for field in FIELDS {
        for descending in [false, true] {
            let sort = Sort { field, descending };
            for limit in [1, 7, 40, 120, 200] {
                assert_eq!(pages(store, None, sort, limit).await, expected(&users, None, sort), "{sort:?} {limit}");
            }
        }
    }
    assert_eq!(store.user_count(None).await.unwrap(), 120);
}

pub(super) async fn a_page_goes_on_behind_a_user_who_is_gone_from_there(store: &dyn Store) {
    for username in ["alice", "bob", "carol", "dave"] {
        create(store, &user(username)).await;
    }
    let sort = Sort { field: SortField::DisplayName, descending: false };
    let query = ListQuery { filter: None, sort, after: None, limit: 2 };
    let first = store.user_list(query.clone()).await.unwrap();
    let moved = next(&user("bob"), |bob| bob.display_name = "zoe".into());
    store.user_replace(moved, doorward::store::PasswordChange::Keep).await.unwrap();
    let rest = store.user_list(ListQuery { after: first.next, limit: 9, ..query }).await.unwrap();
    let names: Vec<&str> = rest.users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["carol", "dave", "bob"]);
}

pub(super) async fn a_filtered_list_is_what_the_matcher_says(store: &dyn Store) {
    let users = people(store, 300).await;
    let mut random = StdRng::seed_from_u64(11);
    let (mut some, mut none_or_all) = (0, 0);
    for round in 0..count(600, 10_000) {
        let json = any_filter(&mut random, &users, 4);
        let filter = match Filter::parse(&json) {
            // Now and then one grows beyond what is allowed.
            Err(error) if error.rule == "nodes" => continue,
            filter => filter.unwrap_or_else(|error| panic!("{error}: {json}")),
        };
        let sort = Sort { field: FIELDS[round % 4], descending: random.random() };
        let limit = *[13, 100, 1000].choose(&mut random).unwrap();
        let expected = expected(&users, Some(&filter), sort);
        assert_eq!(pages(store, Some(&filter), sort, limit).await, expected, "{json}");
        assert_eq!(store.user_count(Some(filter)).await.unwrap(), expected.len() as u64, "{json}");
        if expected.is_empty() || expected.len() == users.len() { none_or_all += 1 } else { some += 1 }
    }
    assert!(2 * some > none_or_all, "the filters should tell users apart: {some} did, {none_or_all} did not");
}

/// A filter whose values come from the users, so that it is seldom empty.
pub(super) fn any_filter(random: &mut StdRng, users: &[User], depth: usize) -> Value {
    let mut members = serde_json::Map::new();
    for _ in 0..random.random_range(1..=2) {
        let (name, value) = match random.random_range(0..if depth > 1 { 6 } else { 3 }) {
            0..3 => any_comparison(random, users),
            3 => ("not".to_owned(), any_filter(random, users, depth - 1)),
            combinator => {
                let count = random.random_range(1..=3);
                let filters: Vec<Value> = (0..count).map(|_| any_filter(random, users, depth - 1)).collect();
                (if combinator == 4 { "and" } else { "or" }.to_owned(), Value::Array(filters))
            }
        };
        members.insert(name, value);
    }
    Value::Object(members)
}

fn any_comparison(random: &mut StdRng, users: &[User]) -> (String, Value) {
    let field = *["username", "display_name", "email", "status", "role", "created_at", "updated_at", "rev"]
        .choose(random)
        .unwrap();
    let is_word = matches!(field, "status" | "role");
    let is_text = matches!(field, "username" | "display_name" | "email");
    let operators: &[&str] = match (is_word, is_text) {
        (true, _) => &["eq", "ne", "in", "exists"],
        (_, true) => &["eq", "ne", "in", "exists", "gt", "gte", "lt", "lte", "prefix", "prefix"],
        _ => &["eq", "ne", "in", "exists", "gt", "gte", "lt", "lte"],
    };
    let mut tests = serde_json::Map::new();
    for _ in 0..random.random_range(1..=2) {
        let operator = *operators.choose(random).unwrap();
        let value = match operator {
            "exists" => random.random::<bool>().into(),
            "in" => (0..random.random_range(1..20)).map(|_| any_value(random, users, field)).collect(),
            "prefix" => {
                let text = any_value(random, users, field);
                let length = random.random_range(0..4);
                text.as_str().unwrap().chars().take(length).collect::<String>().into()
            }
            _ => any_value(random, users, field),
        };
        tests.insert(operator.to_owned(), value);
    }
    (field.to_owned(), Value::Object(tests))
}

fn any_value(random: &mut StdRng, users: &[User], field: &str) -> Value {
    let user = users.choose(random).unwrap();
    match field {
        "username" => user.username.as_str().to_uppercase().into(),
        "display_name" => user.display_name.clone().into(),
        "email" => user.email.as_ref().map_or("nobody", |email| email.as_str()).into(),
        "status" => user.status.as_str().into(),
        "role" => user.role.as_str().into(),
        "created_at" => user.created_at.to_string().into(),
        "updated_at" => user.updated_at.to_string().into(),
        _ => random.random_range(0..3).into(),
    }
}

pub(super) async fn a_prefix_takes_all_that_begins_with_it_and_nothing_else(store: &dyn Store) {
    let edge = [
        "a",
        "a\u{10FFFF}",
        "a\u{10FFFF}b",
        "b",
        "a\u{D7FF}x",
        "a\u{E000}",
        "ab",
        "aé",
        "",
        "\u{10FFFF}",
        "A\u{0}z",
        "a%",
        "a_",
    ];
    let mut users = Vec::new();
    for (at, text) in edge.iter().enumerate() {
        users.push(User { display_name: (*text).to_owned(), ..user(&format!("user{at}")) });
        create(store, &users[at]).await;
    }
    let sort = Sort { field: SortField::DisplayName, descending: false };
    for prefix in edge {
        let filter = Filter::parse(&json!({"display_name": {"prefix": prefix}})).unwrap();
        let found = pages(store, Some(&filter), sort, 50).await;
        assert_eq!(found, expected(&users, Some(&filter), sort), "{prefix:?}");
        let begins = |user: &&User| Facts::of(user).display_name.starts_with(&fold(prefix));
        assert_eq!(found.len(), users.iter().filter(begins).count(), "{prefix:?}");
    }
}

pub(super) async fn a_strange_page_key_is_refused(store: &dyn Store) {
    create(store, &user("alice")).await;
    for field in FIELDS {
        for key in
            [json!([]), json!([null]), json!([{}, "a"]), json!([1.5, "a"]), json!(["a", 1]), json!([1, "a", "b"])]
        {
            let after = Some(serde_json::from_value::<PageKey>(key.clone()).unwrap());
            let sort = Sort { field, descending: false };
            let answer = store.user_list(ListQuery { filter: None, sort, after, limit: 5 }).await;
            assert_eq!(answer.err(), Some(StoreError::BadPageKey), "{field:?} {key}");
        }
    }
    // Times outside every calendar are no panic either.
    let sort = Sort { field: SortField::CreatedAt, descending: true };
    let after = Some(PageKey(vec![json!(Time::from_ms(i64::MIN).ms()), json!("alice")]));
    assert!(store.user_list(ListQuery { filter: None, sort, after, limit: 5 }).await.unwrap().users.is_empty());
}
