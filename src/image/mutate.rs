//! Changes to inputs that were right, or wrong in a known way: what a fuzzer does, with a seed and
//! an end, so that every run of the tests makes the same ones.

/// Numbers that look random and are the same every time (Marsaglia's xorshift64*).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`; 0 if that is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = end.max(1) as u64;
        usize::try_from(self.next() % end).unwrap_or(0)
    }
}

/// Bytes that mean something to somebody.
const TELLING: [u8; 14] =
    [0, 1, b'.', b'/', b'0', b'7', b'8', b'-', b'"', b'{', b'}', 0x7f, 0x80, 0xff];

/// A few changes: bytes, runs, and whole blocks of 512 moved, doubled or lost.
pub(super) fn mutate(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(8) {
            0 => flip(&mut bytes, at, 1 << chance.below(8)),
            1 | 2 => set(&mut bytes, at, TELLING[chance.below(TELLING.len())]),
            3 => bytes.truncate(at),
            4 => {
                let run = bytes[at..bytes.len().min(at + chance.below(40))].to_vec();
                let to = chance.below(bytes.len());
                bytes.splice(to..to, run);
            }
            5 => drop(bytes.drain(at..bytes.len().min(at + chance.below(40)))),
            _ => blocks(&mut bytes, chance),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

fn flip(bytes: &mut [u8], at: usize, mask: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= mask;
    }
}

fn set(bytes: &mut [u8], at: usize, to: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = to;
    }
}

fn blocks(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let count = bytes.len() / 512;
    let from = chance.below(count) * 512;
    let Some(block) = bytes.get(from..from + 512).map(<[u8]>::to_vec) else { return };
    let to = chance.below(count) * 512;
    match chance.below(3) {
        0 => drop(bytes.drain(from..from + 512)),
        1 => drop(bytes.splice(to..to, block)),
        _ => bytes[to..to + 512].copy_from_slice(&block),
    }
}

/// Makes the checksums of a tar's headers right again, so that what was changed is looked at.
pub(super) fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
