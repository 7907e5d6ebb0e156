//! Pages of any bytes.

use super::bytes::lossy;
use llama3_core::html::{main_text, page_text};

/// A page is read whatever it holds, from its bytes as from its text.
pub fn html(data: &[u8]) {
    let page = page_text(data);
    assert!(page.undecodable <= page.characters);
    if page.encoding == "UTF-8" && !data.starts_with(b"\xef\xbb\xbf") {
        assert_eq!(page.text, main_text(&lossy(data)));
    }
}
