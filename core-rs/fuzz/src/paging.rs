//! Any requests to the KV-cache pager, senseless ones included: each is carried out or refused, and the pool stays
//! sound.

use super::bytes::Bytes;
use llama3_core::paging::KvPool;

pub fn paging(data: &[u8]) {
    let mut input = Bytes(data);
    let (blocks, size) = (input.below(24), input.below(6));
    let (rows, width) = (input.below(7), input.below(9));
    let watermark = f64::from(input.byte()) / 128.0;
    let Ok(mut pool) = KvPool::new(blocks, size, rows, width, b"secret", watermark) else {
        return;
    };
    let mut pins = vec![];
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        request(&mut pool, &mut input, &mut pins);
        let findings = pool.check();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

fn request(pool: &mut KvPool, input: &mut Bytes, pins: &mut Vec<u64>) {
    match input.below(11) {
        0 | 1 => {
            let tokens = tokens(input);
            let (salt, room) = (input.take(1), length(input));
            let chain = pool.keys().chain(
                &tokens,
                pool.block_size(),
                salt,
                u64::from(input.byte() & 1),
            );
            let found = pool.match_len(&tokens, &chain);
            assert!(found <= tokens.len());
            let _ = pool.admit(&tokens, &chain, room);
        }
        2 | 3 => {
            let rows: Vec<i64> = (0..input.below(5)).map(|_| row(input)).collect();
            let tokens: Vec<u32> = (0..input.below(5)).map(|_| token(input)).collect();
            let mut slots = vec![0; rows.len()];
            if let Ok(done) = pool.step(&rows, &tokens, &mut slots) {
                assert!(done <= rows.len());
            }
        }
        4 => {
            let _ = pool.extend(row(input), length(input));
        }
        5 => {
            let row = row(input);
            let _ = pool.accept(row, &tokens(input));
        }
        6 => {
            let _ = pool.truncate(row(input), length(input));
        }
        7 => {
            let _ = pool.fork(row(input), length(input));
        }
        8 => {
            let _ = pool.free(row(input), input.flag());
        }
        9 => match pool.pin(row(input)) {
            Ok(pin) => pins.extend(pin),
            Err(_) => {
                let pin = pins.pop().unwrap_or(input.long());
                let _ = pool.unpin(pin);
            }
        },
        _ => match input.below(4) {
            0 => {
                pool.reset();
                pins.clear();
            }
            1 => {
                let _ = pool.take_copies();
            }
            _ => {
                pool.evict(length(input));
            }
        },
    }
}

/// Rows that run, rows beyond the table, and numbers that are none.
fn row(input: &mut Bytes) -> i64 {
    match input.byte() {
        255 => input.long() as i64,
        byte => i64::from(byte % 9) - 1,
    }
}

/// Mostly small; now and then any number.
fn length(input: &mut Bytes) -> usize {
    match input.byte() {
        255 => input.long() as usize,
        byte => usize::from(byte % 24),
    }
}

/// Few distinct ones, so that prefixes meet.
fn token(input: &mut Bytes) -> u32 {
    u32::from(input.byte() % 3)
}

fn tokens(input: &mut Bytes) -> Vec<u32> {
    (0..input.below(20)).map(|_| token(input)).collect()
}
