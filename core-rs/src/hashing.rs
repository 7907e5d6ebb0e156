//! Content hashes of files, used by artifacts and checkpoints.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// blake3 of a file's bytes as lower-case hex. Reads in 1 MiB pieces.
///
/// # Errors
/// Any I/O error of opening or reading the file.
pub fn blake3_file(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..read]);
    }
}

/// blake3 of bytes as lower-case hex.
#[must_use]
pub fn blake3_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_bytes_agree_across_the_buffer_border() {
        let path = std::env::temp_dir().join(format!("llama3-hash-{}", std::process::id()));
        let data: Vec<u8> = (0..(1usize << 20) + 17).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        assert_eq!(blake3_file(&path).unwrap(), blake3_bytes(&data));
        std::fs::remove_file(&path).unwrap();
    }
}
