"""The faults that the server must survive, and the tests that say so.

The oracle of all: every accepted request has exactly one last event, the greedy answers of others are unchanged, what
was taken (blocks of the cache, file descriptors, tasks) is given back, and readiness tells the truth.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

FAULTS = {
    "S1 huge bodies, heads and JSON, slow and half-closed sockets": (
        "serving/test_refusals_over_http.py::test_what_is_no_body",
        "serving/test_refusals_over_http.py::test_bodies_are_json_and_bounded",
        "serving/test_refusals_over_http.py::test_headers_are_bounded",
        "serving/test_refusals_over_http.py::test_a_request_that_does_not_come_is_not_waited_for",
        "serving/test_refusals_over_http.py::test_a_body_that_does_not_come_is_not_waited_for",
        "serving/test_refusals_over_http.py::test_a_second_request_that_never_ends_loses_its_connection",
        "serving/test_connections.py::test_what_is_no_request_is_told_so",
        "serving/test_connections.py::test_a_socket_that_is_half_closed_is_given_back",
        "serving/test_connections.py::test_a_thousand_idle_connections_keep_nobody_out",
        "serving/test_connections.py::test_a_client_that_does_not_read_loses_its_connection",
    ),
    "S2 abusive parameters": (
        "serving/test_any_body.py::test_any_body",
        "serving/test_refusals_over_http.py::test_abusive_parameters_of_a_completion",
        "serving/test_refusals_over_http.py::test_abusive_parameters_of_a_chat",
    ),
    "S3 schemas and patterns that blow up, a flood of schemas": (
        "serving/test_tools_over_http.py::test_a_schema_costs_no_more_than_it_may",
        "serving/test_tools_over_http.py::test_a_schema_that_cannot_be_used_is_refused",
        "serving/test_refusals_over_http.py::test_a_chain_of_references_is_bounded",
        "serving/test_hostile_inputs.py::test_a_flood_of_schemas_leaves_nothing_behind",
    ),
    "S4 templates of users, special tokens in texts": (
        "serving/test_refusals_over_http.py::test_abusive_parameters_of_a_chat",
        "serving/test_refusals_over_http.py::test_a_special_token_in_a_text_is_text",
    ),
    "S5 texts that poison a tokenizer, hostile tokenizers": (
        "serving/test_hostile_inputs.py::test_no_text_keeps_the_tokenizer_busy",
        "serving/test_hostile_inputs.py::test_half_a_character_is_refused",
        "serving/test_refusals_over_http.py::test_a_tokenizer_of_another_model_is_refused",
    ),
    "S6 clients that vanish": (
        "serving/test_ends_of_requests.py::test_a_client_may_leave_at_any_token",
        "serving/test_service_under_load.py::test_a_client_that_waits_for_the_whole_and_goes_away",
        "serving/test_service_under_load.py::test_a_waiting_request_that_is_left_is_never_begun",
        "serving/test_serving_soak.py::test_nothing_is_lost_and_nothing_leaks",
    ),
    "S7 the process killed, the engine's thread dead, a failing model": (
        "serving/test_faults_of_the_process.py::test_it_listens_nowhere_else_tells_no_secrets_and_its_end_is_an_error",
        "serving/test_ends_of_requests.py::test_the_end_of_the_engine_is_the_end_of_every_request",
        "serving/test_service_under_load.py"
        "::test_a_failing_model_ends_its_requests_with_an_error_and_the_next_are_answered",
    ),
    "S8 SIGTERM with long streams, a second one, the grace over": (
        "serving/test_service_under_load.py::test_while_it_drains_a_server_says_that_it_is_not_ready",
        "serving/test_service_under_load.py::test_a_stop_lets_what_is_under_way_end_and_takes_no_more",
        "serving/test_service_under_load.py::test_what_outlasts_the_grace_ends_with_an_error",
        "serving/test_guard_faults_over_http.py::test_a_check_that_waits_ends_with_the_grace_of_the_server",
        "serving/test_faults_of_the_process.py::test_told_to_stop_it_is_not_ready_finishes_and_leaves",
    ),
    "S9 ten times too much, a greedy tenant": (
        "serving/test_ends_of_requests.py::test_ten_times_too_much_is_answered_or_told_to_come_back",
        "serving/test_service_under_load.py::test_a_full_queue_says_when_to_come_back",
        "serving/test_service_under_load.py::test_keys_share_what_there_is",
        "serving/test_connections.py::test_a_client_fills_its_own_share_only",
    ),
    "S10 guards that raise, hang, answer nonsense, are slow": (
        "serving/test_guard_faults_over_http.py::test_a_guard_that_fails_refuses_what_it_judges_and_nothing_else",
        "serving/test_guard_faults_over_http.py::test_the_time_of_a_check_does_not_count_while_it_waits",
        "serving/test_guard_faults_over_http.py::test_what_waits_for_a_guard_is_bounded_for_each_key",
        "serving/test_guard_faults_over_http.py::test_a_guard_that_hangs_is_left_and_another_takes_its_place",
        "serving/test_guard_faults_over_http.py::test_a_guard_that_always_hangs_is_told_of_and_comes_back",
        "serving/test_guard_faults_over_http.py::test_what_is_too_long_is_refused_before_it_is_judged",
        "safety/test_guard_law.py::test_what_a_sound_guard_cannot_say_blocks",
    ),
    "S11 a full cache (what runs is never preempted; the next one waits)": (
        "serving/test_ends_of_requests.py::test_a_cache_that_is_full_is_waited_for",
    ),
    "S12 answers that tell of other requests": (
        "serving/test_hostile_inputs.py::test_what_one_tenant_says_is_in_no_answer_to_another",
        "serving/test_refusals_over_http.py::test_tenants_share_no_cached_prompts",
    ),
    "S13 addresses (nothing is fetched)": (
        "serving/test_hostile_inputs.py::test_media_are_refused_by_name_and_nothing_is_fetched_or_decoded",
        "serving/test_hostile_inputs.py::test_nothing_else_that_names_an_address_is_fetched",
    ),
    "S14 a route without a key": (
        "serving/test_refusals_over_http.py::test_no_route_is_open_without_a_key",
        "serving/test_refusals_over_http.py::test_who_has_a_key_is_answered",
    ),
    "S15 images and sounds that are bombs (none are taken)": (
        "serving/test_hostile_inputs.py::test_media_are_refused_by_name_and_nothing_is_fetched_or_decoded",
    ),
    "S16 paths in names": ("serving/test_hostile_inputs.py::test_a_name_is_never_a_path",),
    "S17 listeners beside the one, pickle": (
        "serving/test_faults_of_the_process.py::test_it_listens_nowhere_else_tells_no_secrets_and_its_end_is_an_error",
        "test_forbidden_calls.py::test_nothing_that_is_read_is_run",
    ),
    "S18 secrets and prompts in logs, forged lines": (
        "serving/test_faults_of_the_process.py::test_it_listens_nowhere_else_tells_no_secrets_and_its_end_is_an_error",
        "serving/test_serve_command.py::test_a_model_is_served_until_it_is_told_to_stop",
    ),
    "S19 few files, a full disk, a clock that jumps": (
        "serving/test_faults_of_the_process.py::test_with_few_files_and_a_full_disk_for_its_log_it_answers",
        "serving/test_connections.py::test_files_left_for_connections_are_fewer_than_the_process_may_open",
        "serving/test_ends_of_requests.py::test_a_clock_that_jumps_ends_nothing",
        "test_forbidden_calls.py::test_no_duration_is_told_by_a_clock_that_may_jump",
    ),
    "S20 bad new weights (there is no reload)": (
        "serving/test_faults_of_the_process.py::test_new_weights_are_for_the_next_process",
    ),
    "S21 a process that shares the model ends, or the first of them does": (
        "serving/test_shared_model.py::test_matrices_are_shared_and_a_lost_process_ends_every_answer_with_its_error",
        "serving/test_shared_model.py"
        "::test_no_process_outlives_the_first_and_one_that_is_idle_sees_that_another_has_gone",
    ),
}


@cache
def names_in(file):
    return {
        node.name
        for node in ast.parse((TESTS / file).read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_is_here():
    assert [fault.split()[0] for fault in FAULTS] == [f"S{number}" for number in range(1, 22)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_tests(fault):
    assert FAULTS[fault]
    for test in FAULTS[fault]:
        file, _, name = test.partition("::")
        assert name in names_in(file), test
