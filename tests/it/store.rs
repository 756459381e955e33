//! The contract of every store, and what only the embedded one has to show.
//!
//! The functions in `contract`, `lists` and `searches` know nothing but the trait, so that each home of the users
//! runs through the same ones.

#[path = "../../examples/people/mod.rs"]
mod people;

pub mod contract;
mod elastic;
mod killed;
mod lists;
mod rights;
mod searches;
pub mod sessions;
mod sqlite;

/// Makes a test of every function of the contract. `$open` makes an empty store; it is awaited and gives
/// something that derefs to `&dyn Store` for as long as it lives.
macro_rules! test_contract {
    ($open:path) => {
        test_contract! { $open:
            contract::a_user_is_given_back_as_it_was_created,
            contract::a_name_is_found_and_taken_in_any_case,
            contract::an_address_is_found_and_taken_in_any_case,
            contract::an_address_is_free_again_when_its_holder_has_changed_it,
            contract::a_replacement_must_follow_the_stored_revision,
            contract::of_concurrent_replacements_one_wins,
            contract::an_erased_user_keeps_the_name,
            contract::a05_the_last_active_admin_stays_whatever_is_tried_at_once,
            contract::a04_text_that_looks_like_a_query_is_only_text,
            contract::every_write_has_a_number_and_the_state_it_replaced,
            contract::changes_are_given_once_in_order_and_newest_only,
            contract::a_position_of_another_store_or_of_the_future_is_refused,
            contract::a_position_includes_every_write_that_returned,
            contract::a_password_is_set_kept_and_removed,
            contract::a_hash_is_upgraded_only_while_it_is_still_stored,
            contract::the_store_can_be_checked,
            lists::every_sort_gives_everybody_once_in_order_both_ways,
            lists::a_page_goes_on_behind_a_user_who_is_gone_from_there,
            lists::a_filtered_list_is_what_the_matcher_says,
            lists::a_prefix_takes_all_that_begins_with_it_and_nothing_else,
            lists::a_strange_page_key_is_refused,
            searches::hits_are_those_of_the_rules_best_first,
            searches::a_search_follows_every_change_of_a_name,
            searches::a_filtered_search_gives_only_matching_users,
            searches::counting_stops_at_its_limit_but_pages_go_on,
            searches::any_text_can_be_searched,
            searches::a_strange_page_key_is_refused_by_search,
            sessions::a_session_is_given_back_as_it_was_kept,
            sessions::a_state_of_a_session_must_follow_the_stored_one,
            sessions::s13_of_refreshes_at_once_one_wins,
            sessions::the_open_sessions_of_a_user_are_listed_oldest_first,
            sessions::sessions_that_expired_long_ago_are_cleared_away_for_a_new_one,
            sessions::sessions_are_too_many_beside_a_new_one_that_would_expire_first,
        }
    };
    ($open:path: $($module:ident::$test:ident,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                let home = $open().await;
                super::$module::$test(&*home).await;
            }
        )*
    };
}
use test_contract;
