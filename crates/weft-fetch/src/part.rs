//! A part of what is at a URL, as an HTTP range (RFC 9110, section 14).

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderMap};

/// Some of the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub offset: u64,
    /// How many; all the rest when absent.
    pub length: Option<u64>,
}

/// What is left of a body's pieces that makes up the part.
#[derive(Debug)]
pub(crate) struct Cut {
    skip: u64,
    left: Option<u64>,
}

impl Part {
    pub(crate) fn is_all(self) -> bool {
        self == Self::default()
    }

    /// The value of `Range`; none for a part without bytes, which no range can say.
    pub(crate) fn header(self) -> Option<String> {
        match self.length {
            None => Some(format!("bytes={}-", self.offset)),
            Some(0) => None,
            Some(length) => {
                let last = self.offset.saturating_add(length - 1);
                Some(format!("bytes={}-{last}", self.offset))
            }
        }
    }

    /// How to get the part from an answer: a server need not know ranges, and answers with all then.
    ///
    /// # Errors
    /// When the answer is another part.
    pub(crate) fn cut(self, status: StatusCode, headers: &HeaderMap) -> Result<Cut, String> {
        let left = self.length;
        if status != StatusCode::PARTIAL_CONTENT {
            return Ok(Cut {
                skip: self.offset,
                left,
            });
        }
        let said = headers.get(CONTENT_RANGE);
        let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
        let first = said
            .strip_prefix("bytes ")
            .and_then(|range| range.split('-').next());
        match first.and_then(|first| first.parse::<u64>().ok()) {
            Some(first) if first == self.offset => Ok(Cut { skip: 0, left }),
            _ => Err(format!(
                "answers with another part than was asked for: {said:?}"
            )),
        }
    }
}

impl Cut {
    /// What of the next piece belongs to the part.
    pub(crate) fn of<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        let rest = &piece[skipped as usize..];
        let Some(left) = &mut self.left else {
            return rest;
        };
        let taken = (*left).min(rest.len() as u64);
        *left -= taken;
        &rest[..taken as usize]
    }

    /// Whether nothing more is needed.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// How many bytes are missing at the end of the body.
    pub(crate) fn missing(&self) -> u64 {
        self.skip + self.left.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(part: Part, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut cut = part.cut(StatusCode::OK, &HeaderMap::new()).unwrap();
        let mut all = Vec::new();
        for piece in pieces {
            all.extend_from_slice(cut.of(piece));
        }
        (all, cut.missing())
    }

    #[test]
    fn a_part_is_cut_out_of_all_whatever_the_pieces_are() {
        let pieces: &[&[u8]] = &[b"01", b"", b"2345", b"6789"];
        let part = |offset, length| Part { offset, length };
        assert_eq!(cut(part(0, None), pieces), (b"0123456789".to_vec(), 0));
        assert_eq!(cut(part(3, None), pieces), (b"3456789".to_vec(), 0));
        assert_eq!(cut(part(3, Some(4)), pieces), (b"3456".to_vec(), 0));
        assert_eq!(cut(part(8, Some(4)), pieces), (b"89".to_vec(), 2));
        assert_eq!(cut(part(12, Some(4)), pieces), (vec![], 6));
        assert_eq!(cut(part(3, Some(0)), pieces), (vec![], 0));
    }

    #[test]
    fn an_answer_with_another_part_is_refused() {
        let part = Part {
            offset: 5,
            length: Some(2),
        };
        assert_eq!(part.header().as_deref(), Some("bytes=5-6"));
        let says = |text: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
            part.cut(StatusCode::PARTIAL_CONTENT, &headers).is_ok()
        };
        assert!(says("bytes 5-6/10"));
        assert!(!says("bytes 0-1/10"));
        assert!(!says("garbage"));
    }
}
