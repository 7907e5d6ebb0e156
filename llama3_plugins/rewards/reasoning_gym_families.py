"""Which generators of reasoning-gym may be used: only those whose scorers do nothing with an answer but compare it.

Several scorers of the package evaluate the answer as Python or as a formula, some accept wrong answers, some can be
made to run for ever, and some generators do not give the same task twice. An answer is text that a model wrote, so
the families below were read one by one, and a test reads the installed scorers again.
"""

from __future__ import annotations

COMPARED = frozenset({
    "ab", "acre", "advanced_geometry", "aiw", "arc_1d", "arc_agi", "base_conversion", "basic_arithmetic",
    "binary_alternation", "bitwise_arithmetic", "caesar_cipher", "calendar_arithmetic", "chain_sum", "circuit_logic",
    "color_cube_rotation", "count_bits", "count_primes", "course_schedule", "cryptarithm", "decimal_arithmetic",
    "decimal_chain_sum", "dice", "emoji_mystery", "family_relationships", "figlet_font", "fraction_simplification",
    "futoshiki", "game_of_life", "gcd", "group_anagrams", "gsm_symbolic", "jugs", "kakurasu", "knights_knaves",
    "largest_island", "lcm", "leg_counting", "letter_counting", "letter_jumble", "list_functions", "mahjong_puzzle",
    "manipulate_matrix", "maze", "mini_sudoku", "modulo_grid", "needle_haystack", "number_filtering", "number_format",
    "number_sequence", "number_sorting", "palindrome_generation", "palindrome_partitioning", "path_star",
    "pool_matrix", "power_function", "prime_factorization", "products", "quantum_lock", "rearc", "rectangle_count",
    "rotate_matrix", "rotten_oranges", "self_reference", "sentence_reordering", "shortest_path", "simple_equations",
    "simple_geometry", "sokoban", "spell_backward", "string_manipulation", "string_splitting", "string_synthesis",
    "sudoku", "survo", "syllogism", "time_intervals", "tower_of_hanoi", "tsumego", "word_sequence_reversal",
    "word_sorting", "zebra_puzzles",
})  # fmt: skip
"""Families scored by the package's own scorer."""

EXACT = frozenset({"binary_matrix", "spiral_matrix", "string_insertion"})
"""Families whose scorers give full marks to the reference only, and evaluate other answers for partial credit: they
are scored here, by equality."""

_EVALUATES = "its scorer evaluates the answer"
_NO_REFERENCE = "its tasks have no worked answer"
_NOT_REPEATABLE = "its tasks differ from one process to the next"

REFUSED = {
    "bf": "its generator prints to standard output",
    "boxnet": _NO_REFERENCE,
    "codeio": "its generator executes programs of its data set",
    "coin_flip": "its scorer does not end for answers such as 1e999999999",
    "complex_arithmetic": "its scorer accepts the answer nan",
    "composite": "name its parts as families of their own",
    "countdown": _EVALUATES,
    "game_of_life_halting": "its scorer accepts any answer",
    "graph_color": _NO_REFERENCE,
    "intermediate_integration": _EVALUATES,
    "isomorphic_strings": _NOT_REPEATABLE,
    "knight_swap": _NOT_REPEATABLE,
    "n_queens": _EVALUATES,
    "polynomial_equations": "its scorer accepts any text where there is no solution",
    "polynomial_multiplication": _EVALUATES,
    "propositional_logic": _NO_REFERENCE,
    "puzzle24": _EVALUATES,
    "ransom_note": _NOT_REPEATABLE,
    "rubiks_cube": _NO_REFERENCE,
    "rush_hour": _NO_REFERENCE,
    "simple_integration": _EVALUATES,
    "word_ladder": _NOT_REPEATABLE,
}
"""Known families that are not offered, and why."""
