//! Standard input: an input without a name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use weft_types::{Failure, Reason};

use crate::Input;
use crate::outcome::storage;

/// Standard input that is carried to a task; more must be a named file.
pub(crate) const MAX_STDIN_BYTES: u64 = 16 << 20;

/// The bytes of an input without a name. Blocks when they are in a file.
///
/// # Errors
/// `invalid-spec` when there are too many, `storage-error` when they cannot be read.
pub(crate) fn read(input: &Input) -> Result<Option<Bytes>, Failure> {
    let bytes = match input {
        Input::Bytes { bytes, name: None } => bytes.clone(),
        Input::File {
            path,
            name: None,
            offset,
            length,
        } => {
            let length = length.unwrap_or(u64::MAX).min(MAX_STDIN_BYTES + 1);
            read_file(path, *offset, length)
                .map_err(|error| storage("cannot read the input", &error))?
        }
        _ => return Ok(None),
    };
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        let detail = format!("standard input has more than {MAX_STDIN_BYTES} bytes");
        return Err(Failure::new(Reason::InvalidSpec, detail)
            .with_next("give the input a name in `file` and read it by `{}`"));
    }
    Ok(Some(bytes))
}

fn read_file(path: &Path, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_input_without_a_name_is_standard_input_and_it_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "0123456789").unwrap();
        let part = |name: Option<&str>| Input::File {
            path: path.clone(),
            name: name.map(str::to_owned),
            offset: 8,
            length: Some(5),
        };
        assert_eq!(read(&part(None)).unwrap().as_deref(), Some(&b"89"[..]));
        assert_eq!(read(&part(Some("n"))).unwrap(), None);
        File::create(&path)
            .unwrap()
            .set_len(MAX_STDIN_BYTES + 1)
            .unwrap();
        let whole = Input::File {
            path: path.clone(),
            name: None,
            offset: 0,
            length: None,
        };
        assert_eq!(read(&whole).unwrap_err().reason, Reason::InvalidSpec);
    }
}
