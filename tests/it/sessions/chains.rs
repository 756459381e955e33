//! Chains of refreshes with lost answers, races and replays, held against a model.

use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{access, judged, log_in, refresh, registered, until};
use crate::support::{TestGateway, count};

/// Steps of one chain.
const STEPS: usize = 10;

/// A session as it must be.
struct Chain {
    /// All tokens that were given out, in order.
    given: Vec<Value>,
    /// How long ago, by the moved clock, the last took the place of the one before.
    age: Duration,
}

/// Nodes over the same users; one on the embedded store.
struct Nodes(Vec<TestGateway>);

impl Nodes {
    async fn start() -> Self {
        let first = TestGateway::start().await;
        let second = first.sibling().await;
        Self(std::iter::once(first).chain(second).collect())
    }

    fn any(&self, random: &mut StdRng) -> &TestGateway {
        self.0.choose(random).unwrap()
    }
}

impl Chain {
    fn newest(&self) -> &Value {
        self.given.last().unwrap()
    }

    /// Uses the newest token, at several nodes at once, and again where answers were lost: the successor is one.
    async fn go_on(&mut self, nodes: &Nodes, random: &mut StdRng) {
        let times = *[1, 1, 2, 5].choose(random).unwrap();
        let at: Vec<&TestGateway> = (0..times).map(|_| nodes.any(random)).collect();
        let answers = join_all(at.into_iter().map(|node| refresh(node, self.newest()))).await;
        let mut next: Vec<Value> =
            answers.into_iter().map(|answer| answer.expect("the newest token is good")).collect();
        if random.random_bool(0.3) {
            // All answers were lost; the client asks once more in time.
            let pause = Duration::from_secs(random.random_range(0..5));
            nodes.0.iter().for_each(|node| node.clock.advance(pause));
            next.push(refresh(nodes.any(random), self.newest()).await.expect("its answer was lost"));
        }
        let tokens: Vec<&Value> = next.iter().map(|next| &next["tokens"]["refresh_token"]).collect();
        assert!(tokens.iter().all(|token| *token == tokens[0]), "several successors");
        assert!(self.given.iter().all(|given| given["tokens"]["refresh_token"] != *tokens[0]), "given before");
        self.given.push(next.remove(0));
        self.age = Duration::ZERO;
    }

    /// Uses a token that was used before; whether the session must end by it.
    async fn replay(&self, nodes: &Nodes, random: &mut StdRng) -> bool {
        let back = random.random_range(1..self.given.len());
        let answer = refresh(nodes.any(random), &self.given[self.given.len() - 1 - back]).await;
        if back == 1 && self.age < Duration::from_secs(9) {
            let again = answer.expect("its answer may have been lost");
            assert_eq!(again["tokens"]["refresh_token"], self.newest()["tokens"]["refresh_token"]);
            return false;
        }
        assert_eq!(answer, Err(1004), "{back} back after {:?}", self.age);
        true
    }
}

#[tokio::test]
async fn s13_chains_hold_through_lost_answers_races_and_replays() {
    let nodes = Nodes::start().await;
    registered(&nodes.0[0], "alice").await;
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..count(15, 300) {
        let first = log_in(&nodes.0[0], "alice", &format!("chain {round}")).await;
        let mut chain = Chain { given: vec![first], age: Duration::ZERO };
        let mut ended = false;
        for _ in 0..STEPS {
            match random.random_range(0..10) {
                0..6 => chain.go_on(&nodes, &mut random).await,
                6..8 => {
                    // Never near the ten seconds: the real clock goes on, too.
                    let pause = Duration::from_secs(*[1, 20].choose(&mut random).unwrap());
                    nodes.0.iter().for_each(|node| node.clock.advance(pause));
                    chain.age += pause;
                }
                _ if chain.given.len() > 1 => ended = chain.replay(&nodes, &mut random).await,
                _ => {}
            }
            if ended {
                break;
            }
        }
        for node in &nodes.0 {
            // Known everywhere at last, and then no token of the chain is good for anything.
            until(if ended { 1004 } else { 0 }, async || judged(node, access(chain.newest())).await).await;
            if ended {
                for given in &chain.given {
                    assert_eq!(refresh(node, given).await, Err(1004));
                }
            }
        }
        if !ended {
            chain.go_on(&nodes, &mut random).await;
        }
    }
}
