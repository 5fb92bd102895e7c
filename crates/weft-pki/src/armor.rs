//! The outer form of tokens: `<kind><version>-<base64url of payload and checksum>`.
//!
//! The checksum is CRC-32C (RFC 3720, appendix B.4), which finds every burst of errors up to 32
//! bits and so any one mistyped character, or two exchanged neighbours. It tells a mistyped token
//! from a wrong one; it is no protection against forgery, which the secret inside is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::TokenError;

/// Longest token that is read, in characters.
pub(crate) const MAX_TOKEN_CHARS: usize = 8192;
const CHECKSUM_BYTES: usize = 4;
const VERSION: &str = "1";

/// One kind of token.
pub(crate) struct Armor {
    /// What a token of this kind begins with, before its version.
    pub(crate) prefix: &'static str,
    /// What it is called in messages.
    pub(crate) name: &'static str,
}

impl Armor {
    /// The text of a payload.
    pub(crate) fn seal(&self, payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend(crc32c::crc32c(payload).to_be_bytes());
        format!("{}{VERSION}-{}", self.prefix, URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The payload of a text. White space anywhere is ignored: terminals break long lines.
    pub(crate) fn open(&self, text: &str) -> Result<Vec<u8>, TokenError> {
        if text.len() > MAX_TOKEN_CHARS {
            return Err(self.malformed("it is too long"));
        }
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let body = self.body(&text)?;
        let mut payload = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Checksum)?;
        let at = payload
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(TokenError::Checksum)?;
        let checksum = payload.split_off(at);
        if checksum != crc32c::crc32c(&payload).to_be_bytes() {
            return Err(TokenError::Checksum);
        }
        Ok(payload)
    }

    fn body<'a>(&self, text: &'a str) -> Result<&'a str, TokenError> {
        let not_one = || self.malformed("it does not begin as one");
        let (version, body) = text
            .strip_prefix(self.prefix)
            .and_then(|rest| rest.split_once('-'))
            .ok_or_else(not_one)?;
        if version == VERSION {
            return Ok(body);
        }
        if version.is_empty() || version.len() > 4 || !version.bytes().all(|b| b.is_ascii_digit()) {
            return Err(not_one());
        }
        Err(TokenError::WrongVersion {
            found: version.to_owned(),
        })
    }

    pub(crate) fn malformed(&self, why: &'static str) -> TokenError {
        TokenError::Malformed {
            expected: self.name,
            why,
        }
    }
}
