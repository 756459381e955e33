//! Writes that others overtake, and operations that end half-way.

use std::time::{Duration, Instant};

use doorward::store::{PasswordChange, Store, StoreError, Unique};
use doorward::users::{Email, User};
use hyper::Method;

use super::{Faulty, end_reservations, open};
use crate::store::contract::{create, hash, name, next, user};
use crate::support::proxy::{Fault, FaultProxy, Rule, When};
use crate::support::{Indices, long_run};

/// Longer than these tests hold a request.
const LONG: Duration = Duration::from_secs(4);

/// Holds the first request of this method to the documents of a kind.
fn hold(proxy: &FaultProxy, method: Method, kind: &'static str) -> std::sync::Arc<Rule> {
    let matches = move |asked: &Method, path: &str| *asked == method && path.contains(&format!("-{kind}"));
    proxy.rule(matches, When::Times(1), Fault::Hold)
}

#[tokio::test]
async fn r08_a_write_that_cannot_be_recognised_any_more_is_unknown() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, LONG).await);
    create(&clean, &user("alice")).await;
    let lost = next(&user("alice"), |alice| alice.bio = "lost".into());
    // The answer is lost, and the second attempt comes after many writes by others.
    let second = hold(&faulty.proxy, Method::PUT, "users");
    faulty.proxy.rule(|method, _| method == Method::PUT, When::Times(1), Fault::CutAfter);
    let others = async {
        second.wait_for(1).await;
        let mut alice = lost.clone();
        for later in 0..9 {
            alice = next(&alice, |alice| alice.bio = format!("later {later}"));
            clean.user_replace(alice.clone(), PasswordChange::Keep).await.unwrap();
        }
        second.release();
    };
    let (answer, ()) = tokio::join!(faulty.store.user_replace(lost.clone(), PasswordChange::Keep), others);
    assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
}

#[tokio::test]
async fn r03_of_two_who_register_the_same_user_one_has_the_name_and_the_address() {
    let indices = Indices::new();
    let clean = open(&indices).await;
    let (first, second) = (Faulty::with_timeout(&indices, LONG).await, Faulty::with_timeout(&indices, LONG).await);
    // Both have reserved the address before one of them writes the user.
    let (first_write, second_write) =
        (hold(&first.proxy, Method::PUT, "users"), hold(&second.proxy, Method::PUT, "users"));
    let alice = user("alice");
    let second_create = async {
        first_write.wait_for(1).await;
        second.store.user_create(alice.clone(), hash("second")).await
    };
    let first_create = async {
        let created = first.store.user_create(alice.clone(), hash("first")).await;
        second_write.release();
        created
    };
    let order = async {
        second_write.wait_for(1).await;
        first_write.release();
    };
    let (created, refused, ()) = tokio::join!(first_create, second_create, order);
    assert!(created.is_ok(), "{created:?}");
    assert_eq!(refused, Err(StoreError::AlreadyExists(Unique::Username)));
    let email = alice.email.clone().unwrap();
    assert_eq!(clean.user_get_by_email(&email).await.unwrap().as_deref(), Some(&alice));
    let bob = User { email: Some(email), ..user("bob") };
    assert_eq!(clean.user_create(bob, hash("bob")).await, Err(StoreError::AlreadyExists(Unique::Email)));
}

#[tokio::test]
async fn r03_an_address_that_its_user_takes_back_is_not_given_up_by_the_change_before() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, LONG).await);
    let alice = user("alice");
    create(&clean, &alice).await;
    let moved = next(&alice, |alice| alice.email = Some(Email::parse("new@example.com").unwrap()));
    let back = next(&moved, |moved| moved.email = alice.email.clone());
    // The first change has been written and looks at the address to give up when the second one takes it back.
    let look = hold(&faulty.proxy, Method::GET, "emails");
    let second = async {
        look.wait_for(1).await;
        clean.user_replace(back.clone(), PasswordChange::Keep).await.unwrap();
        look.release();
    };
    let (first, ()) = tokio::join!(faulty.store.user_replace(moved, PasswordChange::Keep), second);
    first.unwrap();
    let email = alice.email.unwrap();
    assert_eq!(clean.user_get_by_email(&email).await.unwrap().as_deref(), Some(&back));
    let bob = User { email: Some(email), ..user("bob") };
    assert_eq!(clean.user_create(bob, hash("bob")).await, Err(StoreError::AlreadyExists(Unique::Email)));
}

#[tokio::test]
async fn r08_an_address_whose_user_never_came_is_usable_within_a_minute() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    let write = hold(&faulty.proxy, Method::PUT, "users");
    let alice = user("alice");
    tokio::select! {
        _ = faulty.store.user_create(alice.clone(), hash("hash")) => panic!("its write is held"),
        () = write.wait_for(1) => {}
    }
    // It ends between the reservation and the user.
    drop(faulty);
    let crashed = Instant::now();
    let bob = User { email: alice.email.clone(), ..user("bob") };
    let taken = Err(StoreError::AlreadyExists(Unique::Email));
    assert_eq!(clean.user_create(bob.clone(), hash("hash")).await, taken, "it may still be written");
    if long_run() {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        while clean.user_create(bob.clone(), hash("hash")).await == taken {
            ticks.tick().await;
        }
        eprintln!("the address was usable {:?} after the crash", crashed.elapsed());
        assert!(crashed.elapsed() <= Duration::from_secs(60));
    } else {
        end_reservations(&indices).await;
        create(&clean, &bob).await;
    }
    let email = alice.email.unwrap();
    assert_eq!(clean.user_get_by_email(&email).await.unwrap().unwrap().username, name("bob"));
}

#[tokio::test]
async fn r08_who_crashed_before_being_written_can_register_again_at_once() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::open(&indices).await);
    let write = hold(&faulty.proxy, Method::PUT, "users");
    tokio::select! {
        _ = faulty.store.user_create(user("alice"), hash("hash")) => panic!("its write is held"),
        () = write.wait_for(1) => {}
    }
    create(&clean, &user("alice")).await;
    // The crashed write may still arrive.
    write.release();
    write.wait_for_end().await;
    let email = user("alice").email.unwrap();
    assert_eq!(clean.user_get_by_email(&email).await.unwrap().as_deref(), Some(&user("alice")));
}
