//! Parts of documents, replaced: what rules cut out or mask, all at once, whatever rules they come from.

use super::TextBatch;

/// Why a list of replacements is none of these documents.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EditError {
    #[error("replacement {index} is of document {document}, but there are {documents}")]
    NoDocument {
        index: usize,
        document: i64,
        documents: usize,
    },
    #[error("replacement {index}, bytes {start} to {end}, is no part of document {document}")]
    NoPart {
        index: usize,
        document: usize,
        start: i64,
        end: i64,
    },
}

/// Bytes `start` to `end` of the batch's buffer, within one document.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    pub document: i64,
    pub start: i64,
    pub end: i64,
    pub text: &'a str,
}

/// The documents with every part replaced, in any order given. Of parts that overlap the first (then the longest) is
/// replaced; of another only what lies behind it, by nothing.
///
/// # Errors
/// A part that is not whole characters of its document; nothing is replaced then.
pub fn replace(batch: TextBatch<'_>, edits: &[Edit<'_>]) -> Result<(Vec<u8>, Vec<i64>), EditError> {
    let mut parts = Vec::with_capacity(edits.len());
    for (index, edit) in edits.iter().enumerate() {
        parts.push(checked(batch, index, edit)?);
    }
    parts.sort_by_key(|&(document, start, end, _)| (document, start, std::cmp::Reverse(end)));
    let mut parts = parts.into_iter().peekable();
    let (mut data, mut offsets) = (vec![], vec![0]);
    for document in 0..batch.len() {
        let text = batch.get(document);
        let mut at = 0;
        while let Some((_, start, end, with)) = parts.next_if(|part| part.0 == document) {
            if start >= at {
                data.extend_from_slice(&text.as_bytes()[at..start]);
                data.extend_from_slice(with.as_bytes());
            }
            at = at.max(end);
        }
        data.extend_from_slice(&text.as_bytes()[at..]);
        offsets.push(data.len() as i64);
    }
    Ok((data, offsets))
}

/// (document, start, end, text), the places within the document's text.
fn checked<'a>(
    batch: TextBatch<'_>,
    index: usize,
    edit: &Edit<'a>,
) -> Result<(usize, usize, usize, &'a str), EditError> {
    let document = usize::try_from(edit.document)
        .ok()
        .filter(|&document| document < batch.len())
        .ok_or(EditError::NoDocument {
            index,
            document: edit.document,
            documents: batch.len(),
        })?;
    let within = |place: i64| {
        let place = usize::try_from(place)
            .ok()?
            .checked_sub(batch.start(document))?;
        batch.get(document).is_char_boundary(place).then_some(place)
    };
    match (within(edit.start), within(edit.end)) {
        (Some(start), Some(end)) if start <= end => Ok((document, start, end, edit.text)),
        _ => Err(EditError::NoPart {
            index,
            document,
            start: edit.start,
            end: edit.end,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(
        text: &str,
        offsets: &[i64],
        edits: &[(i64, i64, i64, &str)],
    ) -> Result<Vec<String>, EditError> {
        let edits: Vec<Edit<'_>> = edits
            .iter()
            .map(|&(document, start, end, text)| Edit {
                document,
                start,
                end,
                text,
            })
            .collect();
        let (data, offsets) = replace(TextBatch::new(text.as_bytes(), offsets).unwrap(), &edits)?;
        let text = String::from_utf8(data).unwrap();
        Ok(offsets
            .windows(2)
            .map(|ends| text[ends[0] as usize..ends[1] as usize].to_owned())
            .collect())
    }

    #[test]
    fn parts_go_in_any_order() {
        let edits = [(1, 6, 7, "X"), (0, 3, 5, ""), (0, 0, 2, "--")];
        assert_eq!(
            edited("abcdefgh", &[0, 5, 5 + 3], &edits).unwrap(),
            ["--c", "fXh"]
        );
        let overlapping = [(0, 2, 6, "<two>"), (0, 0, 4, "<one>"), (0, 0, 3, "no")];
        assert_eq!(
            edited("abcdefgh", &[0, 8], &overlapping).unwrap(),
            ["<one>gh"]
        );
        assert_eq!(edited("abc", &[0, 0, 3], &[]).unwrap(), ["", "abc"]);
    }

    #[test]
    fn parts_of_no_document_are_refused() {
        for edit in [
            (2, 0, 1, ""),
            (-1, 0, 1, ""),
            (0, 0, 4, ""),
            (1, 1, 3, ""),
            (0, 2, 1, ""),
            (1, 4, 5, ""),
        ] {
            assert!(edited("abcçd", &[0, 3, 6], &[edit]).is_err(), "{edit:?}");
        }
    }
}
