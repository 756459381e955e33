//! Many who want the same at once, on several nodes.

use doorward::store::elastic::ElasticStore;
use doorward::store::{Store, StoreError, Unique, Written};
use doorward::users::User;
use doorward::users::filter::Filter;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

use super::open;
use crate::store::contract::{hash, user};
use crate::support::{Home, Indices, PASSWORD, count};

async fn three(indices: &Indices) -> [ElasticStore; 3] {
    [open(indices).await, open(indices).await, open(indices).await]
}

/// How many users have an address.
async fn holders(store: &ElasticStore, email: &str) -> u64 {
    let filter = Filter::parse(&json!({"email": {"eq": email}})).unwrap();
    store.user_count(Some(filter)).await.unwrap()
}

#[tokio::test]
async fn r03_of_many_who_register_one_address_on_three_nodes_one_has_it() {
    let indices = Indices::new();
    let nodes = three(&indices).await;
    let rounds = count(2, 100);
    for round in 0..rounds {
        let address = user(&format!("round{round}")).email;
        let rivals: Vec<User> =
            (0..200).map(|at| User { email: address.clone(), ..user(&format!("r{round}u{at}")) }).collect();
        let answers =
            rivals.iter().enumerate().map(|(at, rival)| nodes[at % 3].user_create(rival.clone(), hash("hash")));
        let answers = join_all(answers).await;
        let winners: Vec<usize> = (0..200).filter(|&at| answers[at].is_ok()).collect();
        let taken = answers.iter().filter(|&answer| *answer == Err(StoreError::AlreadyExists(Unique::Email))).count();
        assert_eq!((winners.len(), taken), (1, 199), "round {round}");
        let address = address.unwrap();
        for node in &nodes {
            let holder = node.user_get_by_email(&address).await.unwrap().unwrap();
            assert_eq!(holder.username, rivals[winners[0]].username);
        }
        assert_eq!(holders(&nodes[winners[0] % 3], address.as_str()).await, 1);
    }
    eprintln!("{rounds} rounds of 200 on 3 nodes: one success each");
}

#[tokio::test]
async fn r03_of_many_who_register_the_same_user_on_three_nodes_one_has_name_and_address() {
    let indices = Indices::new();
    let nodes = three(&indices).await;
    for round in 0..count(10, 100) {
        let same = user(&format!("round{round}"));
        let answers = (0..30).map(|at| nodes[at % 3].user_create(same.clone(), hash("hash")));
        let answers = join_all(answers).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "round {round}: {answers:?}");
        let taken = |answer: &&Result<Written, StoreError>| matches!(answer, Err(StoreError::AlreadyExists(_)));
        assert_eq!(answers.iter().filter(taken).count(), 29, "round {round}: {answers:?}");
        let email = same.email.clone().unwrap();
        assert_eq!(nodes[0].user_get_by_email(&email).await.unwrap().as_deref(), Some(&same), "round {round}");
        let thief = User { email: Some(email), ..user(&format!("thief{round}")) };
        let refused = nodes[1].user_create(thief, hash("hash")).await;
        assert_eq!(refused, Err(StoreError::AlreadyExists(Unique::Email)), "round {round}");
    }
}

#[tokio::test]
async fn r03_of_many_who_register_one_address_at_three_gateways_one_has_it() {
    let home = Home::elastic(Indices::new());
    let patience = [("DOORWARD_HASH_QUEUE", "1000"), ("DOORWARD_CALL_TIMEOUT_SECONDS", "60")];
    let gateways = join_all((0..3).map(|_| home.start(&patience))).await;
    let (rounds, rivals) = (count(1, 100), count(30, 200));
    // A gateway may end a connection that was idle during a round just when the next one is to use it.
    let http = Client::builder().pool_max_idle_per_host(0).build().unwrap();
    for round in 0..rounds {
        let answers = (0..rivals).map(async |at| {
            let email = format!("round{round}@example.com");
            let params = json!({"username": format!("r{round}u{at}"), "email": email, "password": PASSWORD});
            let call = json!({"jsonrpc": "2.0", "id": 1, "method": "auth.register", "params": params});
            let url = format!("http://{}/rpc", gateways[at % 3].address);
            let answer = http.post(url).json(&call).send().await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            answer["error"]["code"].as_i64()
        });
        let answers = join_all(answers).await;
        assert_eq!(answers.iter().filter(|code| code.is_none()).count(), 1, "{answers:?}");
        assert!(answers.iter().flatten().all(|code| *code == 1202), "{answers:?}");
    }
    eprintln!("{rounds} rounds of {rivals} at 3 gateways: one success each");
}
