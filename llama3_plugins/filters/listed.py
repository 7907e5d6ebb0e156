"""The built-in filters. Torch-free."""

from __future__ import annotations

from llama3.plugins import FilterSpec

FILTERS = (
    FilterSpec(
        name="c4",
        factory="llama3_plugins.filters.c4:C4",
        options="llama3_plugins.filters.c4:C4Options",
        summary="C4's rules for prose: lines that are no sentences go, and documents with too few",
    ),
    FilterSpec(
        name="dirty_words",
        factory="llama3_plugins.filters.dirty_words:DirtyWords",
        options="llama3_plugins.filters.dirty_words:DirtyWordsOptions",
        summary="words of your lists, counted by language",
    ),
    FilterSpec(
        name="fineweb",
        factory="llama3_plugins.filters.fineweb:FineWeb",
        options="llama3_plugins.filters.fineweb:FineWebOptions",
        summary="FineWeb's rules for the lines of prose",
    ),
    FilterSpec(
        name="gopher",
        factory="llama3_plugins.filters.gopher:Gopher",
        options="llama3_plugins.filters.gopher:GopherOptions",
        summary="quality and repetition rules of Gopher for prose, line shapes for code",
    ),
    FilterSpec(
        name="language",
        factory="llama3_plugins.filters.models:Language",
        options="llama3_plugins.filters.models:LanguageOptions",
        summary="languages that are kept, told by a fastText model such as lid.176.bin",
    ),
    FilterSpec(
        name="personal_data",
        factory="llama3_plugins.filters.personal_data:PersonalData",
        options="llama3_plugins.filters.personal_data:PersonalDataOptions",
        summary="e-mail, phone, card, IBAN, public IP, keys and tokens: documents dropped or spans masked",
    ),
    FilterSpec(
        name="quality",
        factory="llama3_plugins.filters.models:Quality",
        options="llama3_plugins.filters.models:QualityOptions",
        summary="a fastText classifier of your own or another's, and an encoder where that is in doubt",
    ),
    FilterSpec(
        name="repeated_lines",
        factory="llama3_plugins.filters.repeated_lines:RepeatedLines",
        options="llama3_plugins.filters.repeated_lines:RepeatedLinesOptions",
        summary="lines that repeat themselves, as logs do, and documents that are mostly such lines",
    ),
    FilterSpec(
        name="token_distribution",
        factory="llama3_plugins.filters.token_distribution:TokenDistribution",
        options="llama3_plugins.filters.token_distribution:TokenDistributionOptions",
        summary="documents whose words are not those of the corpus, by Kullback-Leibler divergence",
    ),
    FilterSpec(
        name="url_lists",
        factory="llama3_plugins.filters.url_lists:UrlLists",
        options="llama3_plugins.filters.url_lists:UrlListsOptions",
        summary="hosts, pages and words of addresses by your lists",
    ),
)
