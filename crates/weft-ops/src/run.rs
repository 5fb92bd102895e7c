//! Running a program over an input, at once or piece by piece.

use crate::{Accumulator, OpResult, Program, Results, Step};

/// A slice that reaches beyond the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`offset` {offset} and `length` {length} reach beyond the input of {input_bytes} bytes")]
pub struct SliceError {
    /// The first byte that was asked for.
    pub offset: u64,
    /// How many bytes were asked for.
    pub length: u64,
    /// The size of the input.
    pub input_bytes: u64,
}

impl Program {
    /// Runs over an input in memory.
    ///
    /// # Errors
    /// When an operation's slice reaches beyond the input.
    pub fn run(&self, input: &[u8]) -> Result<Results, SliceError> {
        let mut run = Run::new(self);
        run.update(input);
        run.finish()
    }
}

/// A program under way over an input that arrives in pieces.
pub struct Run<'a> {
    program: &'a Program,
    accumulators: Vec<Accumulator>,
    seen: u64,
}

impl<'a> Run<'a> {
    /// Nothing seen yet.
    pub fn new(program: &'a Program) -> Self {
        let accumulators = program
            .steps()
            .iter()
            .map(|step| Accumulator::new(step.op, step.imm))
            .collect();
        Self {
            program,
            accumulators,
            seen: 0,
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        for (step, accumulator) in self.program.steps().iter().zip(&mut self.accumulators) {
            accumulator.update(part_of(step, self.seen, piece));
        }
        self.seen = self.seen.saturating_add(piece.len() as u64);
    }

    /// What was found.
    ///
    /// # Errors
    /// When an operation's slice reaches beyond the input.
    pub fn finish(self) -> Result<Results, SliceError> {
        let mut results = Vec::with_capacity(self.accumulators.len());
        for (step, accumulator) in self.program.steps().iter().zip(self.accumulators) {
            let offset = step.offset.unwrap_or(0);
            let wanted = step
                .length
                .map_or(offset, |length| offset.saturating_add(length));
            if wanted > self.seen {
                return Err(SliceError {
                    offset,
                    length: step.length.unwrap_or(0),
                    input_bytes: self.seen,
                });
            }
            let (value, bytes) = accumulator.finish();
            results.push(OpResult {
                op: step.op,
                value,
                bytes,
            });
        }
        Ok(Results {
            results,
            is_list: self.program.is_list(),
        })
    }
}

/// The part of a piece, which begins at `start` in the input, that a step looks at.
fn part_of<'p>(step: &Step, start: u64, piece: &'p [u8]) -> &'p [u8] {
    let first = step.offset.unwrap_or(0);
    let end = step
        .length
        .map_or(u64::MAX, |length| first.saturating_add(length));
    let within = |position: u64| {
        usize::try_from(position.saturating_sub(start))
            .unwrap_or(usize::MAX)
            .min(piece.len())
    };
    let (from, to) = (within(first), within(end));
    piece.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Vector {
        data: String,
        program: Program,
        result: serde_json::Value,
    }

    #[test]
    fn all_vectors_pass() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../tests/data/ops-vectors.json")).unwrap();
        assert!(vectors.len() >= 100);
        for vector in vectors {
            let data = base64::engine::general_purpose::STANDARD
                .decode(&vector.data)
                .unwrap();
            let found = serde_json::to_value(vector.program.run(&data).unwrap()).unwrap();
            assert_eq!(
                found,
                vector.result,
                "{:?} over {} bytes",
                vector.program,
                data.len()
            );
        }
    }

    #[test]
    fn a_slice_beyond_the_input_is_refused() {
        for text in [
            r#"{"op":"xor","offset":4}"#,
            r#"{"op":"xor","offset":2,"length":2}"#,
        ] {
            let program: Program = serde_json::from_str(text).unwrap();
            assert!(program.run(b"abc").is_err(), "{text}");
        }
        let extreme = format!(r#"{{"op":"xor","offset":{0},"length":{0}}}"#, u64::MAX);
        let program: Program = serde_json::from_str(&extreme).unwrap();
        assert!(program.run(b"abc").is_err());
        let at_the_end: Program = serde_json::from_str(r#"{"op":"counteq","offset":3}"#).unwrap();
        assert_eq!(at_the_end.run(b"abc").unwrap().results[0].bytes, 0);
    }

    proptest! {
        #[test]
        fn pieces_give_the_same_as_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(0..600usize, 0..6),
            offset in 0..100u64,
            length in 0..400u64,
        ) {
            let text = format!(
                r#"{{"ops":[{{"op":"crc32c"}},{{"op":"fnv64"}},{{"op":"add","imm":200}},
                    {{"op":"xor","imm":7,"offset":{offset},"length":{length}}},{{"op":"counteq","offset":{offset}}}]}}"#
            );
            let program: Program = serde_json::from_str(&text).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(data.len())).collect();
            cuts.sort_unstable();
            let mut run = Run::new(&program);
            let mut from = 0;
            for cut in cuts.into_iter().chain([data.len()]) {
                run.update(&data[from..cut]);
                from = cut;
            }
            prop_assert_eq!(run.finish(), program.run(&data));
        }
    }
}
