//! The operations themselves, with the widest vectors that the machine has.

use crate::Op;

/// The FNV-1a parameters for 64 bits.
const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// One operation under way.
#[derive(Clone, Debug)]
pub struct Accumulator {
    op: Op,
    imm: u8,
    value: u64,
    bytes: u64,
}

impl Accumulator {
    /// Nothing seen yet.
    pub fn new(op: Op, imm: u8) -> Self {
        let value = if op == Op::Fnv64 { FNV_OFFSET_BASIS } else { 0 };
        Self {
            op,
            imm,
            value,
            bytes: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.bytes = self.bytes.wrapping_add(data.len() as u64);
        self.value = match self.op {
            Op::CountEq => self.value + vectors::count_eq(data, self.imm),
            Op::Crc32c => u64::from(crc32c::crc32c_append(self.value as u32, data)),
            Op::Fnv64 => data.iter().fold(self.value, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
            }),
            // XOR of (byte ^ imm) is XOR of the bytes, and once more imm for an odd number of them.
            Op::Xor => {
                self.value
                    ^ u64::from(vectors::xor(data))
                    ^ (u64::from(self.imm) * (data.len() as u64 & 1))
            }
            Op::Add => self.value.wrapping_add(vectors::add(data, self.imm)),
        };
    }

    /// What was found, and over how many bytes.
    pub fn finish(self) -> (u64, u64) {
        (self.value, self.bytes)
    }
}

/// The same loops compiled for the baseline and, where the machine has it, for AVX2. They are
/// written so that the compiler turns them into vector code: fixed lanes, no carried dependency.
mod vectors {
    const LANES: usize = 64;
    /// A byte counts to 255 before it has to be emptied.
    const ROWS: usize = 255;

    macro_rules! dispatched {
        ($name:ident($($arg:ident: $kind:ty),*) -> $out:ty, $body:ident, $wide:ident) => {
            pub(super) fn $name($($arg: $kind),*) -> $out {
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") {
                    #[target_feature(enable = "avx2")]
                    fn $wide($($arg: $kind),*) -> $out {
                        $body($($arg),*)
                    }
                    // SAFETY: the machine has AVX2, as was just detected.
                    return unsafe { $wide($($arg),*) };
                }
                $body($($arg),*)
            }
        };
    }

    dispatched!(count_eq(data: &[u8], imm: u8) -> u64, count_eq_body, count_eq_wide);
    dispatched!(xor(data: &[u8]) -> u8, xor_body, xor_wide);
    dispatched!(add(data: &[u8], imm: u8) -> u64, add_body, add_wide);

    #[inline(always)]
    fn count_eq_body(data: &[u8], imm: u8) -> u64 {
        let mut total = 0u64;
        let (rows, rest) = data.as_chunks::<LANES>();
        for block in rows.chunks(ROWS) {
            let mut lanes = [0u8; LANES];
            for row in block {
                for (lane, byte) in lanes.iter_mut().zip(row) {
                    *lane += u8::from(*byte == imm);
                }
            }
            total += lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>();
        }
        total + rest.iter().filter(|byte| **byte == imm).count() as u64
    }

    #[inline(always)]
    fn xor_body(data: &[u8]) -> u8 {
        let mut lanes = [0u8; LANES];
        let (rows, rest) = data.as_chunks::<LANES>();
        for row in rows {
            for (lane, byte) in lanes.iter_mut().zip(row) {
                *lane ^= byte;
            }
        }
        lanes.iter().chain(rest).fold(0, |all, byte| all ^ byte)
    }

    /// Sums the eight bytes of a word: pairs, then a multiplication that adds the pairs up.
    #[inline(always)]
    fn add_body(data: &[u8], imm: u8) -> u64 {
        // Sixteen bits hold 257 bytes of 255.
        const PAIR_ROWS: usize = 128;
        let mut total = 0u64;
        let (rows, rest) = data.as_chunks::<LANES>();
        for block in rows.chunks(PAIR_ROWS) {
            let mut even = [0u16; LANES / 2];
            let mut odd = [0u16; LANES / 2];
            for row in block {
                let (pairs, _) = row.as_chunks::<2>();
                for ((even, odd), pair) in even.iter_mut().zip(&mut odd).zip(pairs) {
                    let pair =
                        u16::from_le_bytes([pair[0].wrapping_add(imm), pair[1].wrapping_add(imm)]);
                    *even += pair & 0xff;
                    *odd += pair >> 8;
                }
            }
            total += even
                .iter()
                .chain(&odd)
                .map(|lane| u64::from(*lane))
                .sum::<u64>();
        }
        total
            + rest
                .iter()
                .map(|byte| u64::from(byte.wrapping_add(imm)))
                .sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(op: Op, imm: u8, data: &[u8]) -> u64 {
        let bytes = data.iter().copied();
        match op {
            Op::CountEq => bytes.filter(|byte| *byte == imm).count() as u64,
            Op::Crc32c => {
                let crc = bytes.fold(!0u32, |crc, byte| {
                    (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                        (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
                    })
                });
                u64::from(!crc)
            }
            Op::Fnv64 => bytes.fold(FNV_OFFSET_BASIS, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
            }),
            Op::Xor => u64::from(bytes.fold(0, |all, byte| all ^ byte ^ imm)),
            Op::Add => bytes.map(|byte| u64::from(byte.wrapping_add(imm))).sum(),
        }
    }

    fn check(data: &[u8], imm: u8) {
        for op in [Op::CountEq, Op::Crc32c, Op::Fnv64, Op::Xor, Op::Add] {
            let mut accumulator = Accumulator::new(op, imm);
            accumulator.update(data);
            assert_eq!(
                accumulator.finish(),
                (naive(op, imm, data), data.len() as u64),
                "{op:?} imm {imm}"
            );
        }
    }

    #[test]
    fn every_length_and_alignment_agrees_with_the_definition() {
        let data: Vec<u8> = (0..400u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for length in 0..300 {
            for start in 0..8 {
                check(&data[start..start + length], (length % 256) as u8);
            }
        }
    }

    #[test]
    fn no_lane_overflows_on_long_runs_of_the_largest_byte() {
        check(&vec![255; 200_000], 255);
        check(&vec![255; 200_000], 0);
        check(&vec![0; 70_001], 0);
    }

    proptest! {
        #[test]
        fn random_data_agrees_with_the_definition(data in proptest::collection::vec(any::<u8>(), 0..40_000), imm: u8) {
            check(&data, imm);
        }
    }
}
