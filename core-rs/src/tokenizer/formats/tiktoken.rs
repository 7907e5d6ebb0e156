//! tiktoken's `.model`: one line `base64(bytes) rank` per token, ranks 0, 1, 2, ... Special tokens are not in it.

use crate::tokenizer::{Error, MergeOrder, Tokenizer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Tokens in the order of their ranks. Lines may come in any order; every rank must be there once.
pub fn parse(data: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let lines = data.split(|&byte| byte == b'\n').enumerate();
    let mut ranked = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let parsed = parse_line(line);
        ranked.push(parsed.map_err(|reason| Error::Line {
            line: number + 1,
            reason,
        })?);
    }
    ranked.sort_unstable_by_key(|&(rank, _)| rank);
    if let Some((expected, _)) = ranked
        .iter()
        .enumerate()
        .find(|&(index, &(rank, _))| index != rank)
    {
        return Err(Error::Damaged(format!(
            "the ranks have a gap or a repeat at {expected}"
        )));
    }
    if ranked.is_empty() {
        return Err(Error::Damaged("the file holds no token".into()));
    }
    Ok(ranked.into_iter().map(|(_, token)| token).collect())
}

fn parse_line(line: &[u8]) -> Result<(usize, Vec<u8>), String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not text".to_string())?;
    let mut words = text.split_ascii_whitespace();
    let (Some(token), Some(rank), None) = (words.next(), words.next(), words.next()) else {
        return Err("should be `base64 rank`".into());
    };
    let token = STANDARD
        .decode(token)
        .map_err(|error| format!("bad base64: {error}"))?;
    let rank = rank
        .parse()
        .map_err(|error| format!("bad rank {rank:?}: {error}"))?;
    Ok((rank, token))
}

/// The file's bytes. Refused for what this format cannot say: another order of merges, another split rule, gaps.
pub fn write(tokenizer: &Tokenizer) -> Result<Vec<u8>, Error> {
    if let MergeOrder::Listed(_) = tokenizer.merges().order() {
        let what = "this tokenizer merges by a list that is not its rank order; a .model file cannot hold that";
        return Err(Error::Unsupported(what.into()));
    }
    if !tokenizer.is_llama3_kind() {
        let what = "this tokenizer does not split as Llama 3's; a .model file cannot hold that";
        return Err(Error::Unsupported(what.into()));
    }
    if let Some(rank) = tokenizer.vocab().tokens().position(<[u8]>::is_empty) {
        let what = format!("no base token has the id {rank}; a .model file cannot hold that");
        return Err(Error::Unsupported(what));
    }
    let mut text = String::new();
    for (rank, token) in tokenizer.vocab().tokens().enumerate() {
        STANDARD.encode_string(token, &mut text);
        text.push_str(&format!(" {rank}\n"));
    }
    Ok(text.into_bytes())
}
