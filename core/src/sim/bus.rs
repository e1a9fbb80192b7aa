//! A bus as unlike the native one as the contract allows: nothing is safe at once, tickets
//! complete late, in any order, and some fail. What the engine and the connections promise must
//! hold over it too.

use std::cell::Cell;
use std::collections::HashMap;

use super::*;
use crate::bus::{Appended, Keeps, RetainedPage};
use crate::guard::{Authorized, Stored};
use crate::message::Message;
use crate::ticket::{Hold, Ticket};

thread_local! {
    /// Which bus the worlds of this thread are over.
    static SLOW: Cell<bool> = const { Cell::new(false) };
}

/// See the module header. It carries and keeps like the native bus, which it wraps.
pub(crate) struct Slow {
    inner: Native,
    open: Mutex<Vec<Hold>>,
    declared: Mutex<HashMap<String, i64>>,
}

impl Slow {
    pub(crate) fn new(inner: Native) -> Self {
        Self {
            inner,
            open: Mutex::default(),
            declared: Mutex::default(),
        }
    }

    /// Lets one of the open tickets complete; which one is the caller's whim.
    pub(crate) fn complete(&self, whim: usize) {
        drop(self.take(whim));
    }

    /// Lets one of the open tickets fail.
    pub(crate) fn fail(&self, whim: usize) {
        if let Some(hold) = self.take(whim) {
            hold.fail();
        }
    }

    fn take(&self, whim: usize) -> Option<Hold> {
        let mut open = self.open.lock();
        let count = open.len();
        (count > 0).then(|| open.swap_remove(whim % count))
    }

    /// Completes whatever is open, the newest first.
    pub(crate) fn settle(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        open.into_iter().rev().for_each(drop);
    }

    /// Filters that somebody is said to want.
    pub(crate) fn wanted(&self) -> Vec<String> {
        let declared = self.declared.lock();
        let wanted = declared.iter().filter(|(_, count)| **count != 0);
        wanted.map(|(filter, _)| filter.clone()).collect()
    }
}

impl Bus for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn keeps(&self) -> Keeps {
        self.inner.keeps()
    }

    fn append(
        &self,
        batch: &[Authorized<Publication<'_>>],
        now: Now,
        taken: &mut dyn FnMut(usize, Appended),
    ) {
        self.inner.append(batch, now, &mut |place, appended| {
            taken(
                place,
                match appended {
                    Appended::Safe | Appended::Later(_) => {
                        let (ticket, hold) = Ticket::new();
                        self.open.lock().push(hold);
                        Appended::Later(ticket)
                    }
                    refused @ (Appended::Refused(_) | Appended::Full(_)) => refused,
                },
            );
        });
    }

    fn declare(&self, filter: TopicFilter<'_>, wanted: bool) {
        let mut declared = self.declared.lock();
        let count = declared.entry(filter.as_str().to_owned()).or_default();
        *count += if wanted { 1 } else { -1 };
    }

    fn retained(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        budget: usize,
        now: Now,
    ) -> RetainedPage {
        self.inner.retained(filter, after, budget, now)
    }

    fn poll(&self, batch: &mut Vec<Stored<Message>>) {
        self.inner.poll(batch);
    }

    fn tend(&self, now: Now) {
        self.inner.tend(now);
    }
}

/// Whether the worlds of this thread are over the slow bus.
pub(crate) fn is_slow() -> bool {
    SLOW.get()
}

/// Each test of `names` once more, over the slow bus; all tests of the file must be named.
macro_rules! once_more {
    ($(($module:ident, $file:literal): $($name:ident),* $(,)?;)*) => {
        $(
            #[test]
            fn $module() {
                let named = [$(stringify!($name)),*];
                let source = include_str!($file);
                assert_eq!(named.len(), source.matches("#[test]").count(), "name every test");
                SLOW.set(true);
                $(super::$module::$name();)*
            }
        )*
    };
}

once_more! {
    (sessions, "sessions.rs"):
        each_quality_of_service_runs_to_its_end_in_both_versions,
        mqtt_4_3_3_a_repeated_qos_2_publish_is_delivered_once,
        mqtt_4_4_0_1_what_was_not_acknowledged_is_sent_again_with_dup_in_order,
        a_clean_start_forgets_and_an_expired_session_is_gone,
        a_second_connection_takes_over_and_the_first_is_told,
        a_will_fires_at_once_later_or_never,
        silence_for_one_and_a_half_keep_alives_ends_the_connection,
        retained_messages_obey_retain_handling_and_the_empty_payload,
        many_retained_messages_come_in_pages_and_all_of_them,
        overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_identifiers,
        no_local_and_retain_as_published_are_honoured,
        a_message_expires_on_the_way_and_says_what_is_left,
        mqtt_3_1_2_24_a_message_that_is_too_large_for_the_client_is_not_sent,
        mqtt_3_3_4_9_more_than_the_receive_maximum_ends_the_connection,
        a_second_connect_and_a_malformed_packet_end_the_connection;
    (shared, "shared.rs"):
        a_group_shares_messages_evenly_among_those_who_are_there,
        a_member_that_lost_the_right_gets_nothing_and_the_others_get_its_share,
        leaving_a_group_leaves_nothing_behind,
        unacknowledged_and_waiting_messages_move_to_another_member,
        qos_2_stays_with_the_session_that_it_was_sent_to,
        what_a_member_refuses_goes_to_nobody_else;
    (flows, "flows.rs"):
        a_client_that_has_read_everything_holds_no_room_for_output,
        unacknowledged_messages_are_bounded_and_fewer_where_they_are_kept,
        aliases_are_used_within_what_the_client_takes,
        an_alias_is_not_set_where_it_would_make_the_packet_too_large,
        a_resumed_session_keeps_to_the_new_receive_maximum,
        answers_that_the_client_cannot_take_end_the_connection,
        acknowledging_what_was_never_sent_is_no_progress,
        pings_are_no_progress,
        refusals_and_repetitions_behind_a_held_acknowledgement_are_bounded,
        a_client_that_comes_and_goes_leaves_no_deadlines,
        a_connection_that_was_taken_over_publishes_no_more;
    (answers, "answers.rs"):
        mqtt_3_1_2_29_answers_say_a_code_and_nothing_more,
        mqtt_4_6_0_acknowledgements_keep_the_order_of_receipt;
    (quota, "quota.rs"):
        the_queues_of_a_principal_are_full_together_and_who_gets_more_loses_its_oldest,
        they_are_bounded_in_bytes_too,
        every_session_has_its_equal_part_whatever_the_others_hold,
        a_principal_with_few_sessions_has_as_much_in_each_as_if_it_were_alone,
        rule_13_a_receiver_whose_principal_is_full_slows_its_publishers_and_loses_nothing,
        rule_13_who_is_held_back_goes_on_when_another_session_has_made_room,
        rule_13_without_progress_it_is_ended_and_what_it_held_up_goes_on_at_its_own_cost,
        what_waited_counts_no_longer_when_it_is_sent_or_its_session_ends_or_begins_anew,
        a_walk_over_retained_messages_takes_no_room_from_other_sessions,
        a_principal_with_many_sessions_cannot_have_others_messages_refused_or_lost;
    (endings, "endings.rs"):
        a_disconnect_may_change_how_long_the_session_lives,
        a_disconnect_with_will_publishes_it_after_its_delay,
        a_will_expires_from_when_it_fires_and_goes_to_who_can_take_it;
    (conformance, "conformance.rs"):
        mqtt_3_3_2_what_belongs_to_the_application_is_forwarded_unaltered,
        mqtt_3_3_1_3_dup_is_not_passed_on_and_3_3_1_12_retain_is_not_without_asking,
        mqtt_3_3_1_5_to_8_only_a_retained_publish_touches_what_is_retained,
        mqtt_3_3_2_7_aliases_end_with_their_connection_and_3_3_2_12_all_are_taken,
        mqtt_3_8_4_and_3_9_3_each_filter_has_its_answer_in_its_order,
        mqtt_3_8_4_3_and_4_a_repeated_subscription_replaces_and_loses_nothing,
        mqtt_3_10_4_unsubscribe_answers_each_filter_and_compares_character_by_character,
        mqtt_3_10_4_3_what_was_begun_before_unsubscribe_is_completed,
        mqtt_4_3_an_identifier_stands_for_a_new_message_once_its_flow_is_over,
        mqtt_4_3_3_7_expiry_does_not_end_what_was_begun,
        mqtt_4_9_0_3_everything_else_is_answered_while_the_quota_is_zero,
        mqtt_2_2_1_4_an_identifier_in_use_is_not_given_again,
        mqtt_3_1_2_14_and_15_a_will_is_retained_if_it_says_so_and_keeps_its_properties,
        mqtt_4_12_an_auth_that_nobody_agreed_on_ends_the_connection,
        mqtt_3_14_nothing_follows_a_disconnect_in_either_direction,
        mqtt_4_7_3_4_topics_are_compared_as_they_are,
        mqtt_3_2_2_9_and_10_a_lower_maximum_qos_grants_less_and_refuses_more,
        mqtt_4_13_an_acknowledged_error_concerns_one_packet_only,
        mqtt_3_1_1_the_clean_session_flag_decides_what_is_kept,
        mqtt_4_8_0_2_of_3_1_1_what_could_not_be_stored_is_not_acknowledged,
        mqtt_4_7_2_1_a_leading_wildcard_does_not_touch_dollar_topics;
}
