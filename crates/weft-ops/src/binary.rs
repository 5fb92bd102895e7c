//! Programs as bytes, for the wire and the journal, where a million tasks carry one each.
//!
//! One byte says how many steps follow, its highest bit whether the program was written as a
//! list. Each step is a byte for the operation (low four bits) and which fields follow (high four
//! bits: immediate, offset, length), then these fields; numbers are little-endian.

use crate::{MAX_STEPS, Op, Program, Step};

const LIST: u8 = 0x80;
const HAS_IMM: u8 = 0x10;
const HAS_OFFSET: u8 = 0x20;
const HAS_LENGTH: u8 = 0x40;

/// Bytes that are no program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a program: {0}")]
pub struct DecodeError(&'static str);

impl Program {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.steps().len() * 2);
        // At most MAX_STEPS, which fits beside the highest bit.
        bytes.push(self.steps().len() as u8 | if self.is_list() { LIST } else { 0 });
        for step in self.steps() {
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            let fields = flag(step.imm != 0, HAS_IMM)
                | flag(step.offset.is_some(), HAS_OFFSET)
                | flag(step.length.is_some(), HAS_LENGTH);
            bytes.push(code(step.op) | fields);
            if step.imm != 0 {
                bytes.push(step.imm);
            }
            for number in [step.offset, step.length].into_iter().flatten() {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// When the bytes are no program, or more than one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let head = reader.byte()?;
        let count = usize::from(head & !LIST);
        if count == 0 || count > MAX_STEPS {
            return Err(DecodeError("no steps, or too many"));
        }
        let steps = (0..count)
            .map(|_| reader.step())
            .collect::<Result<Vec<_>, _>>()?;
        if !reader.0.is_empty() {
            return Err(DecodeError("bytes are left over"));
        }
        match (head & LIST != 0, steps.as_slice()) {
            (false, [step]) => Ok(Self::single(*step)),
            (false, _) => Err(DecodeError("several steps that are no list")),
            (true, _) => Self::list(steps).map_err(|_| DecodeError("no steps, or too many")),
        }
    }
}

fn code(op: Op) -> u8 {
    match op {
        Op::CountEq => 1,
        Op::Crc32c => 2,
        Op::Fnv64 => 3,
        Op::Xor => 4,
        Op::Add => 5,
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self
            .0
            .split_first()
            .ok_or(DecodeError("it ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let (first, rest) = self
            .0
            .split_first_chunk::<8>()
            .ok_or(DecodeError("it ends too early"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    fn step(&mut self) -> Result<Step, DecodeError> {
        let head = self.byte()?;
        let op = match head & 0x0f {
            1 => Op::CountEq,
            2 => Op::Crc32c,
            3 => Op::Fnv64,
            4 => Op::Xor,
            5 => Op::Add,
            _ => return Err(DecodeError("an unknown operation")),
        };
        if head & 0x80 != 0 {
            return Err(DecodeError("an unknown field"));
        }
        let imm = if head & HAS_IMM != 0 { self.byte()? } else { 0 };
        let offset = if head & HAS_OFFSET != 0 {
            Some(self.number()?)
        } else {
            None
        };
        let length = if head & HAS_LENGTH != 0 {
            Some(self.number()?)
        } else {
            None
        };
        Ok(Step {
            op,
            imm,
            offset,
            length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let op = prop_oneof![
            Just(Op::CountEq),
            Just(Op::Crc32c),
            Just(Op::Fnv64),
            Just(Op::Xor),
            Just(Op::Add)
        ];
        let step = (op, any::<u8>(), any::<Option<u64>>(), any::<Option<u64>>()).prop_map(
            |(op, imm, offset, length)| Step {
                op,
                imm,
                offset,
                length,
            },
        );
        proptest::collection::vec(step, 1..MAX_STEPS)
    }

    proptest! {
        #[test]
        fn programs_round_trip(steps in steps()) {
            let single = Program::single(steps[0]);
            prop_assert_eq!(Program::decode(&single.encode()), Ok(single));
            let list = Program::list(steps).unwrap();
            prop_assert_eq!(Program::decode(&list.encode()), Ok(list));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(program) = Program::decode(&bytes) {
                let _ = program.run(b"some input");
            }
        }
    }
}
