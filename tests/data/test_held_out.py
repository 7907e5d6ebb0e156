"""Where there is something to hold out it is held out; what could not be measured is refused before it is trained."""

from __future__ import annotations

import pytest
from data_texts import prose
from test_curate import texts_of, write

from llama3.config.schema import Config
from llama3.data.corpus import Corpus, split_of
from llama3.data.curate import CurateOptions, curate
from llama3.data.holding_out import enough_for_one, held_out_documents
from llama3.errors import DataError
from llama3.given import curated


class Making:
    """Executes stages as a run does, without one."""

    def __init__(self, new_output):
        self._new_output = new_output
        self.asked = []

    def warn(self, lines):
        assert list(lines) == []

    def __call__(self, stage, key, options, **inputs):
        self.asked.append(options.held_out)
        out = self._new_output()
        stage(**inputs, options=options, out=out)
        return type("Made", (), {"path": out.path, "metrics": out.metrics})


def config_of(folder, held_out=1e-9):
    data = {"sources": [{"name": "files", "path": str(folder)}], "filters": [], "held_out": held_out}
    return Config.model_validate({"data": data})


@pytest.mark.parametrize("count", [2, 5])
def test_of_a_few_files_one_is_held_out(tmp_path, new_output, count):
    folder = write(tmp_path / "in", **{f"f{n}": prose(n) for n in range(count)})
    assert {split_of(str(folder / f"f{n}.txt"), 1e-9) for n in range(count)} == {"train"}
    make = Making(new_output)
    corpus = Corpus(curated(make, config_of(folder)).path)
    assert (len(texts_of(corpus, "held_out")), len(texts_of(corpus, "train"))) == (1, count - 1)
    assert len(make.asked) == 2


def test_what_holds_out_something_is_left_alone(tmp_path, new_output):
    folder = write(tmp_path / "in", **{f"f{n}": prose(n) for n in range(12)})
    make = Making(new_output)
    assert held_out_documents(curated(make, config_of(folder, 0.49))) > 0
    assert make.asked == [0.49]


def test_a_single_file_is_refused_before_a_model_is_trained(tmp_path, new_output):
    folder = write(tmp_path / "in", only=prose(1))
    made = Making(new_output)(curate, "curate", CurateOptions.of(config_of(folder)))
    assert held_out_documents(made) == 0
    with pytest.raises(DataError, match=r"of 1 documents none can be held out.*L3-DAT-090"):
        enough_for_one(made)
