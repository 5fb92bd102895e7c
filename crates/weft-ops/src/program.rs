//! Programs: one operation, or several over the same input.

use serde::{Deserialize, Serialize};

/// The most operations of one program.
pub const MAX_STEPS: usize = 64;

/// An operation on bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Counts the bytes equal to the immediate.
    CountEq,
    /// CRC-32C (Castagnoli), as in RFC 3720, appendix B.4.
    Crc32c,
    /// FNV-1a, 64 bits (Fowler, Noll and Vo; draft-eastlake-fnv).
    Fnv64,
    /// XOR over all bytes of (byte XOR immediate).
    Xor,
    /// Sum over all bytes of ((byte + immediate) mod 256).
    Add,
}

impl Op {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CountEq => "counteq",
            Self::Crc32c => "crc32c",
            Self::Fnv64 => "fnv64",
            Self::Xor => "xor",
            Self::Add => "add",
        }
    }
}

/// One operation with its immediate and the slice of the input it looks at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which operation.
    pub op: Op,
    /// Its immediate, 0 by default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub imm: u8,
    /// The first byte it looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes it looks at; all that follow by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

fn is_zero(imm: &u8) -> bool {
    *imm == 0
}

/// A program over one input.
///
/// As JSON either `{"op": …}` or `{"ops": [{"op": …}, …]}`; the form is kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Program {
    steps: Vec<Step>,
    is_list: bool,
}

impl Program {
    /// A program of one operation.
    pub fn single(step: Step) -> Self {
        Self {
            steps: vec![step],
            is_list: false,
        }
    }

    /// A program of several operations.
    ///
    /// # Errors
    /// A sentence for the user when there are none, or more than [`MAX_STEPS`].
    pub fn list(steps: Vec<Step>) -> Result<Self, String> {
        if steps.is_empty() || steps.len() > MAX_STEPS {
            return Err(format!(
                "`ops` has {} operations, not 1 to {MAX_STEPS}",
                steps.len()
            ));
        }
        Ok(Self {
            steps,
            is_list: true,
        })
    }

    /// Its operations, at least one.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether it was written as a list, so that its result is one as well.
    pub fn is_list(&self) -> bool {
        self.is_list
    }
}

/// Both written forms in one, so that an unknown field is named whichever form was meant.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<Op>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    imm: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ops: Option<Vec<Step>>,
}

impl TryFrom<Written> for Program {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            op,
            imm,
            offset,
            length,
            ops,
        } = written;
        match (op, ops) {
            (Some(op), None) => Ok(Self::single(Step {
                op,
                imm: imm.unwrap_or(0),
                offset,
                length,
            })),
            (None, Some(_)) if imm.is_some() || offset.is_some() || length.is_some() => {
                Err("`imm`, `offset` and `length` belong to each operation in `ops`".to_owned())
            }
            (None, Some(steps)) => Self::list(steps),
            (Some(_), Some(_)) => Err("give either `op` or `ops`".to_owned()),
            (None, None) => Err("missing field `op`".to_owned()),
        }
    }
}

impl From<Program> for Written {
    fn from(program: Program) -> Self {
        let nothing = Self {
            op: None,
            imm: None,
            offset: None,
            length: None,
            ops: None,
        };
        match program.steps.as_slice() {
            [step] if !program.is_list => Self {
                op: Some(step.op),
                imm: Some(step.imm).filter(|imm| *imm != 0),
                offset: step.offset,
                length: step.length,
                ..nothing
            },
            _ => Self {
                ops: Some(program.steps),
                ..nothing
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Program, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_round_trip() {
        for text in [
            r#"{"op":"xor","imm":42}"#,
            r#"{"op":"fnv64","offset":1,"length":2}"#,
            r#"{"ops":[{"op":"crc32c"},{"op":"add","imm":1}]}"#,
        ] {
            let program = parse(text).unwrap();
            assert_eq!(serde_json::to_string(&program).unwrap(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_word_on_what_is_wrong() {
        for (text, word) in [
            ("{}", "op"),
            (r#"{"op":"crc32"}"#, "crc32c"),
            (r#"{"op":"xor","imm":256}"#, "256"),
            (r#"{"op":"xor","imm":-1}"#, "-1"),
            (r#"{"op":"xor","imm":1.5}"#, "1.5"),
            (r#"{"op":"xor","offset":-1}"#, "-1"),
            (r#"{"op":"xor","lenght":1}"#, "lenght"),
            (r#"{"op":"xor","ops":[]}"#, "either"),
            (r#"{"ops":[]}"#, "0 operations"),
            (r#"{"ops":[{"op":"xor"}],"imm":1}"#, "imm"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let many = format!(
            r#"{{"ops":[{}]}}"#,
            vec![r#"{"op":"xor"}"#; MAX_STEPS + 1].join(",")
        );
        assert!(parse(&many).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
