//! Python names: `analyse`, `TEXT_STATISTICS`, `LINE_NUMBERS`, `LINE_FLAGS`, `line_repetition`, `citation_spans`,
//! `replace_spans`, `Phrases`, `WordDistribution`.
//!
//! Documents come in as one UTF-8 buffer and int64 offsets and are never copied; arrays go out.

use super::dedup::{Bytes, Offsets, refused, table, with_batch};
use crate::text::analysis::Analysis;
use crate::text::distribution::Distribution;
use crate::text::edits::{Edit, replace};
use crate::text::phrases::Phrases as PhraseList;
use crate::text::{line_facts as lines, statistics};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

type Analysed<'py> = (
    Bound<'py, PyArray2<f64>>,
    Vec<Bound<'py, PyArray1<i64>>>,
    Vec<Bound<'py, PyArray1<bool>>>,
);

#[pyfunction]
fn analyse<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
) -> PyResult<Analysed<'py>> {
    let Analysis { rows, lines } = with_batch(py, &data, &offsets, Analysis::of)?;
    let rows = table(py, rows.into_flattened(), statistics::NAMES.len())?;
    let numbers = lines.numbers.map(|column| column.into_pyarray(py));
    let flags = lines.flags.map(|column| column.into_pyarray(py));
    Ok((rows, numbers.into(), flags.into()))
}

#[pyfunction]
#[pyo3(signature = (data, offsets, *, ngram))]
fn line_repetition<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    ngram: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    if ngram == 0 {
        return Err(refused("ngram must be at least 1"));
    }
    let shares = with_batch(py, &data, &offsets, |batch| {
        lines::line_repetition(batch, ngram)
    })?;
    Ok(shares.into_pyarray(py))
}

#[pyfunction]
fn citation_spans<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let spans = with_batch(py, &data, &offsets, lines::citation_spans)?;
    table(py, spans.into_flattened(), 3)
}

type Documents<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<i64>>);

#[pyfunction]
fn replace_spans<'py>(
    py: Python<'py>,
    data: Bytes<'py>,
    offsets: Offsets<'py>,
    spans: PyReadonlyArray2<'py, i64>,
    texts: Vec<String>,
) -> PyResult<Documents<'py>> {
    let shape = spans.as_array().dim();
    if shape != (texts.len(), 3) {
        return Err(refused(format!(
            "spans of shape {shape:?} for {} texts",
            texts.len()
        )));
    }
    let edits: Vec<Edit<'_>> = spans
        .as_slice()?
        .chunks_exact(3)
        .zip(&texts)
        .map(|(span, text)| Edit {
            document: span[0],
            start: span[1],
            end: span[2],
            text,
        })
        .collect();
    let (data, offsets) =
        with_batch(py, &data, &offsets, |batch| replace(batch, &edits))?.map_err(refused)?;
    Ok((data.into_pyarray(py), offsets.into_pyarray(py)))
}

#[pyclass(module = "llama3._core", frozen)]
struct Phrases {
    list: PhraseList,
}

#[pymethods]
impl Phrases {
    #[new]
    fn new(phrases: Vec<String>) -> Self {
        Self {
            list: PhraseList::new(phrases.iter().map(String::as_str)),
        }
    }

    fn __len__(&self) -> usize {
        self.list.len()
    }

    fn count<'py>(
        &self,
        py: Python<'py>,
        data: Bytes<'py>,
        offsets: Offsets<'py>,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let counts = with_batch(py, &data, &offsets, |batch| self.list.count(batch))?;
        table(py, counts.into_flattened(), 2)
    }
}

#[pyclass(module = "llama3._core", frozen)]
struct WordDistribution {
    distribution: Distribution,
}

#[pymethods]
impl WordDistribution {
    #[new]
    #[pyo3(signature = (bits = 20))]
    fn new(bits: u32) -> PyResult<Self> {
        if bits > Distribution::MOST_BITS {
            return Err(refused(format!(
                "bits {bits} is more than {}",
                Distribution::MOST_BITS
            )));
        }
        Ok(Self {
            distribution: Distribution::new(bits),
        })
    }

    #[getter]
    fn total(&self) -> u64 {
        self.distribution.total()
    }

    fn add<'py>(&self, py: Python<'py>, data: Bytes<'py>, offsets: Offsets<'py>) -> PyResult<()> {
        with_batch(py, &data, &offsets, |batch| self.distribution.add(batch))
    }

    fn counts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        self.distribution.counts().into_pyarray(py)
    }

    fn add_counts(&self, counts: PyReadonlyArray1<'_, u64>) -> PyResult<()> {
        let (counts, buckets) = (counts.as_slice()?, self.distribution.buckets());
        if counts.len() != buckets {
            return Err(refused(format!(
                "{} counts for {buckets} buckets",
                counts.len()
            )));
        }
        self.distribution.add_counts(counts);
        Ok(())
    }

    fn divergence<'py>(
        &self,
        py: Python<'py>,
        data: Bytes<'py>,
        offsets: Offsets<'py>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let found = with_batch(py, &data, &offsets, |batch| {
            self.distribution.divergence(batch)
        })?;
        Ok(found.into_pyarray(py))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add(
        "TEXT_STATISTICS",
        PyTuple::new(module.py(), statistics::NAMES)?,
    )?;
    module.add("LINE_NUMBERS", PyTuple::new(module.py(), lines::NUMBERS)?)?;
    module.add("LINE_FLAGS", PyTuple::new(module.py(), lines::FLAGS)?)?;
    module.add_function(wrap_pyfunction!(analyse, module)?)?;
    module.add_function(wrap_pyfunction!(line_repetition, module)?)?;
    module.add_function(wrap_pyfunction!(citation_spans, module)?)?;
    module.add_function(wrap_pyfunction!(replace_spans, module)?)?;
    module.add_class::<Phrases>()?;
    module.add_class::<WordDistribution>()?;
    Ok(())
}
