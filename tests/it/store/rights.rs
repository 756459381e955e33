//! The rights that `docs/operations.md` tells, tried on an Elasticsearch whose security is on.

use std::collections::BTreeSet;

use doorward::store::elastic::{ElasticConfig, ElasticCredentials, ElasticStore, OpenError, Rebuild, migrate};
use doorward::store::{ListQuery, PasswordChange, SearchQuery, Sort, SortField, Store, StoreError};
use serde_json::Value;

use super::contract::{hash, name, next, user};
use super::sessions::session;
use crate::support::elastic::{ADMIN, Node};
use crate::support::{Home, Indices, Process};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const PASSWORD: &str = "a long password";
/// The prefix that the documented roles are for.
const PREFIX: &str = "doorward";

/// What fails without each of the privileges that running gateways have.
const NEEDED: [(&str, &[&str]); 5] = [
    ("read", &["user_get", "session_get"]),
    ("write", &["user_create", "session_create", "session_replace"]),
    ("maintenance", &["user_list", "sessions_of", "sessions_ended"]),
    ("monitor", &["open"]),
    ("view_index_metadata", &["open"]),
];

/// The body of a documented role.
fn role(name: &str) -> Value {
    let body = OPERATIONS.split(&format!("PUT /_security/role/{name}\n")).nth(1).expect("it is documented");
    serde_json::from_str(body.lines().next().expect("it has a body")).expect("its body is JSON")
}

/// The role of running gateways without one of its privileges.
fn role_without(privilege: &str) -> Value {
    let mut role = role("doorward");
    let privileges = role["indices"][0]["privileges"].as_array_mut().unwrap();
    privileges.retain(|other| other != privilege);
    assert_eq!(privileges.len(), NEEDED.len() - 1, "{privilege}");
    role
}

fn config(node: &Node, username: &str, password: &str) -> ElasticConfig {
    let credentials = ElasticCredentials::Basic { username: username.to_owned(), password: password.to_owned().into() };
    let prefix = PREFIX.to_owned();
    ElasticConfig { credentials: Some(credentials), prefix, ..Indices::at(node.url(), 1).config() }
}

/// The methods of the store that this user may not use, by `open` and their names.
async fn refused(node: &Node, username: &str) -> BTreeSet<&'static str> {
    let store = match ElasticStore::open(&config(node, username, PASSWORD)).await {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, OpenError::Unauthorised(_)), "{error}");
            return BTreeSet::from(["open"]);
        }
    };
    let new = user(&username.replace('_', "-"));
    let changed = next(&new, |user| user.email = None);
    let sort = Sort { field: SortField::Username, descending: false };
    let list = ListQuery { filter: None, sort, after: None, limit: 1 };
    let search = SearchQuery { words: vec!["a".to_owned()], fuzzy: true, filter: None, after: None, limit: 1 };
    let alice = name("alice");
    let changes = async { store.changes_after(&store.start().await?, 1).await };
    let begun = session(new.username.as_str(), 0);
    let results: [(&'static str, Result<(), StoreError>); 22] = [
        ("user_create", store.user_create(new.clone(), hash("hash")).await.map(drop)),
        ("user_replace", store.user_replace(changed, PasswordChange::Keep).await.map(drop)),
        ("user_get", store.user_get(&alice).await.map(drop)),
        ("user_get_many", store.user_get_many(std::slice::from_ref(&alice)).await.map(drop)),
        ("user_get_by_email", store.user_get_by_email(&user("alice").email.unwrap()).await.map(drop)),
        ("password_get", store.password_get(&alice).await.map(drop)),
        ("password_upgrade", store.password_upgrade(&alice, hash("hash"), hash("hash")).await),
        ("user_list", store.user_list(list).await.map(drop)),
        ("user_count", store.user_count(None).await.map(drop)),
        ("user_search", store.user_search(search).await.map(drop)),
        ("position", store.position().await.map(drop)),
        ("start", store.start().await.map(drop)),
        ("check", store.check().await.pop().map_or(Ok(()), |failing| Err(failing.cause))),
        ("sessions_ended", store.sessions_ended().await.map(drop)),
        ("session_create", store.session_create(begun.clone()).await),
        ("sessions_make_room", store.sessions_make_room(&begun, 1).await.map(drop)),
        ("session_get", store.session_get(begun.id).await.map(drop)),
        ("session_replace", store.session_replace(begun.end(0)).await),
        ("sessions_of", store.sessions_of(&begun.user).await.map(drop)),
        ("user_clear_away", store.user_clear_away(&begun.user).await),
        // Now there is one to be found.
        ("sessions_ended", store.sessions_ended().await.map(drop)),
        // Last, since it looks at the sessions by the way, and that spares others a look of their own.
        ("changes_after", changes.await.map(drop)),
    ];
    results.into_iter().filter(|(_, result)| result.is_err()).map(|(method, _)| method).collect()
}

#[tokio::test]
async fn the_documented_rights_suffice_and_each_is_needed() {
    let without = NEEDED.map(|(privilege, _)| (format!("without_{privilege}"), role_without(privilege)));
    let mut roles = vec![("doorward", role("doorward")), ("doorward_migrate", role("doorward_migrate"))];
    roles.extend(without.iter().map(|(name, role)| (name.as_str(), role.clone())));
    let node = Node::locked(PASSWORD, &roles).await;

    assert_eq!(refused(&node, "doorward").await, BTreeSet::from(["open"]), "it cannot make indices");
    let made = ElasticStore::open(&config(&node, "doorward_migrate", PASSWORD)).await.unwrap();
    made.user_create(user("alice"), hash("hash")).await.unwrap();
    assert_eq!(refused(&node, "doorward").await, BTreeSet::new());
    for (privilege, methods) in NEEDED {
        let refused = refused(&node, &format!("without_{privilege}")).await;
        let missed = methods.iter().all(|method| refused.contains(method));
        assert!(missed, "without {privilege} only {refused:?} are refused");
    }

    // As after a restore, which leaves the sessions out.
    let sessions = format!("{}/{PREFIX}-sessions-000001", node.url());
    let delete = reqwest::Client::new().delete(sessions).basic_auth(ADMIN, Some(PASSWORD));
    delete.send().await.unwrap().error_for_status().unwrap();
    let run_time = config(&node, "doorward", PASSWORD);
    assert!(matches!(ElasticStore::open(&run_time).await, Err(OpenError::Missing { .. })));
    migrate(&config(&node, "doorward_migrate", PASSWORD), &[Rebuild::Sessions], &|_| {}).await.unwrap();
    let restored = ElasticStore::open(&run_time).await.unwrap();
    assert!(restored.user_get(&name("alice")).await.unwrap().is_some());

    let home = Home::elastic(Indices::at(node.url(), 1));
    let command = home.command(&[("DOORWARD_ES_USERNAME", "doorward"), ("DOORWARD_ES_PASSWORD", "wrong")]);
    let ended = Process::run(command, "").await;
    let line = "doorward: store: ES_URL: Elasticsearch refuses our credentials (401); see DOORWARD_ES_API_KEY, or \
                DOORWARD_ES_USERNAME and DOORWARD_ES_PASSWORD\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), line));
}
