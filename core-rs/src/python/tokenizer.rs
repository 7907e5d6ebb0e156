//! Python names: `Bpe`, `BpeTrainer`, `BpeStream`, `TokenizerError`. Text in, NumPy arrays out; the GIL is released
//! while encoding, decoding and training.

use crate::tokenizer::split::llama3;
use crate::tokenizer::{Allowed, Error, Options, Tokenizer, Trainer, Utf8Stream, formats};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyString};
use std::sync::{Arc, Mutex, PoisonError};

pyo3::create_exception!(
    _core,
    TokenizerError,
    PyValueError,
    "A tokenizer file, id or name is unusable. args: (code, fields), as llama3.errors.from_core reads them."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        TokenizerError::new_err((error.code(), error.fields()))
    }
}

type Ids<'py> = Bound<'py, PyArray1<u32>>;

/// Name, id, (lstrip, rstrip, normalized, special) and role of a token that a file beside tokenizer.json states.
type StatedToken = (String, Option<u32>, [bool; 4], Option<String>);

/// An immutable byte-level BPE tokenizer.
#[pyclass(frozen, module = "llama3._core")]
struct Bpe {
    inner: Arc<Tokenizer>,
}

/// `allowed_special` of Python: a list of names, or "all".
#[derive(FromPyObject)]
enum AllowedArgument {
    #[pyo3(transparent)]
    Word(String),
    #[pyo3(transparent)]
    Names(Vec<String>),
}

impl Bpe {
    fn wrap(tokenizer: Tokenizer) -> Self {
        Self {
            inner: Arc::new(tokenizer),
        }
    }

    fn allow(&self, argument: AllowedArgument) -> PyResult<Allowed> {
        match argument {
            AllowedArgument::Word(word) if word == "all" => Ok(Allowed::All),
            AllowedArgument::Word(word) => {
                let what =
                    format!("allowed_special is {word:?}; it must be \"all\" or a set of names");
                Err(PyValueError::new_err(what))
            }
            AllowedArgument::Names(names) => Ok(self.inner.added().allow(&names)?),
        }
    }
}

#[pymethods]
impl Bpe {
    /// From base tokens in the order of their ids and special tokens (id, name).
    #[new]
    fn new(
        py: Python<'_>,
        tokens: Vec<PyBackedBytes>,
        specials: Vec<(u32, String)>,
    ) -> PyResult<Self> {
        let tokens: Vec<Vec<u8>> = tokens.iter().map(|token| token.to_vec()).collect();
        Ok(Self::wrap(py.detach(|| Tokenizer::new(&tokens, specials))?))
    }

    /// From the content of a tiktoken .model file; `specials` name the ids after its tokens.
    #[staticmethod]
    fn from_tiktoken(py: Python<'_>, data: PyBackedBytes, specials: Vec<String>) -> PyResult<Self> {
        let build = || {
            let tokens = formats::tiktoken::parse(&data)?;
            let first = tokens.len() as u32;
            Tokenizer::new(&tokens, (first..).zip(specials).collect())
        };
        Ok(Self::wrap(py.detach(build)?))
    }

    /// From the content of a Hugging Face tokenizer.json, and added tokens that other files state: (name, id or None,
    /// (lstrip, rstrip, normalized, special), role: "edge", "other" or None).
    #[staticmethod]
    #[pyo3(signature = (data, stated=Vec::new()))]
    fn from_json(py: Python<'_>, data: PyBackedBytes, stated: Vec<StatedToken>) -> PyResult<Self> {
        let as_stated = |(name, id, flags, role): StatedToken| {
            let [lstrip, rstrip, normalized, special] = flags;
            let role = role.map(|role| match role.as_str() {
                "edge" => formats::hf::Role::Edge,
                _ => formats::hf::Role::Other,
            });
            formats::hf::Stated {
                name,
                id,
                lstrip,
                rstrip,
                normalized,
                special,
                role,
            }
        };
        let stated = stated.into_iter().map(as_stated).collect();
        Ok(Self::wrap(py.detach(|| formats::hf::parse(&data, stated))?))
    }

    /// The same tokenizer, to which these added tokens are control tokens.
    fn with_special(&self, names: Vec<String>) -> PyResult<Self> {
        Ok(Self::wrap(self.inner.with_special(&names)?))
    }

    /// Content of a tiktoken .model file (base tokens only).
    fn to_tiktoken<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| formats::tiktoken::write(&self.inner))?;
        Ok(PyBytes::new(py, &data))
    }

    /// Content of a tokenizer.json; with `bos`, that token is put before a text encoded with special tokens.
    #[pyo3(signature = (bos=None))]
    fn to_json<'py>(&self, py: Python<'py>, bos: Option<String>) -> PyResult<Bound<'py, PyBytes>> {
        let write = || {
            let bos = match &bos {
                Some(name) => {
                    let id = self
                        .inner
                        .added()
                        .id(name)
                        .ok_or_else(|| Error::UnknownSpecial(name.clone()))?;
                    Some((name.as_str(), id))
                }
                None => None,
            };
            formats::hf::write(&self.inner, bos)
        };
        let data = py.detach(write)?;
        Ok(PyBytes::new(py, &data))
    }

    #[pyo3(signature = (text, allowed, meta_compat, bos=None, eos=None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: PyBackedStr,
        allowed: AllowedArgument,
        meta_compat: bool,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> PyResult<Ids<'py>> {
        let allowed = self.allow(allowed)?;
        let options = Options {
            meta_compat,
            bos,
            eos,
        };
        Ok(py
            .detach(|| self.inner.encode(&text, &allowed, options))?
            .into_pyarray(py))
    }

    #[pyo3(signature = (texts, allowed, meta_compat, bos=None, eos=None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        allowed: AllowedArgument,
        meta_compat: bool,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> PyResult<(Ids<'py>, Bound<'py, PyArray1<u64>>)> {
        let allowed = self.allow(allowed)?;
        let options = Options {
            meta_compat,
            bos,
            eos,
        };
        let rows = py.detach(|| {
            let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
            self.inner.encode_batch(&texts, &allowed, options)
        })?;
        Ok((rows.ids.into_pyarray(py), rows.row_starts.into_pyarray(py)))
    }

    /// Any bytes, UTF-8 or not; no special tokens.
    fn encode_bytes<'py>(&self, py: Python<'py>, data: PyBackedBytes) -> PyResult<Ids<'py>> {
        Ok(py
            .detach(|| self.inner.encode_bytes(&data))?
            .into_pyarray(py))
    }

    fn count(
        &self,
        py: Python<'_>,
        text: PyBackedStr,
        allowed: AllowedArgument,
        meta_compat: bool,
    ) -> PyResult<usize> {
        let allowed = self.allow(allowed)?;
        let options = Options {
            meta_compat,
            ..Options::default()
        };
        Ok(py.detach(|| self.inner.count(&text, &allowed, options))?)
    }

    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.decode_ids(py, &ids)?))
    }

    /// Text of the ids; bytes that are no UTF-8 become U+FFFD.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<Bound<'py, PyString>> {
        let bytes = self.decode_ids(py, &ids)?;
        Ok(PyString::new(py, &String::from_utf8_lossy(&bytes)))
    }

    fn token_bytes<'py>(&self, py: Python<'py>, id: u32) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.inner.token_bytes(id)?))
    }

    fn stream(&self) -> BpeStream {
        BpeStream {
            inner: Arc::clone(&self.inner),
            utf8: Mutex::default(),
        }
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    #[getter]
    fn base_size(&self) -> usize {
        self.inner.vocab().len()
    }

    /// Special token that the tokenizer's file puts before every text.
    #[getter]
    fn first_id(&self) -> Option<u32> {
        self.inner.first()
    }

    /// Added tokens: (id, name, special), lowest id first.
    #[getter]
    fn added(&self) -> Vec<(u32, String, bool)> {
        let tokens = self.inner.added().iter();
        tokens
            .map(|token| (token.id, token.name.clone(), token.special))
            .collect()
    }

    /// Added tokens that take the whitespace beside them along: (id, the one before, the one after).
    #[getter]
    fn strips(&self) -> Vec<(u32, bool, bool)> {
        let tokens = self.inner.added().iter();
        tokens
            .filter(|token| token.lstrip || token.rstrip)
            .map(|token| (token.id, token.lstrip, token.rstrip))
            .collect()
    }

    fn hash(&self, py: Python<'_>) -> String {
        py.detach(|| self.inner.hash())
    }
}

impl Bpe {
    fn decode_ids(&self, py: Python<'_>, ids: &PyReadonlyArray1<'_, u32>) -> PyResult<Vec<u8>> {
        // Copied, because other Python threads may write to the array once the GIL is released.
        let ids: Vec<u32> = ids.as_array().to_vec();
        Ok(py.detach(|| self.inner.decode(&ids))?)
    }
}

/// Text of ids that arrive one by one.
#[pyclass(frozen, module = "llama3._core")]
struct BpeStream {
    inner: Arc<Tokenizer>,
    utf8: Mutex<Utf8Stream>,
}

#[pymethods]
impl BpeStream {
    /// The text that has become certain with this id.
    fn push(&self, id: u32) -> PyResult<String> {
        let bytes = self.inner.token_bytes(id)?;
        Ok(self
            .utf8
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes))
    }

    /// The rest; an unfinished character becomes U+FFFD.
    fn flush(&self) -> String {
        self.utf8
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

/// Counts the pieces of texts, then learns a vocabulary.
#[pyclass(frozen, module = "llama3._core")]
struct BpeTrainer {
    trainer: Mutex<Option<Trainer>>,
}

#[pymethods]
impl BpeTrainer {
    #[new]
    fn new() -> Self {
        Self {
            trainer: Mutex::new(Some(Trainer::default())),
        }
    }

    fn feed(&self, py: Python<'_>, texts: Vec<PyBackedStr>) -> PyResult<()> {
        py.detach(|| {
            let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
            let mut held = self.trainer.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_mut().map(|trainer| trainer.feed(&texts)).ok_or(())
        })
        .map_err(|()| finished())
    }

    /// Base tokens in the order of their ids; ends the training.
    fn finish<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let taken = self
            .trainer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let trainer = taken.ok_or_else(finished)?;
        let tokens = py.detach(|| trainer.finish(size))?;
        Ok(tokens.iter().map(|token| PyBytes::new(py, token)).collect())
    }
}

fn finished() -> PyErr {
    PyRuntimeError::new_err("this training has already been finished")
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Bpe>()?;
    module.add_class::<BpeStream>()?;
    module.add_class::<BpeTrainer>()?;
    module.add("LLAMA3_PATTERN", llama3::PATTERN)?;
    module.add("QWEN2_PATTERN", llama3::SINGLE_DIGITS_PATTERN)?;
    module.add("TokenizerError", module.py().get_type::<TokenizerError>())?;
    Ok(())
}
