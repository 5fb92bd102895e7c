//! Byte operations (`counteq`, `crc32c`, `fnv64`, `xor`, `add`) at memory speed.
//!
//! ```
//! let program: weft_ops::Program = serde_json::from_str(r#"{"op": "counteq", "imm": 97}"#)?;
//! let results = program.run(b"banana")?;
//! assert_eq!(serde_json::to_string(&results)?, r#"{"op":"counteq","count":3,"bytes":6}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Architecture invariant: no I/O, no clock, no randomness; the same program gives the same answer
//! on every machine. Which vector instructions the machine has changes only the speed.

mod accumulate;
mod binary;
mod program;
mod results;
mod run;

pub use accumulate::Accumulator;
pub use binary::DecodeError;
pub use program::{MAX_STEPS, Op, Program, Step};
pub use results::{OpResult, Results};
pub use run::{Run, SliceError};
