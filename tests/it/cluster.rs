//! A cluster whose nodes die under load. `make test` runs this apart from all else: three servers need the machine.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::durability::consumer::Numbers;
use crate::durability::load::{Load, Plan};
use crate::durability::people;
use crate::feed::recorded::{Gateways, record, under_load_for_a_while};
use crate::support::elastic::Cluster;
use crate::support::network::is_own;
use crate::support::{Home, Indices, PATIENCE, count};

/// Primary shards of the users: one a node.
const SHARDS: usize = 3;
/// Changes that are acknowledged before a node is killed, without it, and after its return.
const ACKNOWLEDGED: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn r01_r04_when_the_node_of_a_primary_dies_every_acknowledged_change_and_every_position_stays() {
    let mut cluster = Cluster::start::<3>("384m").await;
    let indices = Indices::at(cluster.urls(), SHARDS);
    let users_index = format!("{}-users", indices.prefix);
    let home = Home::elastic(indices);
    let names = people::seed(&home).await;
    let settings = [("DOORWARD_LOG", "warn"), ("DOORWARD_TOKEN_SECONDS", "86400")];
    let gateways = [home.start(&settings).await, home.start(&settings).await, home.start(&settings).await];
    let token = people::keeper(gateways[0].address).await;
    let store = home.store().await;
    let mut consumer = people::consumer(&home, Numbers::AtLeastOnePerRevision).await;
    let (mut users, wrong) = people::catch_up(&mut consumer, &home, gateways[0].address, &token).await;
    assert_eq!(wrong, Vec::<String>::new());

    let kills = count(1, 12);
    let (mut acknowledged, mut untold, mut unanswered) = (0, 0, 0);
    for round in 0..kills {
        cluster.green().await;
        let plan = Plan {
            gateways: gateways.iter().map(|gateway| gateway.address).collect(),
            admin_token: token.clone(),
            round,
            seed: round as u64,
            users: names.clone(),
            may_fail: true,
        };
        let load = Load::start(plan, users).await;
        load.acknowledged(ACKNOWLEDGED).await;
        let positions = [consumer.position().clone(), people::position(&*store).await];
        let victim = cluster.primary_of(&users_index, round % SHARDS).await;
        let under_way = load.under_way();
        cluster.nodes[victim].kill().await;
        load.acknowledged(load.acknowledged_now() + ACKNOWLEDGED).await;
        cluster.nodes[victim].restart().await;
        load.acknowledged(load.acknowledged_now() + ACKNOWLEDGED).await;
        load.stop_sending();
        let history = load.end().await;
        cluster.green().await;

        for gateway in &gateways {
            gateway.becomes(200).await;
        }
        let gateway = gateways[round % gateways.len()].address;
        let (now, mut wrong) = people::catch_up(&mut consumer, &home, gateway, &token).await;
        users = now;
        wrong.extend(history.unexplained(&users));
        for position in positions {
            let (records, _) = people::changes_since(&*store, &position).await;
            wrong.extend(consumer.resume(&position, &records));
        }
        assert!(wrong.is_empty(), "kill {round}:\n{}", wrong.join("\n"));
        assert!(under_way >= 100, "only {under_way} calls were under way");
        acknowledged += history.acknowledged();
        unanswered += history.open();
        untold += history.untold(&users);
        let killed = round + 1;
        eprintln!(
            "{killed} of {kills} nodes killed, {acknowledged} changes acknowledged, {unanswered} of unknown outcome: \
             {untold} done"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_subscribers_miss_nothing_when_the_node_of_a_primary_dies() {
    let mut cluster = Cluster::start::<3>("384m").await;
    let indices = Indices::at(cluster.urls(), SHARDS);
    let users_index = format!("{}-users", indices.prefix);
    let (gateways, nodes) = Gateways::start(Home::elastic(indices), 3).await;
    let kills = async {
        for round in 0..count(1, 12) {
            cluster.green().await;
            under_load_for_a_while().await;
            let victim = cluster.primary_of(&users_index, round % SHARDS).await;
            cluster.nodes[victim].kill().await;
            under_load_for_a_while().await;
            cluster.nodes[victim].restart().await;
        }
        cluster.green().await;
        gateways
    };
    // Writes wait for the next primary, and servers that start take the machine: the load is what that leaves.
    record(nodes, Duration::ZERO, kills).await;
}

/// A node that is cut off goes on answering the gateways with what it knows, as if its copy were the primary still.
#[tokio::test(flavor = "multi_thread")]
async fn r04_subscribers_miss_nothing_when_the_node_of_a_primary_is_cut_off_and_still_answers() {
    if !is_own("cluster::r04_subscribers_miss_nothing_when_the_node_of_a_primary_is_cut_off_and_still_answers") {
        return;
    }
    let cluster = Cluster::apart::<3>("384m").await;
    let indices = Indices::at(cluster.urls(), 1);
    let users_index = format!("{}-users", indices.prefix);
    let (gateways, nodes) = Gateways::start(Home::elastic(indices), 2).await;
    let mut watcher = nodes.clone().connect().await;
    watcher.call("users.subscribe", json!({})).await.unwrap();
    // The cluster may have nothing to tell for a while; a frame that is none ends it.
    let closed =
        tokio::spawn(
            async move { while !matches!(tokio::time::timeout(PATIENCE / 2, watcher.frame()).await, Ok(None)) {} },
        );
    let cuts = async {
        for cut in 1..=count(1, 12) {
            cluster.green().await;
            under_load_for_a_while().await;
            let victim = cluster.primary_of(&users_index, 0).await;
            cluster.cut_off(victim);
            let began = Instant::now();
            let survivor = (victim + 1) % 3;
            while cluster.primary_known_to(survivor, &users_index, 0).await.is_none_or(|primary| primary == victim) {
                assert!(began.elapsed() < 3 * PATIENCE, "the others take over");
            }
            eprintln!("cut {cut}: another primary after {:?}", began.elapsed());
            for _ in 0..3 {
                under_load_for_a_while().await;
            }
            cluster.heal(victim);
        }
        cluster.green().await;
        gateways
    };
    record(nodes, Duration::ZERO, cuts).await;
    assert!(!closed.is_finished(), "a socket was closed");
}

#[tokio::test]
async fn a_write_is_answered_after_the_node_of_its_primary_was_killed() {
    let began = Instant::now();
    let mut cluster = Cluster::start::<3>("384m").await;
    eprintln!("three nodes started in {:?}", began.elapsed());
    let http = reqwest::Client::new();
    let settings = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 1}});
    let url = format!("{}/things", cluster.nodes[0].url());
    http.put(url).json(&settings).send().await.unwrap().error_for_status().unwrap();
    cluster.green().await;
    let victim = cluster.primary_of("things", 0).await;
    let survivor = cluster.nodes[(victim + 1) % 3].url();
    cluster.nodes[victim].kill().await;

    let began = Instant::now();
    let written = http.put(format!("{survivor}/things/_doc/1")).json(&json!({})).send().await.unwrap();
    assert_eq!(written.status(), 201);
    eprintln!("a write was answered {:?} after the primary's node was killed", began.elapsed());

    cluster.nodes[victim].restart().await;
    cluster.green().await;
}
